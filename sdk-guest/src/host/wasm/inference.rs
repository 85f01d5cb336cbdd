//! Calls of the bindings of `heyday:inference`.

use serde_json::Value;

use crate::bindings::inference::heyday::inference::inference as wit;
use crate::error::CapabilityError;
use crate::inference::{Embeddings, LongText, ModelInfo};

type Result<T> = std::result::Result<T, CapabilityError>;

fn error(error: wit::Error) -> CapabilityError {
    convert_error!(error)
}

fn to_wit(long: LongText) -> wit::LongText {
    match long {
        LongText::Refuse => wit::LongText::Refuse,
        LongText::Truncate => wit::LongText::Truncate,
        LongText::Split => wit::LongText::Split,
    }
}

/// The host writes JSON; what is none is nothing that is known.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

pub(crate) fn models() -> Result<Vec<ModelInfo>> {
    let models = wit::models().map_err(error)?;
    let models = models.into_iter().map(|model| ModelInfo {
        properties: json(&model.properties),
        name: model.name,
    });
    Ok(models.collect())
}

#[derive(Debug)]
pub(crate) struct Model(wit::Model);

impl Model {
    pub(crate) fn open(name: &str) -> Result<Self> {
        wit::Model::open(name).map(Self).map_err(error)
    }

    pub(crate) fn properties(&self) -> Result<Value> {
        let properties = self.0.properties().map_err(error)?;
        Ok(json(&properties))
    }

    pub(crate) fn embed(&self, texts: &[String], long: LongText) -> Result<Embeddings> {
        let found = self.0.embed(texts, to_wit(long)).map_err(error)?;
        let dimensions = usize::try_from(found.dimensions).unwrap_or_default();
        Ok(Embeddings::new(dimensions, found.values, found.tokens))
    }

    pub(crate) fn rerank(
        &self,
        query: &str,
        documents: &[String],
        long: LongText,
    ) -> Result<Vec<f32>> {
        self.0.rerank(query, documents, to_wit(long)).map_err(error)
    }

    pub(crate) fn generate(&self, request: &str) -> Result<Generation> {
        self.0.generate(request).map(Generation).map_err(error)
    }
}

#[derive(Debug)]
pub(crate) struct Generation(wit::Generation);

impl Generation {
    pub(crate) fn next(&self) -> Result<Option<String>> {
        self.0.next().map_err(error)
    }

    pub(crate) fn summary(&self) -> Result<Value> {
        let summary = self.0.summary().map_err(error)?;
        Ok(json(&summary))
    }
}
