//! What endpoints answer, and whether it can be that.

use serde::Deserialize;

use super::texts::Found;

/// Bytes around an answer's numbers.
const AROUND: usize = 64 << 10;
/// Bytes of a number as JSON, the separator included, and of what stands around a vector.
const NUMBER: usize = 40;
const ITEM: usize = 1_024;

/// Bytes of the largest answer of embeddings.
pub(super) const fn embeddings_bytes(texts: usize, dimensions: usize) -> usize {
    AROUND + texts * (ITEM + dimensions * NUMBER)
}

/// Bytes of the largest answer of scores: some send the documents back, escaped.
pub(super) fn scores_bytes(documents: &[&str]) -> usize {
    let texts: usize = documents.iter().map(|text| text.len()).sum();
    AROUND + documents.len() * ITEM + texts * 6
}

#[derive(Deserialize)]
struct Embeddings {
    data: Vec<Embedding>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Embedding {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Scores {
    results: Vec<Score>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Score {
    index: usize,
    relevance_score: f32,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// What an endpoint calls its models.
pub(super) fn models(answer: &[u8]) -> Result<Vec<String>, String> {
    let answer: Models =
        serde_json::from_slice(answer).map_err(|error| format!("its list of models: {error}"))?;
    Ok(answer.data.into_iter().map(|model| model.id).collect())
}

/// What an endpoint says it read and wrote.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    pub(super) prompt_tokens: Option<u64>,
    pub(super) completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
}

impl Usage {
    fn read(self) -> u64 {
        self.prompt_tokens.or(self.total_tokens).unwrap_or_default()
    }
}

/// The embeddings of texts, or what is wrong with the answer.
pub(super) fn embeddings(
    answer: &[u8],
    texts: &[&str],
    dimensions: usize,
) -> Result<Vec<Found>, String> {
    let answer: Embeddings =
        serde_json::from_slice(answer).map_err(|error| format!("its answer: {error}"))?;
    let items = answer.data.into_iter().map(|it| (it.index, it.embedding));
    let found = in_order(items, texts, answer.usage)?;
    match found.iter().find(|it| it.values.len() != dimensions) {
        Some(odd) => Err(format!(
            "an embedding has {} numbers; `dimensions` is {dimensions}",
            odd.values.len()
        )),
        None => Ok(found),
    }
}

/// The scores of documents, or what is wrong with the answer.
pub(super) fn scores(answer: &[u8], documents: &[&str]) -> Result<Vec<Found>, String> {
    let answer: Scores =
        serde_json::from_slice(answer).map_err(|error| format!("its answer: {error}"))?;
    let items = answer
        .results
        .into_iter()
        .map(|it| (it.index, vec![it.relevance_score]));
    in_order(items, documents, answer.usage)
}

/// Values by the texts' order. Each text has its share of the tokens by its length, which
/// is all that can be known of it.
fn in_order(
    items: impl Iterator<Item = (usize, Vec<f32>)>,
    texts: &[&str],
    usage: Option<Usage>,
) -> Result<Vec<Found>, String> {
    let mut values: Vec<Option<Vec<f32>>> = vec![None; texts.len()];
    for (index, found) in items {
        if found.iter().any(|number| !number.is_finite()) {
            return Err(format!("item {index} of its answer has what is no number"));
        }
        match values.get_mut(index) {
            Some(place @ None) => *place = Some(found),
            Some(_) => return Err(format!("its answer has item {index} twice")),
            None => return Err(format!("its answer has an item {index}, of none")),
        }
    }
    let total = usage.unwrap_or_default().read();
    let bytes: u64 = texts.iter().map(|text| text.len() as u64 + 1).sum();
    let (mut so_far, mut given) = (0_u64, 0_u64);
    let mut all = Vec::with_capacity(texts.len());
    for (index, (text, values)) in texts.iter().zip(values).enumerate() {
        so_far += text.len() as u64 + 1;
        let until = u128::from(total) * u128::from(so_far) / u128::from(bytes.max(1));
        let until = u64::try_from(until).unwrap_or(total);
        all.push(Found {
            values: values.ok_or_else(|| format!("its answer has no item {index}"))?,
            tokens: u32::try_from(until - given).unwrap_or(u32::MAX),
        });
        given = until;
    }
    Ok(all)
}

/// What an endpoint says of a refusal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Its words.
    pub(super) message: String,
    /// Its name for it.
    pub(super) code: String,
}

impl Refusal {
    /// Of a body: OpenAI's form, or one of those that others have.
    pub(super) fn read(body: &[u8]) -> Self {
        let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        Self::of(&value)
    }

    pub(super) fn of(value: &serde_json::Value) -> Self {
        let error = value.get("error").unwrap_or(value);
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let message = text(error)
            .or_else(|| text(&error["message"]))
            .or_else(|| text(&error["detail"]))
            .unwrap_or_default();
        let code = text(&error["code"]).or_else(|| text(&error["type"]));
        Self {
            message,
            code: code.unwrap_or_default(),
        }
    }

    /// Whether it refuses a text for its length.
    pub(super) fn is_too_long(&self) -> bool {
        let words = self.message.to_lowercase();
        self.code == "context_length_exceeded"
            || [
                "context length",
                "maximum input length",
                "maximum allowed number of input tokens",
                "must have less than",
                "input is too long",
                "text is too long",
                "too many tokens",
            ]
            .iter()
            .any(|told| words.contains(told))
    }

    /// The largest number in its words: how long the text is, where it says that.
    pub(super) fn tokens(&self) -> Option<usize> {
        let words = self.message.split_whitespace();
        let digits = words.map(|word| word.trim_matches(|c: char| c.is_ascii_punctuation()));
        digits.filter_map(|digits| digits.parse().ok()).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_put_in_order_and_tokens_shared() {
        let answer = br#"{"object":"list","data":[{"index":1,"embedding":[3,4]},
            {"index":0,"embedding":[1,2]}],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}"#;
        let found = embeddings(answer, &["aaaaa", "a"], 2).expect("an answer");
        assert_eq!(found[0].values, [1.0, 2.0]);
        assert_eq!(found[1].values, [3.0, 4.0]);
        assert_eq!((found[0].tokens, found[1].tokens), (5, 2));
        let answer = br#"{"results":[{"index":0,"relevance_score":0.5,"document":{"text":"x"}}],
            "meta":{"billed_units":{"search_units":1}}}"#;
        let found = scores(answer, &["x"]).expect("an answer");
        assert_eq!((found[0].values[0], found[0].tokens), (0.5, 0));
    }

