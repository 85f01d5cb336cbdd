//! The thread that generates: all texts that are being generated go on together, one step
//! after another.
//!
//! A step reads the latest token of every text, and of prompts that were not read yet a
//! part, so that a long one holds nobody up. A text joins and leaves between steps. It joins
//! when there is a place, and memory for all tokens that it may have: then it cannot fail
//! later for lack of it. Who has the fewest texts is next; one plugin has at most half of
//! the places, one namespace three quarters. The threads that compute are shared with the
//! encoders' batches.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::compute::Compute;
use super::loaded::Loaded;
use super::queue::Caller;
use super::{Admission, Shared};
use crate::device::Device;
use crate::error::InferenceError;
use crate::generation::{FinishReason, GenerateRequest, GenerationSender, GenerationSummary};
use crate::model::Computed;
use crate::model::decoder::sample::Sampler;
use crate::model::decoder::text::{Detokenizer, Stops};
use crate::model::decoder::{Chunk, Decoder, Memory};
use crate::model::tokens::TokenError;
use crate::templates::ChatError;

/// How texts are generated; what suits the device where absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Texts that are generated together.
    pub texts: Option<usize>,
    /// Tokens of one step: so much of prompts is read before all texts go on.
    pub tokens: Option<usize>,
    /// Bytes of the keys and values of all texts.
    pub cache_bytes: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            texts: None,
            tokens: None,
            cache_bytes: 1 << 30,
        }
    }
}

/// The same, settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct GenerateLimits {
    texts: usize,
    tokens: usize,
    cache_bytes: u64,
}

impl GenerateLimits {
    pub(super) fn new(device: &Device, wanted: &GenerateOptions) -> Self {
        let (texts, tokens) = if device.is_gpu() {
            (64, 512)
        } else {
            (16, 128)
        };
        Self {
            texts: wanted.texts.unwrap_or(texts).max(1),
            tokens: wanted.tokens.unwrap_or(tokens).max(1),
            cache_bytes: wanted.cache_bytes,
        }
    }
}

/// A request for text, before its prompt was read.
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) caller: Caller,
    pub(super) request: GenerateRequest,
    pub(super) sender: GenerationSender,
    pub(super) accepted: oneshot::Sender<Result<(), InferenceError>>,
    pub(super) arrived: Instant,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// The place of a text among what was admitted. Dropped, the text is for nobody.
pub(super) struct GenerateTicket(pub(super) Admission);

impl Drop for GenerateTicket {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        shared.queues().stale = true;
        // One throws away what is queued, the other what goes on.
        shared.ready.notify_one();
        shared.generates.notify_one();
    }
}

/// A text that is generated, or waits for that.
#[derive(Debug)]
pub(super) struct Text {
    model: Arc<Loaded>,
    caller: Caller,
    sender: GenerationSender,
    arrived: Instant,
    /// Bytes of its keys and values, at most.
    bytes: u64,
    prompt: Vec<u32>,
    /// Tokens of the prompt that were read.
    read: usize,
    cache: Memory,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: Stops,
    /// Special tokens among the texts that end it, which are no text when they come.
    ends: Vec<u32>,
    /// The latest token, which was not read.
    latest: u32,
    /// Tokens that were generated, and the most.
    count: u64,
    most: u64,
    end: Option<Result<FinishReason, InferenceError>>,
}

/// Reads the prompt of a request on a reader's thread; the text waits then, and who asked is
/// told.
pub(super) fn accept(shared: &Shared, asked: Asked, model: Arc<Loaded>) {
    let Asked {
        model: name,
        caller,
        request,
        sender,
        accepted,
        arrived,
    } = asked;
    // A panic of a tokenizer costs one text, not the thread.
    let made = catch_unwind(AssertUnwindSafe(move || {
        let prompt = prompt(&request, &model)?;
        Text::new(request, prompt, model, shared)
    }));
    let made = made.unwrap_or_else(|panic| {
        let message = crate::panic_message(panic.as_ref());
        tracing::error!(message, model = name, "a prompt could not be read");
        Err(InferenceError::Internal)
    });
    // Who asked may have gone.
    match made {
        Ok(text) => {
            let text = text(caller, sender, arrived);
            shared.queues().texts.push(text);
            shared.generates.notify_one();
            let _ = accepted.send(Ok(()));
        }
        Err(error) => {
            let _ = accepted.send(Err(error));
        }
    }
}

