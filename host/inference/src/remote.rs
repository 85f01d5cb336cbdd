//! Models that run elsewhere, behind the same service.
//!
//! A caller asks [`Inference`](crate::Inference) by a model's name and cannot tell from the
//! answers where it runs. What asks another service is a [`Remote`]; the clients are not
//! here: this crate opens no connection and knows no protocol and no credential, as it
//! depends on nothing else of Heyday. They stand beside the other backends of capabilities.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::InferenceError;
use crate::generation::{GenerateRequest, Generation};
use crate::model::{LongText, Properties};
use crate::service::{Caller, Embeddings, Meter, Scores};
use crate::store::StoredModel;

/// A model that another service runs. It bounds what it asks and takes, itself; a future or
/// handle that is dropped ends the request.
#[async_trait]
pub trait Remote: fmt::Debug + Send + Sync {
    /// What it is; `task` says which of the calls it takes.
    fn properties(&self) -> &Properties;

    /// The embeddings of texts: as many, and of `dimensions` numbers each. What it uses is told to
    /// the meter as it goes.
    async fn embed(
        &self,
        caller: &Caller,
        texts: Vec<String>,
        long: LongText,
        meter: &Meter,
    ) -> Result<Embeddings, InferenceError>;

    /// A score for each document, higher is better. What it uses is told to the meter as it goes.
    async fn rerank(
        &self,
        caller: &Caller,
        query: String,
        documents: Vec<String>,
        long: LongText,
        meter: &Meter,
    ) -> Result<Scores, InferenceError>;

    /// Text for a request that was checked; answers when the service has begun. What it uses until
    /// then is told to the meter as it goes, and by the text's handle, which has all of it later.
    async fn generate(
        &self,
        caller: &Caller,
        request: GenerateRequest,
        meter: &Meter,
    ) -> Result<Generation, InferenceError>;
}

/// A model that can be asked for, wherever it runs.
#[derive(Debug, Clone)]
pub enum ServedModel {
    /// In this process.
    Stored(Arc<StoredModel>),
    /// Elsewhere.
    Remote {
        /// Its name here.
        name: String,
        /// What asks it.
        remote: Arc<dyn Remote>,
    },
}

impl ServedModel {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Stored(model) => &model.name,
            Self::Remote { name, .. } => name,
        }
    }

    /// What it is.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        match self {
            Self::Stored(model) => &model.properties,
            Self::Remote { remote, .. } => remote.properties(),
        }
    }

    /// The imported model; none where it runs elsewhere.
    #[must_use]
    pub const fn stored(&self) -> Option<&Arc<StoredModel>> {
        match self {
            Self::Stored(model) => Some(model),
            Self::Remote { .. } => None,
        }
    }
}
