//! Pages of the cluster's lists: their tokens, as they are given out and come back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::sdk;
use crate::engine::EngineError;

/// The cluster's token of the page that is asked for, empty for the first one.
pub fn wanted(token: Option<&str>) -> Result<Vec<u8>, EngineError> {
    let Some(token) = token else {
        return Ok(Vec::new());
    };
    URL_SAFE_NO_PAD.decode(token).map_err(|_| {
        EngineError::Invalid(format!(
            "the page token {token:?} is none; give one that a page named"
        ))
    })
}

/// How the page is named that follows, where one does. The cluster names another page behind
/// each that is full, though nothing follows; so `peek` looks at the one behind a token, and
/// answers how many entries it has and which token it names.
pub async fn following<F>(token: Vec<u8>, peek: impl FnOnce(Vec<u8>) -> F) -> Option<String>
where
    F: Future<Output = Result<(usize, Vec<u8>), sdk::Status>>,
{
    if token.is_empty() {
        return None;
    }
    let named = URL_SAFE_NO_PAD.encode(&token);
    match peek(token).await {
        Ok((0, next)) if next.is_empty() => None,
        // Where it does not answer, the page is there all the same.
        _ => Some(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was_given_out() {
        assert!(wanted(None).unwrap().is_empty());
        let token = URL_SAFE_NO_PAD.encode([0, 255, 7]);
        assert_eq!(wanted(Some(&token)).unwrap(), [0, 255, 7]);
        assert!(matches!(wanted(Some("%")), Err(EngineError::Invalid(_))));
    }

    #[tokio::test]
    async fn a_page_that_has_nothing_and_names_none_does_not_follow() {
        let full = |_| std::future::ready(Ok((1, Vec::new())));
        assert_eq!(following(Vec::new(), full).await, None);
        let there = Some(URL_SAFE_NO_PAD.encode([1]));
        for (answer, follows) in [
            (Ok((0, Vec::new())), false),
            (Ok((1, Vec::new())), true),
            (Ok((0, vec![2])), true),
            (Err(sdk::Status::unavailable("away")), true),
        ] {
            let peek = |token: Vec<u8>| {
                assert_eq!(token, [1]);
                std::future::ready(answer)
            };
            let named = following(vec![1], peek).await;
            assert_eq!(named, there.clone().filter(|_| follows));
        }
    }
}