fn prompt(request: &GenerateRequest, model: &Loaded) -> Result<Vec<u32>, InferenceError> {
    let Some(decoder) = model.model.decoder() else {
        return Err(InferenceError::Unsupported {
            model: model.name.clone(),
            what: "generate text",
        });
    };
    let invalid = |message: String| Err(InferenceError::InvalidRequest(message));
    let tokenizer = &model.model.tokenizer;
    let ids = match &request.prompt {
        Some(prompt) => tokenizer.prompt(prompt, true),
        None => match decoder.chat.prompt(&request.messages) {
            // The template writes the tokens around it too.
            Some(Ok(prompt)) => tokenizer.prompt(&prompt, false),
            Some(Err(error)) => return Err(unprompted(&model.name, error)),
            None => {
                return invalid(format!(
                    "the model {} has no chat template: give a `prompt`",
                    model.name
                ));
            }
        },
    };
    let ids = ids.map_err(|error| failed(model, &error))?;
    if ids.is_empty() {
        return invalid("the prompt has no tokens".to_owned());
    }
    if ids.len() >= decoder.config.window {
        return Err(InferenceError::PromptTooLong {
            model: model.name.clone(),
            tokens: ids.len(),
            window: decoder.config.window,
        });
    }
    Ok(ids)
}

/// What is told of a conversation of which no prompt was made.
fn unprompted(model: &str, error: ChatError) -> InferenceError {
    match error {
        // Neither the template's fault nor the caller's: its process may run the next time.
        ChatError::Unavailable(message) => {
            tracing::error!(message, model, "a chat template cannot be run");
            InferenceError::Unavailable {
                model: model.to_owned(),
                message: "its chat template cannot be run now; the host's log has the cause"
                    .to_owned(),
            }
        }
        error => InferenceError::InvalidRequest(error.to_string()),
    }
}

fn failed(model: &Loaded, error: &TokenError) -> InferenceError {
    tracing::error!(%error, model = model.name, "a tokenizer failed");
    InferenceError::Internal
}

impl Text {
    /// Makes the text of whom it is told then.
    fn new(
        request: GenerateRequest,
        prompt: Vec<u32>,
        model: Arc<Loaded>,
        shared: &Shared,
    ) -> Result<impl FnOnce(Caller, GenerationSender, Instant) -> Self, InferenceError> {
        let Some(decoder) = model.model.decoder() else {
            return Err(InferenceError::Internal);
        };
        let room = (decoder.config.window - prompt.len()) as u64;
        let most = u64::from(request.max_tokens()).min(room);
        let bytes = decoder.cache_bytes(prompt.len() as u64 + most);
        let limit = shared.generate.cache_bytes;
        if bytes > limit {
            return Err(InferenceError::OutOfMemory(format!(
                "the prompt and {most} tokens more take {bytes} bytes; all texts may take {limit}: \
                 ask for less by `max_tokens`"
            )));
        }
        let detokenizer = Detokenizer::after(&prompt, &model.model.tokenizer)
            .map_err(|error| failed(&model, &error))?;
        // It has room when it joins.
        let cache = decoder.cache(0);
        let sampler = Sampler::new(&request);
        let stops = request.stop.iter();
        let ends = stops.filter_map(|stop| model.model.tokenizer.special_id(stop));
        let ends: Vec<u32> = ends.collect();
        Ok(move |caller, sender: GenerationSender, arrived| {
            sender.used(|usage| usage.prompt_tokens = prompt.len() as u64);
            Self {
                model,
                caller,
                sender,
                arrived,
                bytes,
                prompt,
                read: 0,
                cache,
                sampler,
                detokenizer,
                stops: Stops::new(request.stop),
                ends,
                latest: 0,
                count: 0,
                most,
                end: None,
            }
        })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.sender.is_closed()
    }

    fn make_room(&mut self) {
        if let Some(decoder) = self.model.model.decoder() {
            let most = usize::try_from(self.most).unwrap_or_default();
            self.cache = decoder.cache(self.prompt.len() + most);
        }
    }

    const fn unread(&self) -> usize {
        self.prompt.len() - self.read
    }

