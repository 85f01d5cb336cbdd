//! One request: its admission, its pieces, its answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::loaded::Loaded;
use super::queue::Caller;
use super::usage::{Meter, Usage};
use super::{Piece, QueueLimits, Queues, Shared, Work};
use crate::error::InferenceError;
use crate::model::tokens::TokenError;
use crate::model::{Task, Window, average};

/// Embeddings, one after another.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Numbers of each.
    pub dimensions: usize,
    /// All of them, in the order of the texts.
    pub values: Vec<f32>,
    /// For each text the tokens that were read of it.
    pub tokens: Vec<u32>,
    /// What it used.
    pub usage: Usage,
}

/// Scores of documents.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// In the order of the documents.
    pub values: Vec<f32>,
    /// For each document the tokens that were read of it and of the query.
    pub tokens: Vec<u32>,
    /// What it used.
    pub usage: Usage,
}

/// What a request becomes: a vector for each text.
#[derive(Debug)]
pub(super) struct Answer {
    vectors: Vec<Vec<f32>>,
    tokens: Vec<u32>,
    dimensions: usize,
    usage: Usage,
}

impl Answer {
    pub(super) fn into_embeddings(self) -> Embeddings {
        Embeddings {
            dimensions: self.dimensions,
            values: self.vectors.concat(),
            tokens: self.tokens,
            usage: self.usage,
        }
    }

    pub(super) fn into_scores(self) -> Scores {
        Scores {
            values: self.vectors.concat(),
            tokens: self.tokens,
            usage: self.usage,
        }
    }
}

/// What is known so far.
#[derive(Debug, Default)]
struct Progress {
    /// For each text its pieces' lengths and, once computed, vectors.
    texts: Vec<Vec<(usize, Option<Vec<f32>>)>>,
    left: usize,
    normalized: bool,
    dimensions: usize,
}

type Reply = oneshot::Sender<Result<Answer, InferenceError>>;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) model: String,
    pub(super) caller: Caller,
    work: Work,
    meter: Meter,
    cancelled: AtomicBool,
    progress: Mutex<Progress>,
    reply: Mutex<Option<Reply>>,
}

impl Request {
    pub(super) fn new(
        model: String,
        work: Work,
        caller: Caller,
        meter: Meter,
        reply: Reply,
    ) -> Self {
        Self {
            model,
            caller,
            work,
            meter,
            cancelled: AtomicBool::new(false),
            progress: Mutex::default(),
            reply: Mutex::new(Some(reply)),
        }
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Answers it, unless it was.
    pub(super) fn answer(&self, answer: Result<Answer, InferenceError>) {
        let mut reply = self.reply.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reply) = reply.take() {
            // Who asked may have gone.
            let _ = reply.send(answer);
        }
        drop(reply);
        // What is still queued of it is for nobody.
        self.cancelled.store(true, Ordering::Release);
    }

