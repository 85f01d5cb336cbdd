//! A model that is granted and not in this process: whether another one that takes the same
//! tasks has it decides whether another attempt is worth it.

use async_trait::async_trait;

use super::{Error, InferenceCode};

/// Knows which models other processes have.
#[async_trait]
pub trait Elsewhere: Send + Sync + 'static {
    /// The queues whose workers have that model, of those that take tasks of that namespace.
    ///
    /// # Errors
    /// When that cannot be known now; why, for the host's log.
    async fn queues_with(&self, namespace: &str, model: &str) -> Result<Vec<String>, String>;
}

/// What a guest is told of a model that is granted and not here. `queues` are those whose
/// workers have it, as [`Elsewhere`] says.
pub(super) fn missing(model: &str, queue: &str, queues: Result<&[String], &str>) -> Error {
    match queues {
        Err(cause) => {
            tracing::warn!(model, cause, "nobody can say which worker has a model");
            Error::new(
                InferenceCode::Unavailable,
                format!(
                    "the model {model} is granted but not on this worker, and which other one has \
                     it cannot be asked now"
                ),
            )
        }
        Ok(queues) if queues.iter().any(|it| it == queue) => Error::new(
            InferenceCode::Unavailable,
            format!(
                "the model {model} is granted but not on this worker; another worker of the queue \
                 {queue} has it, which the next attempt may come to. All workers of a queue need \
                 the models that its activities ask for"
            ),
        ),
        Ok([]) => Error::new(
            InferenceCode::UnknownBinding,
            format!(
                "the model {model} is granted but no worker has it: import it where the workers \
                 of the queue {queue} run; `heyday model list` shows who has which"
            ),
        ),
        Ok(queues) => Error::new(
            InferenceCode::UnknownBinding,
            format!(
                "the model {model} is granted but no worker of the queue {queue} has it; workers \
                 of these have it: {}. Send the activity there, or import the model here too",
                queues.join(", ")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode as _;

    #[test]
    fn another_attempt_is_worth_it_where_it_may_find_the_model() {
        let queues = |names: &[&str]| -> Vec<String> {
            let names = names.iter().map(|&name| name.to_owned());
            names.collect()
        };
        let (both, other) = (queues(&["gpu", "large"]), queues(&["large"]));
        let with = InferenceCode::Unavailable;
        let without = InferenceCode::UnknownBinding;
        for (found, code, told) in [
            (Ok(&both[..]), with, "another worker of the queue gpu"),
            (Err("it is away"), with, "cannot be asked"),
            (Ok(&other[..]), without, "of these have it: large"),
            (Ok(&other[..0]), without, "no worker has it: import it"),
        ] {
            let error = missing("small", "gpu", found);
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(told), "{error}");
            assert_eq!(error.code.retryable(), code == with, "{error}");
            assert!(!error.message.contains("is away"), "{error}");
        }
    }
}