    /// The next token comes of these logits.
    fn go_on(&mut self, logits: &[f32]) {
        let model = Arc::clone(&self.model);
        let id = self.sampler.draw(logits, self.count);
        self.count += 1;
        self.sender
            .used(|usage| usage.completion_tokens = self.count);
        let decoder = model.model.decoder();
        let ends = decoder.is_some_and(|decoder| decoder.config.ends.contains(&id));
        if ends || self.ends.contains(&id) {
            self.end = Some(self.flush(&model, FinishReason::Stop));
            return;
        }
        self.latest = id;
        match self.detokenizer.push(id, &model.model.tokenizer) {
            Ok(text) => {
                let (text, stopped) = self.stops.push(&text);
                self.sender.piece(text);
                if stopped {
                    self.end = Some(Ok(FinishReason::Stop));
                } else if self.count == self.most {
                    self.end = Some(self.flush(&model, FinishReason::Length));
                }
            }
            Err(error) => self.end = Some(Err(failed(&model, &error))),
        }
    }

    /// Gives out what was held back.
    fn flush(
        &mut self,
        model: &Loaded,
        reason: FinishReason,
    ) -> Result<FinishReason, InferenceError> {
        let rest = self
            .detokenizer
            .finish(&model.model.tokenizer)
            .map_err(|error| failed(model, &error))?;
        let (mut text, stopped) = self.stops.push(&rest);
        if !stopped {
            text.push_str(&self.stops.finish());
        }
        self.sender.piece(text);
        Ok(if stopped { FinishReason::Stop } else { reason })
    }

    /// What tells the end, where it came. Whoever is told may ask for a model that takes this one's
    /// place, so that it is let go before.
    fn ended(self) -> impl FnOnce() {
        let Self {
            model,
            cache,
            sender,
            prompt,
            count,
            end,
            ..
        } = self;
        drop((model, cache));
        move || {
            if let Some(end) = end {
                sender.end(end.map(|finish_reason| GenerationSummary {
                    finish_reason,
                    prompt_tokens: prompt.len() as u64,
                    completion_tokens: count,
                }));
            }
        }
    }
}

/// Tells the ends of texts, which have let their models go by then.
fn tell(texts: impl Iterator<Item = Text>) {
    let told: Vec<_> = texts.map(Text::ended).collect();
    for tell in told {
        tell();
    }
}

/// The thread.
pub(super) fn run(shared: &Shared, compute: &dyn Compute) {
    let mut texts = Vec::new();
    while join(shared, &mut texts) {
        step(shared, compute, &mut texts);
    }
}

