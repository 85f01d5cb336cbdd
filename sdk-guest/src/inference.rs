//! Models that the host runs: embeddings of texts, scores of documents, and text that is
//! generated ([`Model::generate`]). The calls of many
//! plugins are computed together, so give [`embed`](Model::embed) many texts at once.
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! /// The passage that is closest to the question.
//! fn closest<'a>(question: &str, passages: &[&'a str]) -> Result<Option<&'a str>> {
//!     let model = inference::Model::open("all-minilm-l6-v2")?;
//!     let long = inference::LongText::Truncate;
//!     let question = model.embed([question], long)?;
//!     let found = model.embed(passages, long)?;
//!     let best = found
//!         .iter()
//!         .map(|passage| inference::cosine(&question[0], passage))
//!         .enumerate()
//!         .max_by(|a, b| a.1.total_cmp(&b.1));
//!     Ok(best.map(|(index, _)| passages[index]))
//! }
//!
//! let _test = heyday_sdk::test::Context::new()
//!     .embeddings("all-minilm-l6-v2", 64)
//!     .enter();
//! let passages = ["Bread rises in the oven.", "The rotor is balanced."];
//! let found = closest("how is a rotor balanced", &passages).unwrap();
//! assert_eq!(found, Some(passages[1]));
//! ```

mod generation;

use std::ops::Index;

use serde_json::Value;

use crate::error::CapabilityError;
use crate::host::inference as host;

pub use generation::{FinishReason, Generation, Message, Request, Role, Summary};

/// Why a call failed; `wit/inference` explains the codes.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 8).enter();
/// use heyday_sdk::inference::{Error, LongText, Model};
///
/// fn advice(error: &Error) -> String {
///     match (error.code.as_str(), &error.details) {
///         ("input-too-long", Some(details)) => format!("cut text {}", details["index"]),
///         ("busy", _) => "try again later".to_owned(),
///         _ => error.to_string(),
///     }
/// }
/// let texts = ["short".to_owned(), "word ".repeat(300)];
/// let error = Model::open("minilm")?.embed(texts, LongText::Refuse).unwrap_err();
/// assert_eq!(advice(&error), "cut text 1");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// What is done with a text that is longer than the model's window.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 8).enter();
/// use heyday_sdk::inference::{LongText, Model};
///
/// let (model, long) = (Model::open("minilm")?, ["word ".repeat(300)]);
/// assert!(model.embed(&long, LongText::Refuse).is_err());
/// let begin = model.embed(&long, LongText::Truncate)?.tokens()[0];
/// let whole = model.embed(&long, LongText::Split)?.tokens()[0];
/// assert!(begin < whole);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LongText {
    /// The call fails with `input-too-long`.
    #[default]
    Refuse,
    /// Its end is left out.
    Truncate,
    /// It is read piece by piece: embeddings of the pieces are averaged by their lengths; of
    /// scores the best one counts.
    Split,
}

/// A model that the plugin may open.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .embeddings("minilm", 8).scores("reranker", |_, _| 0.0)
/// #     .enter();
/// use heyday_sdk::inference::{ModelInfo, models};
///
/// let does = |model: &ModelInfo, task: &str| model.properties["task"] == task;
/// let embeds = models()?.into_iter().find(|model| does(model, "embed"));
/// assert_eq!(embeds.unwrap().name, "minilm");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Its name, for [`Model::open`].
    pub name: String,
    /// What it is; `wit/inference` lists the members.
    pub properties: Value,
}

/// Embeddings of texts, in their order.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 64).enter();
/// use heyday_sdk::inference::{Embeddings, LongText, Model, cosine};
///
/// /// The two texts that are the most alike.
/// fn closest(found: &Embeddings) -> Option<(usize, usize)> {
///     let pairs = (0..found.len()).flat_map(|one| (0..one).map(move |other| (other, one)));
///     pairs.max_by(|a, b| {
///         cosine(&found[a.0], &found[a.1]).total_cmp(&cosine(&found[b.0], &found[b.1]))
///     })
/// }
/// let texts = ["fresh bread", "a steel rotor", "the rotor of steel"];
/// let found = Model::open("minilm")?.embed(texts, LongText::Refuse)?;
/// assert_eq!(closest(&found), Some((1, 2)));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    dimensions: usize,
    values: Vec<f32>,
    tokens: Vec<u32>,
}

impl Embeddings {
    pub(crate) fn new(dimensions: usize, values: Vec<f32>, tokens: Vec<u32>) -> Self {
        Self {
            dimensions,
            values,
            tokens,
        }
    }

