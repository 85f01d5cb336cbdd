//! What the plugins of the knowledge example share: where the parts of a document lie in the
//! binding `work` ([`work`]), passages and their vectors in it ([`Passage`], [`vectors`]),
//! what a word is ([`words`]), and what an answer has ([`answers`]).
//!
//! The way of a document: `extract` writes its text to `work`, `split` the passages beside it,
//! the plugin of an embedding reads those ([`read()`]) and writes their vectors, and `index`
//! takes both. Each is told the keys of what the ones before it wrote.
//!
//! Start reading at [`work`].

pub mod answers;
pub mod vectors;
pub mod words;
pub mod work;

use std::io::{BufRead, BufReader};

use heyday_sdk::prelude::*;

/// A piece of a document's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// Counted from 0.
    pub position: u64,
    /// The byte at which it begins in the text; its own text is as long there.
    pub offset: u64,
    /// The page on which it begins, from 1, where the document has pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u64>,
    /// The heading above it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading: Option<String>,
    /// Its text; page breaks are line ends.
    pub text: String,
}

impl Passage {
    /// What a model reads of it: what it is about, and what it says.
    #[must_use]
    pub fn with_heading(&self) -> String {
        match &self.heading {
            // A passage that begins with its heading has it already.
            Some(heading) if !self.text.contains(heading.as_str()) => {
                format!("{heading}\n{}", self.text)
            }
            _ => self.text.clone(),
        }
    }
}

/// The passages of an object in the binding `work`, as they are read.
///
/// # Errors
/// `not-found` and others, as `wit/blob` says; each passage may answer one too.
pub fn read(
    work: &blob::Container,
    passages_key: &str,
) -> Result<impl Iterator<Item = Result<Passage>>> {
    let lines = BufReader::new(work.read(passages_key)?).lines();
    Ok(lines.map(|line| Ok(serde_json::from_str(&line?)?)))
}
