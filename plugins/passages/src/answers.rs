//! What whoever answers a question is given and gives, with or without a model.

use heyday_sdk::prelude::*;

/// A passage that was found, as `index.search` answers it.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Passage {
    /// Its document.
    pub key: String,
    /// The document's title.
    pub title: String,
    /// The heading above it.
    #[serde(default)]
    pub heading: Option<String>,
    /// The page on which it begins.
    #[serde(default)]
    pub page: Option<u64>,
    /// Its position among the document's passages.
    pub position: u64,
    /// The byte of the document's extracted text at which it begins.
    pub offset: u64,
    /// Its text.
    pub text: String,
}

impl Passage {
    /// A quote from it, which begins so many bytes behind its own begin.
    #[must_use]
    pub fn cite(&self, behind: usize, quote: String) -> Citation {
        Citation {
            key: self.key.clone(),
            title: self.title.clone(),
            heading: self.heading.clone(),
            page: self.page,
            position: self.position,
            offset: self.offset + behind as u64,
            quote,
        }
    }
}

/// An answer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Answer {
    /// The answer, with the numbers of its citations: `It turns. [1]`. Empty where nothing
    /// has to do with the question.
    pub answer: String,
    /// What it cites; the first is `[1]`.
    pub citations: Vec<Citation>,
    /// How sure it is, 0 to 1; 0 where it cites nothing.
    pub confidence: f64,
}

/// Where a quote stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Citation {
    /// The document.
    pub key: String,
    /// Its title.
    pub title: String,
    /// The heading above the passage.
    pub heading: Option<String>,
    /// The page on which the passage begins.
    pub page: Option<u64>,
    /// The passage's position.
    pub position: u64,
    /// The byte of the document's extracted text at which the quote begins.
    pub offset: u64,
    /// The quote, in one line.
    pub quote: String,
}