    /// Answers one of no texts.
    pub(super) fn finish_empty(&self) {
        let dimensions = self.progress().dimensions;
        self.meter.begin();
        self.answer(Ok(Answer {
            vectors: Vec::new(),
            tokens: Vec::new(),
            dimensions,
            usage: self.meter.usage(),
        }));
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch with pieces of it begins.
    pub(super) fn started(&self) {
        self.meter.begin();
    }

    /// So many tokens of it had that share of a batch's time.
    pub(super) fn used(&self, tokens: usize, share: Duration, gpu: bool) {
        self.meter.used(|usage| {
            usage.tokens += tokens as u64;
            usage.computed += share;
            usage.gpu |= gpu;
        });
    }

    /// One of its pieces was computed.
    pub(super) fn computed(&self, at: (usize, usize), vector: Vec<f32>) {
        let mut progress = self.progress();
        let piece = progress
            .texts
            .get_mut(at.0)
            .and_then(|pieces| pieces.get_mut(at.1));
        let Some((_, slot)) = piece else {
            return;
        };
        if slot.replace(vector).is_some() {
            return;
        }
        progress.left -= 1;
        if progress.left > 0 {
            return;
        }
        let done = std::mem::take(&mut *progress);
        drop(progress);
        self.answer(Ok(self.assemble(done)));
    }

    fn assemble(&self, progress: Progress) -> Answer {
        let mut answer = Answer {
            vectors: Vec::with_capacity(progress.texts.len()),
            tokens: Vec::with_capacity(progress.texts.len()),
            dimensions: progress.dimensions,
            usage: self.meter.usage(),
        };
        for pieces in progress.texts {
            let (lengths, vectors): (Vec<usize>, Vec<Option<Vec<f32>>>) =
                pieces.into_iter().unzip();
            let tokens: usize = lengths.iter().sum();
            answer
                .tokens
                .push(u32::try_from(tokens).unwrap_or(u32::MAX));
            let vectors: Vec<Vec<f32>> = vectors.into_iter().flatten().collect();
            answer.vectors.push(match self.work {
                Work::Embed { .. } => average(vectors, &lengths, progress.normalized),
                Work::Rerank { .. } => {
                    let scores = vectors.iter().flatten().copied();
                    vec![scores.fold(f32::NEG_INFINITY, f32::max)]
                }
            });
        }
        answer
    }
}

/// Bytes of texts.
pub(super) fn text_bytes(texts: &[String]) -> usize {
    texts.iter().map(String::len).sum()
}

/// Bytes that are read of documents and a query, which is read again with each.
pub(super) fn rerank_bytes(query: &str, documents: &[String]) -> usize {
    let queries = query.len().saturating_mul(documents.len());
    text_bytes(documents).saturating_add(queries)
}

/// Bytes and number of its texts.
pub(super) fn size(work: &Work) -> (usize, usize) {
    match work {
        Work::Embed { texts, .. } => (text_bytes(texts), texts.len()),
        Work::Rerank {
            query, documents, ..
        } => (rerank_bytes(query, documents), documents.len()),
    }
}

pub(super) fn check(
    bytes: usize,
    texts: usize,
    limits: &QueueLimits,
) -> Result<(), InferenceError> {
    if texts > limits.request_texts {
        return Err(InferenceError::LimitExceeded(format!(
            "{texts} texts at once; one request has at most {}",
            limits.request_texts
        )));
    }
    if bytes > limits.request_bytes {
        return Err(InferenceError::LimitExceeded(format!(
            "{bytes} bytes of texts at once; one request has at most {}",
            limits.request_bytes
        )));
    }
    Ok(())
}

/// What was admitted and is not answered.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    all: Held,
    by_caller: HashMap<Caller, Held>,
    by_namespace: HashMap<String, Held>,
}

impl Admitted {
    #[cfg(test)]
    pub(super) const fn requests(&self) -> usize {
        self.all.requests
    }
}

#[derive(Debug, Default)]
struct Held {
    requests: usize,
    bytes: usize,
}

impl Held {
    const fn fits(&self, bytes: usize, requests_limit: usize, bytes_limit: usize) -> bool {
        self.requests < requests_limit && self.bytes.saturating_add(bytes) <= bytes_limit
    }

    const fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    const fn remove(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }
}

/// A place among what was admitted; given back when dropped.
pub(super) struct Admission {
    pub(super) shared: Arc<Shared>,
    caller: Caller,
    bytes: usize,
}

impl Admission {
    pub(super) fn take(
        shared: &Arc<Shared>,
        queues: &mut Queues,
        caller: &Caller,
        bytes: usize,
    ) -> Result<Self, InferenceError> {
        let limits = &shared.limits;
        let admitted = &mut queues.admitted;
        let own = admitted.by_caller.get(caller);
        let of_namespace = admitted.by_namespace.get(&caller.namespace);
        let half = |limit: usize| limit.div_ceil(2);
        let three_quarters = |limit: usize| limit - limit / 4;
        if bytes > half(limits.bytes) {
            // It would be busy for ever.
            return Err(InferenceError::LimitExceeded(format!(
                "{bytes} bytes of texts at once; the queue has room for {} of one plugin",
                half(limits.bytes)
            )));
        }
        let within = |held: Option<&Held>, part: fn(usize) -> usize| {
            held.is_none_or(|held| held.fits(bytes, part(limits.requests), part(limits.bytes)))
        };
        let fits = admitted.all.fits(bytes, limits.requests, limits.bytes)
            && within(own, half)
            && within(of_namespace, three_quarters);
        if !fits {
            return Err(InferenceError::Busy);
        }
        admitted.all.add(bytes);
        let namespace = caller.namespace.clone();
        let own = admitted.by_caller.entry(caller.clone()).or_default();
        own.add(bytes);
        let of_namespace = admitted.by_namespace.entry(namespace).or_default();
        of_namespace.add(bytes);
        Ok(Self {
            shared: Arc::clone(shared),
            caller: caller.clone(),
            bytes,
        })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut queues = self.shared.queues();
        let admitted = &mut queues.admitted;
        admitted.all.remove(self.bytes);
        if let Some(own) = admitted.by_caller.get_mut(&self.caller) {
            own.remove(self.bytes);
            if own.requests == 0 {
                admitted.by_caller.remove(&self.caller);
            }
        }
        let namespace = &self.caller.namespace;
        if let Some(held) = admitted.by_namespace.get_mut(namespace) {
            held.remove(self.bytes);
            if held.requests == 0 {
                admitted.by_namespace.remove(namespace);
            }
        }
    }
}

