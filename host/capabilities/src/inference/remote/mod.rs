//! Models behind an endpoint that speaks OpenAI's protocol, as a backend of inference.
//!
//! It stands here, not in `heyday_inference`: that crate computes, opens no connection and
//! knows no credential; HTTP, keys and their rotation are what this one has for its other
//! backends.
//!
//! The way of a call: [`RemoteModel`] takes a place at its [`gate`], makes batches of the
//! texts (`texts.rs`), and asks the endpoint by its [`client`], which repeats what may be
//! repeated; `chat.rs` reads streamed answers. All of it happens on the host's runtime, and
//! ends when the caller's future does. What an endpoint says is checked as a guest's word
//! would be: sizes, counts, dimensions, numbers.
//!
//! Asked are `/embeddings`, `/chat/completions` and `/completions` (for a prompt that is
//! continued as it stands) as OpenAI documents them, and `/rerank` as Cohere, Jina and vLLM
//! have it alike, OpenAI having none.

mod chat;
mod client;
mod config;
mod gate;
mod texts;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use heyday_inference::{
    Caller, Embeddings, GenerateRequest, Generation, InferenceError, LongText, Meter, Properties,
    Remote, Scores, Task,
};
use serde_json::json;
use tokio::runtime::Handle;

pub use config::{RemoteConfig, RemoteConfigError, TokenLimit};

use self::client::{Client, Failed};
use self::gate::Gate;
use self::texts::{Batch, Found};
use crate::bindings::Bindings;
use crate::diagnosis::{ASKED, Finding, Findings};
use crate::task::run_on;

/// A model of an endpoint.
pub struct RemoteModel {
    inner: Arc<Inner>,
    runtime: Handle,
}

struct Inner {
    /// Its name here.
    name: String,
    config: RemoteConfig,
    properties: Properties,
    client: Client,
    gate: Gate,
}

impl fmt::Debug for RemoteModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteModel")
            .field("name", &self.inner.name)
            .field("url", &self.inner.config.url)
            .finish_non_exhaustive()
    }
}

impl RemoteModel {
    /// Checks a configuration. Nothing is connected to yet; a key is read at each request,
    /// one of a binding of secrets among `bindings`.
    ///
    /// # Errors
    /// What cannot work.
    pub fn new(
        name: &str,
        config: &RemoteConfig,
        bindings: &Bindings,
        runtime: Handle,
    ) -> Result<Self, RemoteConfigError> {
        config.check()?;
        let inner = Inner {
            name: name.to_owned(),
            properties: config.properties(),
            client: Client::new(name, config, bindings)?,
            gate: Gate::new(config.concurrent, config.queue),
            config: config.clone(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            runtime,
        })
    }

    /// Looks whether the endpoint can be asked and has the model.
    pub async fn diagnose(&self) -> Vec<Finding> {
        let mut findings = Findings::default();
        let wanted = &self.inner.config.model;
        let listed = self.inner.client.models().await;
        let clock = listed.as_ref().ok().map(|(_, clock_ms)| *clock_ms);
        match listed {
            Ok((models, _)) if models.iter().any(|name| name == wanted) => {
                findings.ok("reach", format!("it answers, and has {wanted}"));
            }
            Ok((models, _)) => findings.warn(
                "reach",
                format!(
                    "it answers, and its {} models have no {wanted}",
                    models.len()
                ),
                "correct `model`, unless the endpoint lists only some",
            ),
            Err(Failed::Again { why, .. } | Failed::Never(why) | Failed::Invalid(why)) => findings
                .fail(
                    "reach",
                    why,
                    "correct `url` and the key, or start the endpoint",
                ),
            Err(Failed::Odd(why)) => findings.warn(
                "reach",
                why,
                "look whether it is an endpoint that speaks OpenAI's protocol",
            ),
            Err(Failed::TooLong(_)) => findings.warn("reach", "it refuses", "look at its log"),
        }
        if let Some(clock_ms) = clock {
            // First what was true when it answered.
            if let Some(theirs) = clock_ms {
                findings.clock(theirs);
            }
            findings.took(self.latency().await);
        }
        findings.into_inner()
    }

    /// How long the endpoint takes to answer, to what costs nothing there, once it is connected
    /// to; until it fails.
    async fn latency(&self) -> Vec<Duration> {
        let mut took = Vec::with_capacity(ASKED);
        for _ in 0..ASKED {
            let begun = Instant::now();
            if self.inner.client.models().await.is_err() {
                break;
            }
            took.push(begun.elapsed());
        }
        took
    }

    async fn run<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T, InferenceError>
    where
        F: Future<Output = Result<T, InferenceError>> + Send + 'static,
        T: Send + 'static,
    {
        let done = run_on(&self.runtime, work(Arc::clone(&self.inner))).await;
        done.unwrap_or_else(|error| {
            tracing::error!(%error, "a request to a model elsewhere ended by itself");
            Err(InferenceError::Internal)
        })
    }
}

#[async_trait]
impl Remote for RemoteModel {
    fn properties(&self) -> &Properties {
        &self.inner.properties
    }

    async fn embed(
        &self,
        caller: &Caller,
        texts: Vec<String>,
        long: LongText,
        meter: &Meter,
    ) -> Result<Embeddings, InferenceError> {
        let (caller, meter) = (caller.clone(), meter.clone());
        self.run(|inner| async move { inner.embed(&caller, &texts, long, &meter).await })
            .await
    }

    async fn rerank(
        &self,
        caller: &Caller,
        query: String,
        documents: Vec<String>,
        long: LongText,
        meter: &Meter,
    ) -> Result<Scores, InferenceError> {
        let (caller, meter) = (caller.clone(), meter.clone());
        self.run(|inner| async move {
            inner
                .rerank(&caller, &query, &documents, long, &meter)
                .await
        })
        .await
    }