    /// Numbers of each.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 384).enter();
    /// use heyday_sdk::{inference::{LongText, Model}, vector::{Distance, Specification}};
    ///
    /// let found = Model::open("minilm")?.embed(["a rotor"], LongText::Refuse)?;
    /// let chunks = Specification::new(found.dimensions() as u32, Distance::Cosine);
    /// assert_eq!(chunks.dimensions, 384);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// How many there are.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 8).enter();
    /// use heyday_sdk::inference::{LongText, Model};
    ///
    /// let found = Model::open("minilm")?.embed(["one", "two"], LongText::Refuse)?;
    /// assert_eq!(found.len(), 2);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 8).enter();
    /// use heyday_sdk::inference::{LongText, Model};
    ///
    /// let no_texts: [&str; 0] = [];
    /// assert!(Model::open("minilm")?.embed(no_texts, LongText::Refuse)?.is_empty());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// For each text the tokens that were read of it.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 8).enter();
    /// use heyday_sdk::inference::{LongText, Model};
    ///
    /// let texts = ["one two three", "one"];
    /// let found = Model::open("minilm")?.embed(texts, LongText::Refuse)?;
    /// assert!(found.tokens()[0] > found.tokens()[1]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The embedding of each text.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 8).enter();
    /// use heyday_sdk::{inference::{LongText, Model}, vector::Item};
    ///
    /// let pages = ["on bread", "the rotor"];
    /// let found = Model::open("minilm")?.embed(pages, LongText::Refuse)?;
    /// let named = pages.iter().zip(found.iter());
    /// let items = named.map(|(page, vector)| Item::new(*page).vector(vector));
    /// assert_eq!(items.last().unwrap().vector.as_deref(), Some(&found[1]));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimensions.max(1))
    }

    /// The numbers of all, one text after another.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 8).enter();
    /// use heyday_sdk::inference::{LongText, Model};
    ///
    /// let found = Model::open("minilm")?.embed(["one", "two"], LongText::Refuse)?;
    /// assert_eq!(found.into_values().len(), 2 * 8);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

impl Index<usize> for Embeddings {
    type Output = [f32];

    /// The embedding of one text.
    ///
    /// # Panics
    /// Where there are fewer texts.
    fn index(&self, text: usize) -> &[f32] {
        &self.values[text * self.dimensions..(text + 1) * self.dimensions]
    }
}

/// How alike two embeddings of one model are: 1 is the same direction, 0 has nothing in
/// common.
///
/// ```
/// use heyday_sdk::inference::cosine;
///
/// assert_eq!(cosine(&[3.0, 0.0], &[1.0, 0.0]), 1.0);
/// assert_eq!(cosine(&[3.0, 0.0], &[0.0, 2.0]), 0.0);
/// ```
#[must_use]
pub fn cosine(one: &[f32], other: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(one, one) * dot(other, other)).sqrt();
    if lengths > 0.0 {
        dot(one, other) / lengths
    } else {
        0.0
    }
}

/// The models that the plugin was granted and that are here, by name.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .embeddings("bge-small", 8).embeddings("minilm", 8)
/// #     .enter();
/// use heyday_sdk::inference;
///
/// let names: Vec<String> = inference::models()?.into_iter().map(|model| model.name).collect();
/// assert_eq!(names, ["bge-small", "minilm"]);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
///
/// # Errors
/// As `wit/inference` says.
pub fn models() -> Result<Vec<ModelInfo>> {
    host::models()
}

/// A granted model.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 64).enter();
/// use heyday_sdk::inference::{Error, LongText, Model, cosine};
///
/// fn are_alike(model: &Model, one: &str, other: &str) -> Result<bool, Error> {
///     let found = model.embed([one, other], LongText::Truncate)?;
///     Ok(cosine(&found[0], &found[1]) > 0.9)
/// }
/// let model = Model::open("minilm")?;
/// assert!(are_alike(&model, "the rotor", "The rotor.")?);
/// assert!(!are_alike(&model, "the rotor", "fresh bread")?);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Model {
    host: host::Model,
}

impl Model {
    /// Opens the model of this name.
    ///
    /// ```
    /// use heyday_sdk::inference::Model;
    ///
    /// let _test = heyday_sdk::test::Context::new().embeddings("minilm", 8).enter();
    /// assert!(Model::open("minilm").is_ok());
    /// assert!(Model::open("bge-small").unwrap_err().is("capability-denied"));
    /// ```
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding` where there is none.
    pub fn open(name: &str) -> Result<Self> {
        Ok(Self {
            host: host::Model::open(name)?,
        })
    }

    /// What it is; `wit/inference` lists the members.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 384).enter();
    /// use heyday_sdk::inference::Model;
    ///
    /// let properties = Model::open("minilm")?.properties()?;
    /// assert_eq!(properties["task"], "embed");
    /// assert_eq!(properties["dimensions"], 384);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/inference` says.
    pub fn properties(&self) -> Result<Value> {
        self.host.properties()
    }