    #[test]
    fn what_cannot_be_an_answer_is_refused() {
        for (answer, told) in [
            ("", "its answer"),
            ("[]", "its answer"),
            ("{}", "`data`"),
            (r#"{"data":[]}"#, "no item 0"),
            (r#"{"data":[{"index":0,"embedding":[1]}]}"#, "1 numbers"),
            (r#"{"data":[{"index":5,"embedding":[1,2]}]}"#, "item 5"),
            (
                r#"{"data":[{"index":0,"embedding":[1,2]},{"index":0,"embedding":[1,2]}]}"#,
                "twice",
            ),
            (
                r#"{"data":[{"index":0,"embedding":[1e300,2]}]}"#,
                "no number",
            ),
            (
                r#"{"data":[{"index":0,"embedding":"AACAPw=="}]}"#,
                "its answer",
            ),
        ] {
            let refused = embeddings(answer.as_bytes(), &["a"], 2).expect_err(answer);
            assert!(refused.contains(told), "{answer}: {refused}");
        }
    }

    #[test]
    fn refusals_are_read_in_the_forms_that_there_are() {
        for (body, message, too_long) in [
            (
                r#"{"error":{"message":"no","type":"t","param":null,"code":"c"}}"#,
                "no",
                false,
            ),
            (
                r#"{"error":{"message":"x","code":"context_length_exceeded"}}"#,
                "x",
                true,
            ),
            (
                r#"{"object":"error","message":"This model's maximum context length is 512 tokens. However, you requested 600 tokens","code":400}"#,
                "This model's maximum context length is 512 tokens. However, you requested 600 tokens",
                true,
            ),
            (r#"{"error":"plain"}"#, "plain", false),
            (r#"{"detail":"of others"}"#, "of others", false),
            ("<html>", "", false),
        ] {
            let refusal = Refusal::read(body.as_bytes());
            assert_eq!(refusal.message, message);
            assert_eq!(refusal.is_too_long(), too_long, "{body}");
        }
        let told = Refusal::read(br#"{"error":{"message":"512 at most, not 600"}}"#);
        assert_eq!(told.tokens(), Some(600));
    }
}