    async fn generate(
        &self,
        caller: &Caller,
        request: GenerateRequest,
        meter: &Meter,
    ) -> Result<Generation, InferenceError> {
        let (caller, meter) = (caller.clone(), meter.clone());
        self.run(|inner| async move { inner.generate(&caller, request, &meter).await })
            .await
    }
}

impl Inner {
    fn check_task(&self, task: Task, what: &'static str) -> Result<(), InferenceError> {
        if self.config.task == task {
            return Ok(());
        }
        Err(InferenceError::Unsupported {
            model: self.name.clone(),
            what,
        })
    }

    async fn embed(
        &self,
        caller: &Caller,
        texts: &[String],
        long: LongText,
        meter: &Meter,
    ) -> Result<Embeddings, InferenceError> {
        self.check_task(Task::Embed, "embed")?;
        let found = self.each(caller, texts, long, None, meter).await?;
        let dimensions = self.dimensions();
        let mut embeddings = Embeddings {
            dimensions,
            values: Vec::with_capacity(found.len() * dimensions),
            tokens: Vec::with_capacity(found.len()),
            usage: meter.usage(),
        };
        for pieces in found {
            embeddings.tokens.push(texts::tokens(&pieces));
            let lengths: Vec<usize> = pieces.iter().map(|it| it.weight()).collect();
            let vectors = pieces.into_iter().map(|it| it.values).collect();
            let average =
                heyday_inference::model::average(vectors, &lengths, self.config.normalized);
            embeddings.values.extend(average);
        }
        Ok(embeddings)
    }

    async fn rerank(
        &self,
        caller: &Caller,
        query: &str,
        documents: &[String],
        long: LongText,
        meter: &Meter,
    ) -> Result<Scores, InferenceError> {
        self.check_task(Task::Rerank, "rerank")?;
        let asked = self.each(caller, documents, long, Some(query), meter);
        let found = asked.await?;
        let best = |pieces: &Vec<Found>| {
            let scores = pieces.iter().flat_map(|it| it.values.iter().copied());
            scores.fold(f32::NEG_INFINITY, f32::max)
        };
        Ok(Scores {
            values: found.iter().map(best).collect(),
            tokens: found.iter().map(|it| texts::tokens(it)).collect(),
            usage: meter.usage(),
        })
    }

    /// Numbers of an embedding: the configuration of a model that embeds says it.
    fn dimensions(&self) -> usize {
        self.config.dimensions.unwrap_or_default()
    }

    /// Asks once: for scores by a query, or else for embeddings.
    async fn ask(&self, texts: &[&str], query: Option<&str>) -> Result<Vec<Found>, Failed> {
        let model = &self.config.model;
        let (found, mask) = match query {
            Some(query) => {
                let body = json!({ "model": model, "query": query, "documents": texts });
                let most = wire::scores_bytes(texts);
                let (answer, mask) = self.client.ask("rerank", &body, most).await?;
                (wire::scores(&answer, texts), mask)
            }
            None => {
                let body = json!({ "model": model, "input": texts, "encoding_format": "float" });
                let most = wire::embeddings_bytes(texts.len(), self.dimensions());
                let (answer, mask) = self.client.ask("embeddings", &body, most).await?;
                (wire::embeddings(&answer, texts, self.dimensions()), mask)
            }
        };
        // Its words may be those of the answer.
        found.map_err(|why| Failed::Odd(mask.told(&why)))
    }

    /// Asks for all texts, in batches, and answers what was found of each.
    async fn each(
        &self,
        caller: &Caller,
        texts: &[String],
        long: LongText,
        query: Option<&str>,
        meter: &Meter,
    ) -> Result<Vec<Vec<Found>>, InferenceError> {
        let _place = self.gate.enter(caller).await?;
        // Its time counts also where it fails, or is given up.
        let _running = meter.run();
        let window = self.config.window;
        let mut batch = Batch::new(texts, self.config.batch_texts, long, window);
        while let Some(next) = batch.next() {
            match self.ask(&batch.texts_of(&next), query).await {
                Ok(found) => {
                    meter.used(|usage| usage.tokens += u64::from(texts::tokens(&found)));
                    batch.found(next, found);
                }
                Err(Failed::TooLong(told)) => {
                    if let Err(index) = batch.too_long(next) {
                        return Err(InferenceError::InputTooLong {
                            model: self.name.clone(),
                            index,
                            // What it does not say is one more than it takes, at least.
                            tokens: told.unwrap_or(0).max(window + 1),
                            window,
                        });
                    }
                }
                Err(failed) => return Err(self.told(failed)),
            }
        }
        Ok(batch.into_found())
    }

    /// What a caller is told; the operator's part is in the log already.
    fn told(&self, failed: Failed) -> InferenceError {
        match failed {
            Failed::Again { busy: true, .. } => InferenceError::Busy,
            Failed::Invalid(message) => InferenceError::InvalidRequest(message),
            // `each` tells it of texts itself.
            Failed::TooLong(told) => InferenceError::PromptTooLong {
                model: self.name.clone(),
                tokens: told.unwrap_or(0).max(self.config.window + 1),
                window: self.config.window,
            },
            Failed::Again { why, .. } | Failed::Odd(why) | Failed::Never(why) => {
                tracing::warn!(model = self.name, why, "a model elsewhere cannot be asked");
                InferenceError::Unavailable {
                    model: self.name.clone(),
                    message: "the service that runs it does not answer as it should; the host's \
                              log has the cause"
                        .to_owned(),
                }
            }
        }
    }
}