    /// The embeddings of texts, at most 2,048 of them with 8 MiB together.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().embeddings("minilm", 64).enter();
    /// use heyday_sdk::inference::{LongText, Model, cosine};
    ///
    /// let texts = ["a rotor", "the rotor", "fresh bread"];
    /// let found = Model::open("minilm")?.embed(texts, LongText::Truncate)?;
    /// assert!(cosine(&found[0], &found[1]) > cosine(&found[0], &found[2]));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `input-too-long`, `busy` and others, as `wit/inference` says.
    pub fn embed<T: AsRef<str>>(
        &self,
        texts: impl IntoIterator<Item = T>,
        long: LongText,
    ) -> Result<Embeddings> {
        self.host.embed(&owned(texts), long)
    }

    /// How well each document answers the query: the model's own score, higher is better; in
    /// the order of the documents.
    ///
    /// ```
    /// # let score = |query: &str, document: &str| {
    /// #     query.split(' ').filter(|word| document.contains(word)).count() as f32
    /// # };
    /// # let _test = heyday_sdk::test::Context::new().scores("reranker", score).enter();
    /// use heyday_sdk::inference::{LongText, Model};
    ///
    /// let documents = ["On fresh bread", "How a rotor is balanced"];
    /// let scores = Model::open("reranker")?.rerank("a rotor", documents, LongText::Truncate)?;
    /// assert!(scores[1] > scores[0]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `unsupported` where the model has no head that scores, and others, as
    /// `wit/inference` says.
    pub fn rerank<T: AsRef<str>>(
        &self,
        query: &str,
        documents: impl IntoIterator<Item = T>,
        long: LongText,
    ) -> Result<Vec<f32>> {
        self.host.rerank(query, &owned(documents), long)
    }
}

fn owned<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Vec<String> {
    texts
        .into_iter()
        .map(|text| text.as_ref().to_owned())
        .collect()
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::test::Context;

    #[test]
    fn a_model_that_was_not_granted_is_denied() {
        let _test = Context::new().embeddings("other", 8).enter();
        let error = Model::open("m").expect_err("no grant");
        assert_eq!(
            (error.code.as_str(), error.retryable),
            ("capability-denied", false)
        );
    }

    #[test]
    fn the_stand_in_embeds_the_same_text_alike_and_others_apart() {
        let _test = Context::new().embeddings("m", 32).enter();
        assert_eq!(models().unwrap()[0].name, "m");
        let model = Model::open("m").unwrap();
        assert_eq!(model.properties().unwrap()["dimensions"], 32);
        let texts = ["a rotor", "a rotor", "fresh bread", ""];
        let found = model.embed(texts, LongText::Refuse).unwrap();
        assert_eq!((found.len(), found.dimensions()), (4, 32));
        assert_eq!(found[0], found[1]);
        assert!(cosine(&found[0], &found[2]) < 0.9);
        let length = |vector: &[f32]| vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(
            found
                .iter()
                .all(|vector| (length(vector) - 1.0).abs() < 1e-5)
        );
        assert!(model.embed([""; 0], LongText::Refuse).unwrap().is_empty());
    }

    #[test]
    fn the_stand_in_has_the_windows_and_limits_of_a_model() {
        let _test = Context::new().embeddings("m", 8).enter();
        let model = Model::open("m").unwrap();
        let long = "word ".repeat(300);
        let error = model.embed(["short", &long], LongText::Refuse).unwrap_err();
        assert!(error.is("input-too-long"));
        assert_eq!(error.details.unwrap()["index"], 1);
        let cut = model.embed([&long], LongText::Truncate).unwrap();
        assert_eq!(cut.tokens(), [256]);
        let split = model.embed([&long], LongText::Split).unwrap();
        assert!(split.tokens()[0] > 256);
        let many = model.embed(vec!["x"; 2_049], LongText::Refuse);
        assert!(many.unwrap_err().is("limit-exceeded"));
        let refused = model.rerank("q", ["d"], LongText::Refuse).unwrap_err();
        assert!(refused.is("unsupported"));
    }

    #[test]
    fn a_closure_scores() {
        let _test = Context::new()
            .scores("r", |query, document| {
                f32::from(u8::from(document.contains(query)))
            })
            .enter();
        let model = Model::open("r").unwrap();
        let scores = model.rerank("rotor", ["bread", "a rotor"], LongText::Truncate);
        assert_eq!(scores.unwrap(), [0.0, 1.0]);
        assert!(
            model
                .embed(["x"], LongText::Refuse)
                .unwrap_err()
                .is("unsupported")
        );
    }
}