/// Lets texts join while there is a place, and waits where there are none; false at the end.
fn join(shared: &Shared, texts: &mut Vec<Text>) -> bool {
    texts.retain(|text| !text.is_cancelled());
    let mut queues = shared.queues();
    loop {
        if queues.stopping {
            // Those that wait are told by what they are fed from: it is gone.
            queues.texts.clear();
            return false;
        }
        queues.texts.retain(|text| !text.is_cancelled());
        while let Some(at) = next(&queues.texts, texts, &shared.generate) {
            let mut text = queues.texts.remove(at);
            text.make_room();
            texts.push(text);
        }
        if !texts.is_empty() {
            return true;
        }
        queues = shared
            .generates
            .wait(queues)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Which of those that wait joins; none where there is no place, or no memory for who is
/// next: smaller ones do not overtake it.
fn next(waiting: &[Text], texts: &[Text], limits: &GenerateLimits) -> Option<usize> {
    if texts.len() >= limits.texts {
        return None;
    }
    let has = |same: &dyn Fn(&Caller) -> bool| {
        let own = texts.iter().filter(|text| same(&text.caller));
        own.count()
    };
    let (at, text) = waiting
        .iter()
        .enumerate()
        .filter_map(|(at, text)| {
            let own = has(&|caller| *caller == text.caller);
            let namespace = has(&|caller| caller.namespace == text.caller.namespace);
            // As of what may wait.
            let places = limits.texts;
            let free = own < places.div_ceil(2) && namespace < places - places / 4;
            free.then_some(((namespace, own, text.arrived), (at, text)))
        })
        .min_by_key(|(order, _)| *order)?
        .1;
    let used: u64 = texts.iter().map(|text| text.bytes).sum();
    (used + text.bytes <= limits.cache_bytes).then_some(at)
}

/// One step of every text, model by model.
fn step(shared: &Shared, compute: &dyn Compute, texts: &mut Vec<Text>) {
    let mut models: Vec<Arc<Loaded>> = Vec::new();
    for text in &*texts {
        if models.iter().all(|model| model.id != text.model.id) {
            models.push(Arc::clone(&text.model));
        }
    }
    for model in models {
        let mut own: Vec<&mut Text> = texts
            .iter_mut()
            .filter(|text| text.model.id == model.id)
            .collect();
        if let Err(message) = step_of(shared, compute, &model, &mut own) {
            tracing::error!(message, model = model.name, "a step failed");
            let openings = model.openings;
            drop(model);
            return fail(shared, texts, &message, openings);
        }
    }
    let (ended, going): (Vec<Text>, Vec<Text>) = std::mem::take(texts)
        .into_iter()
        .partition(|text| text.end.is_some());
    *texts = going;
    tell(ended.into_iter());
}

/// All texts meet the same device: they fail, and it is opened again.
fn fail(shared: &Shared, texts: &mut Vec<Text>, message: &str, openings: u64) {
    let mut failed = std::mem::take(texts);
    failed.append(&mut shared.queues().texts);
    let error = super::compute::failure(message, "batch");
    // Before anybody is told: who tries again meets a device that was opened again.
    shared.models.recover(openings);
    for text in &mut failed {
        text.end.get_or_insert(Err(error.clone()));
    }
    tell(failed.into_iter());
}

/// How many tokens each text reads now: its latest one, or a part of its prompt.
fn shares(texts: &[&mut Text], tokens: usize) -> Vec<usize> {
    let mut shares = vec![1; texts.len()];
    let mut reading: Vec<usize> = (0..texts.len())
        .filter(|&at| texts[at].unread() > 0)
        .collect();
    let mut left = tokens.saturating_sub(texts.len() - reading.len());
    // What a short prompt leaves is the others'.
    reading.sort_by_key(|&at| texts[at].unread());
    for (number, &at) in reading.iter().enumerate() {
        let share = (left / (reading.len() - number)).clamp(1, texts[at].unread());
        left = left.saturating_sub(share);
        shares[at] = share;
    }
    shares
}

fn step_of(
    shared: &Shared,
    compute: &dyn Compute,
    model: &Loaded,
    texts: &mut [&mut Text],
) -> Result<(), String> {
    let shares = shares(texts, shared.generate.tokens);
    let begin = Instant::now();
    let mut chunks: Vec<Chunk<'_>> = texts
        .iter_mut()
        .zip(&shares)
        .map(|(text, &share)| {
            text.sender.begin();
            let last = share == text.unread();
            let tokens = if text.unread() == 0 {
                std::slice::from_ref(&text.latest)
            } else {
                &text.prompt[text.read..text.read + share]
            };
            Chunk {
                tokens,
                wanted: usize::from(last || text.read == text.prompt.len()),
                cache: &mut text.cache,
            }
        })
        .collect();
    let wanted: usize = chunks.iter().map(|chunk| chunk.wanted).sum();
    let total: usize = shares.iter().sum();
    let computed = catch_unwind(AssertUnwindSafe(|| compute.read_on(model, &mut chunks)))
        .unwrap_or_else(|panic| Err(crate::panic_message(panic.as_ref())))?;
    if computed.len() != wanted {
        return Err(format!(
            "a step has {} answers, of {wanted}",
            computed.len()
        ));
    }
    let took = begin.elapsed();
    let gpu = shared.models.device().is_gpu();
    let mut computed = computed.iter();
    for (text, share) in texts.iter_mut().zip(shares) {
        let own: Duration = took.mul_f64(share as f64 / total as f64);
        text.sender.used(|usage| {
            usage.computed += own;
            usage.gpu |= gpu;
        });
        text.read += share.min(text.unread());
        if text.unread() == 0
            && let Some(logits) = computed.next()
        {
            let logits = match logits {
                Ok(logits) => logits,
                // The device is well, and so are the other texts.
                Err(error) => {
                    tracing::error!(%error, model = model.name, "a text cannot go on");
                    text.end = Some(Err(InferenceError::Internal));
                    continue;
                }
            };
            // A panic of a tokenizer costs one text, not the thread.
            let went = catch_unwind(AssertUnwindSafe(|| text.go_on(logits)));
            if let Err(panic) = went {
                let message = crate::panic_message(panic.as_ref());
                tracing::error!(message, model = model.name, "a token could not be read");
                text.end = Some(Err(InferenceError::Internal));
            }
        }
    }
    Ok(())
}

/// A decoder's step on the threads that compute.
pub(super) fn read_on(model: &Loaded, chunks: &mut [Chunk<'_>]) -> Result<Vec<Computed>, String> {
    let decoder: &Decoder = model.model.decoder().ok_or("it is no decoder")?;
    decoder.read_on(chunks)
}

#[cfg(test)]
mod tests;