/// A request's place in the queue; dropped, the request is cancelled.
pub(super) struct Ticket {
    pub(super) admission: Admission,
    pub(super) request: Arc<Request>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let answered = self.request.cancelled.swap(true, Ordering::AcqRel);
        if answered {
            return;
        }
        let shared = &self.admission.shared;
        shared.queues().stale = true;
        // It throws away what is queued.
        shared.ready.notify_one();
    }
}

/// Makes the pieces of a request's texts.
pub(super) fn pieces(
    request: &Arc<Request>,
    model: &Arc<Loaded>,
) -> Result<Vec<Piece>, InferenceError> {
    let properties = model.model.properties();
    let (wanted, what) = match request.work {
        Work::Embed { .. } => (Task::Embed, "embed"),
        Work::Rerank { .. } => (Task::Rerank, "rerank"),
    };
    if properties.task != wanted {
        return Err(InferenceError::Unsupported {
            model: model.name.clone(),
            what,
        });
    }
    let tokenizer = &model.model.tokenizer;
    let windows: Vec<Window> = match &request.work {
        Work::Embed { texts, long } => {
            let each = texts.iter().map(|text| tokenizer.text(text, *long));
            read_each(request, model, each)?
        }
        Work::Rerank {
            query,
            documents,
            long,
        } => {
            let each = documents
                .iter()
                .map(|text| tokenizer.pair(query, text, *long));
            read_each(request, model, each)?
        }
    };
    let mut progress = request.progress();
    progress.normalized = properties.normalized;
    progress.dimensions = properties.dimensions.unwrap_or_default();
    progress.texts = windows
        .iter()
        .map(|window| {
            let lengths = window.pieces.iter().map(|piece| piece.ids.len());
            lengths.map(|length| (length, None)).collect()
        })
        .collect();
    progress.left = windows.iter().map(|window| window.pieces.len()).sum();
    drop(progress);
    let mut pieces = Vec::new();
    for (text, window) in windows.into_iter().enumerate() {
        for (number, tokens) in window.pieces.into_iter().enumerate() {
            pieces.push(Piece {
                request: Arc::clone(request),
                model: Arc::clone(model),
                tokens,
                at: (text, number),
            });
        }
    }
    Ok(pieces)
}

fn read_each(
    request: &Request,
    model: &Loaded,
    each: impl Iterator<Item = Result<Window, TokenError>>,
) -> Result<Vec<Window>, InferenceError> {
    let mut windows = Vec::new();
    for (index, window) in each.enumerate() {
        // Nobody waits: what is answered here is not heard.
        if request.is_cancelled() {
            return Err(InferenceError::Stopping);
        }
        windows.push(window.map_err(|error| match error {
            TokenError::TooLong(told) => InferenceError::InputTooLong {
                model: model.name.clone(),
                index,
                tokens: told.tokens,
                window: told.window,
            },
            TokenError::Empty => {
                InferenceError::InvalidRequest(format!("text {index} has no tokens"))
            }
            TokenError::Failed(message) => {
                tracing::error!(message, model = model.name, "a tokenizer failed");
                InferenceError::Internal
            }
        })?);
    }
    Ok(windows)
}
