//! What generation is for its callers: the request, and the handle of the text that comes.
//!
//! Whoever generates, a decoder here or a service elsewhere, holds a [`GenerationSender`];
//! the caller holds the [`Generation`]. Dropping that is how it is stopped: the sender sees
//! it at its next piece, or by [`GenerationSender::closed`]. What was used is told by the
//! sender as it goes, so that it is known of a generation that was dropped in the middle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

use crate::error::InferenceError;

/// Messages of one request.
const MESSAGES: usize = 1_024;
/// Texts that end an answer, and bytes of each.
const STOPS: usize = 16;
const STOP_BYTES: usize = 256;
/// Tokens of an answer where the request says nothing.
const MAX_TOKENS: u32 = 1_024;
/// Bytes of a text by which its reader is behind before [`GenerationSender::room`] waits: more
/// than most answers have.
const BEHIND: usize = 256 << 10;
/// Whole numbers up to this are the same in every JSON.
const MOST_SEED: u64 = (1 << 53) - 1;

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// What a tool answered.
    Tool,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What.
    pub content: String,
}

/// What is to be generated. [`GenerateRequest::check`] says what is in range.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateRequest {
    /// A conversation, of which the model's chat template makes a prompt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// Or a text that is continued as it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The most tokens of the answer; [`GenerateRequest::max_tokens`] has the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The answer ends before the first of these texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// 0 takes the likeliest token; 1 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability are drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Only so many of the likeliest tokens are drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// The same request with the same seed gives the same text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl GenerateRequest {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`InferenceError::InvalidRequest`], with what is wrong.
    pub fn from_json(json: &str) -> Result<Self, InferenceError> {
        // serde takes a list as the members in their order.
        if !json.trim_ascii_start().starts_with('{') {
            let message = "the request is no JSON object".to_owned();
            return Err(InferenceError::InvalidRequest(message));
        }
        let request: Self = serde_json::from_str(json)
            .map_err(|error| InferenceError::InvalidRequest(format!("the request: {error}")))?;
        request.check()?;
        Ok(request)
    }

    /// Finds what is out of range.
    ///
    /// # Errors
    /// [`InferenceError::InvalidRequest`], with what is wrong.
    pub fn check(&self) -> Result<(), InferenceError> {
        let temperature = self.temperature.unwrap_or(1.0);
        let top_p = self.top_p.unwrap_or(1.0);
        let message = if self.messages.is_empty() == self.prompt.is_none() {
            "a request has either `messages` or a `prompt`".to_owned()
        } else if self.messages.len() > MESSAGES {
            let count = self.messages.len();
            format!("`messages` has {count} of them, over {MESSAGES}")
        } else if self.max_tokens == Some(0) {
            "`max_tokens` is 1 or more".to_owned()
        } else if self.stop.len() > STOPS {
            format!("`stop` has {} texts, over {STOPS}", self.stop.len())
        } else if let Some(at) = self
            .stop
            .iter()
            .position(|stop| !(1..=STOP_BYTES).contains(&stop.len()))
        {
            format!("`stop[{at}]` has 1 to {STOP_BYTES} bytes")
        } else if !(0.0..=2.0).contains(&temperature) {
            format!("`temperature` is 0 to 2, not {temperature}")
        } else if !(top_p > 0.0 && top_p <= 1.0) {
            format!("`top_p` is over 0 and at most 1, not {top_p}")
        } else if self.top_k == Some(0) {
            "`top_k` is 1 or more".to_owned()
        } else if self.seed.is_some_and(|seed| seed > MOST_SEED) {
            format!("`seed` is at most {MOST_SEED}")
        } else {
            return Ok(());
        };
        Err(InferenceError::InvalidRequest(message))
    }

    /// The most tokens of the answer.
    #[must_use]
    pub fn max_tokens(&self) -> u32 {
        self.max_tokens.unwrap_or(MAX_TOKENS)
    }

    /// Bytes of its texts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let messages = self.messages.iter().map(|message| message.content.len());
        let prompt = self.prompt.as_ref().map_or(0, String::len);
        messages.sum::<usize>().saturating_add(prompt)
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a text of `stop` came.
    Stop,
    /// `max_tokens`, or the end of the window.
    Length,
}

/// What is known of a text at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationSummary {
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt, with those that the chat template adds.
    pub prompt_tokens: u64,
    /// Tokens that were generated, with the one that ended the text.
    pub completion_tokens: u64,
}

/// What a generation used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GenerationUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens that were generated.
    pub completion_tokens: u64,
    /// From its admission until the first of it was computed.
    pub queued: Duration,
    /// Its share of the time of its batches.
    pub computed: Duration,
    /// Whether that was a GPU's time.
    pub gpu: bool,
}

enum Event {
    Piece(String),
    End(Result<GenerationSummary, InferenceError>),
}

/// What was used so far.
#[derive(Debug)]
struct Metered {
    usage: GenerationUsage,
    /// Since when it waits for its first step; none when it does not any more.
    waits: Option<Instant>,
    /// Since when it is computed elsewhere, where it is now.
    runs: Option<Instant>,
    /// Bytes of the text that were sent and not read.
    unread: usize,
}

impl Metered {
    fn begin(&mut self) {
        if let Some(since) = self.waits.take() {
            self.usage.queued = since.elapsed();
        }
    }

    fn pause(&mut self) {
        if let Some(since) = self.runs.take() {
            self.usage.computed += since.elapsed();
        }
    }
}

/// What both ends of a text share.
#[derive(Debug)]
struct Shared {
    metered: Mutex<Metered>,
    /// Some of it was read.
    read: Notify,
}

impl Shared {
    fn metered(&self) -> MutexGuard<'_, Metered> {
        self.metered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text that is being generated. Dropping it stops that.
pub struct Generation {
    events: mpsc::UnboundedReceiver<Event>,
    shared: Arc<Shared>,
    end: Option<Result<GenerationSummary, InferenceError>>,
    /// Its place in a queue, given back with it.
    _held: Option<Box<dyn Send + Sync>>,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("usage", &self.usage())
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Generation {
    /// A handle, and what feeds it.
    #[must_use]
    pub fn channel() -> (GenerationSender, Self) {
        let (sender, events) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            metered: Mutex::new(Metered {
                usage: GenerationUsage::default(),
                waits: Some(Instant::now()),
                runs: None,
                unread: 0,
            }),
            read: Notify::new(),
        });
        let generation = Self {
            events,
            shared: Arc::clone(&shared),
            end: None,
            _held: None,
        };
        let sender = GenerationSender {
            events: sender,
            shared,
        };
        (sender, generation)
    }

    /// Keeps something until the handle is dropped.
    #[must_use]
    pub fn holding(mut self, held: impl Send + Sync + 'static) -> Self {
        self._held = Some(Box::new(held));
        self
    }

    /// Waits for more of the text and answers all that is there: never an empty one. None at
    /// its end, and again after it. A future that is dropped loses nothing.
    ///
    /// # Errors
    /// Why it did not come to its end; the same again when asked again.
    pub async fn next(&mut self) -> Result<Option<String>, InferenceError> {
        let mut text = String::new();
        while self.end.is_none() {
            let event = if text.is_empty() {
                self.events.recv().await
            } else {
                match self.events.try_recv() {
                    Ok(event) => Some(event),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                }
            };
            match event {
                Some(Event::Piece(piece)) => text.push_str(&piece),
                Some(Event::End(end)) => self.end = Some(end),
                // Who fed it is gone without a word.
                None => self.end = Some(Err(InferenceError::Stopping)),
            }
        }
        if !text.is_empty() {
            self.shared.metered().unread -= text.len();
            self.shared.read.notify_one();
            return Ok(Some(text));
        }
        match &self.end {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(None),
        }
    }

    /// Why it ended and how long it is; only after [`next`](Self::next) answered none.
    #[must_use]
    pub const fn summary(&self) -> Option<&GenerationSummary> {
        match &self.end {
            Some(Ok(summary)) => Some(summary),
            _ => None,
        }
    }

    /// What it used so far. Until its first step all of its time was spent waiting.
    #[must_use]
    pub fn usage(&self) -> GenerationUsage {
        let metered = self.shared.metered();
        let mut usage = metered.usage;
        if let Some(since) = metered.waits {
            usage.queued = since.elapsed();
        }
        if let Some(since) = metered.runs {
            usage.computed += since.elapsed();
        }
        usage
    }

    /// All of the text.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn text(&mut self) -> Result<String, InferenceError> {
        let mut text = String::new();
        while let Some(piece) = self.next().await? {
            text.push_str(&piece);
        }
        Ok(text)
    }
}

/// What feeds a [`Generation`]. A piece is never refused for lack of room: a text whose length is
/// bounded is sent to its end however slowly it is read, so that what it takes to make it is free
/// for others. Who passes on what may be of any length waits for [`room`](Self::room) between
/// pieces.
pub struct GenerationSender {
    events: mpsc::UnboundedSender<Event>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for GenerationSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GenerationSender").finish_non_exhaustive()
    }
}

impl GenerationSender {
    /// More of the text; an empty one is left out. False where nobody reads it any more.
    pub fn piece(&self, text: impl Into<String>) -> bool {
        let text = text.into();
        if text.is_empty() {
            return !self.is_closed();
        }
        // Before it can be read.
        self.shared.metered().unread += text.len();
        self.events.send(Event::Piece(text)).is_ok()
    }

    /// Waits while its reader is 256 KiB behind, unless nobody reads it any more.
    pub async fn room(&self) {
        while self.shared.metered().unread >= BEHIND {
            tokio::select! {
                () = self.shared.read.notified() => {}
                () = self.events.closed() => return,
            }
        }
    }

    /// The end of the text, or why it does not come.
    pub fn end(self, end: Result<GenerationSummary, InferenceError>) {
        // One that never began waits no longer either, before anybody is told.
        self.begin();
        self.pause();
        // Nobody may wait for it any more.
        let _ = self.events.send(Event::End(end));
    }

    /// It waits no longer since its handle was made: its first step begins.
    pub fn begin(&self) {
        self.shared.metered().begin();
    }

    /// It is computed elsewhere from here on, where nobody tells its share: all of its time counts,
    /// until it pauses or ends.
    pub fn run(&self) {
        self.shared.metered().runs.get_or_insert_with(Instant::now);
    }

    /// Nothing of it is computed until it runs again.
    pub fn pause(&self) {
        self.shared.metered().pause();
    }

    /// Tells what was used.
    pub fn used(&self, change: impl FnOnce(&mut GenerationUsage)) {
        change(&mut self.shared.metered().usage);
    }

    /// Whether nobody reads it any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Waits until nobody reads it any more.
    pub async fn closed(&self) {
        self.events.closed().await;
    }
}

impl Drop for GenerationSender {
    fn drop(&mut self) {
        // It never comes to its first step then, or goes no further.
        self.begin();
        self.pause();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[test]
    fn a_request_is_checked_when_it_is_read() {
        let whole = r#"{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5,
            "stop": ["\n"], "temperature": 0, "top_p": 0.5, "top_k": 3, "seed": 7}"#;
        let request = GenerateRequest::from_json(whole).expect("a request");
        assert_eq!((request.max_tokens(), request.bytes()), (5, 2));
        let again = serde_json::to_string(&request).expect("JSON");
        assert_eq!(GenerateRequest::from_json(&again), Ok(request));
        let short = GenerateRequest::from_json(r#"{"prompt": ""}"#).expect("a request");
        assert_eq!(short.max_tokens(), 1_024);
        for (json, told) in [
            ("", "no JSON object"),
            ("{", "EOF"),
            ("[]", "no JSON object"),
            ("{}", "either"),
            (
                r#"{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}"#,
                "either",
            ),
            (
                r#"{"messages": [{"role": "boss", "content": "b"}]}"#,
                "boss",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "b", "name": "c"}]}"#,
                "name",
            ),
            (r#"{"prompt": "a", "n": 2}"#, "`n`"),
            (r#"{"prompt": "a", "max_tokens": 0}"#, "max_tokens"),
            (r#"{"prompt": "a", "max_tokens": -1}"#, "-1"),
            (r#"{"messages": []}"#, "either"),
            (r#"{"messages": [{"role": "user"}]}"#, "content"),
            (r#"{"prompt": "a", "stop": "."}"#, "sequence"),
            (r#"{"prompt": "a", "stop": ["b", ""]}"#, "`stop[1]`"),
            (r#"{"prompt": "a", "temperature": 2.5}"#, "`temperature`"),
            (r#"{"prompt": "a", "temperature": -0.1}"#, "`temperature`"),
            // More than the number holds.
            (r#"{"prompt": "a", "temperature": 1e39}"#, "number"),
            (r#"{"prompt": "a", "temperature": 1e999}"#, "number"),
            (r#"{"prompt": "a", "top_p": 0}"#, "`top_p`"),
            (r#"{"prompt": "a", "top_p": -0.5}"#, "`top_p`"),
            (r#"{"prompt": "a", "top_p": 1.1}"#, "`top_p`"),
            (r#"{"prompt": "a", "top_k": 0}"#, "`top_k`"),
            (r#"{"prompt": "a", "seed": -1}"#, "-1"),
            (r#"{"prompt": "a", "seed": 1.5}"#, "1.5"),
            (r#"{"prompt": "a", "seed": 9007199254740992}"#, "`seed`"),
        ] {
            let error = GenerateRequest::from_json(json).expect_err(json);
            assert!(
                matches!(error, InferenceError::InvalidRequest(_)),
                "{error:?}"
            );
            assert!(error.to_string().contains(told), "{json}: {error}");
        }
        let many = GenerateRequest {
            prompt: Some(String::new()),
            stop: vec!["x".to_owned(); 17],
            ..GenerateRequest::default()
        };
        many.check().expect_err("17 texts");
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (temperature, top_p) in [(Some(odd), None), (None, Some(odd))] {
                let not = GenerateRequest {
                    prompt: Some(String::new()),
                    temperature,
                    top_p,
                    ..GenerateRequest::default()
                };
                not.check().expect_err("no number");
            }
        }
    }

    #[tokio::test]
    async fn what_is_ready_comes_as_one_piece_and_the_end_stays() {
        let (sender, mut generation) = Generation::channel();
        assert!(sender.piece("a") && sender.piece("") && sender.piece("b"));
        assert_eq!(generation.next().await, Ok(Some("ab".to_owned())));
        assert_eq!(generation.summary(), None);
        sender.piece("c");
        sender.begin();
        let queued = generation.usage().queued;
        assert!(queued > Duration::ZERO);
        sender.used(|usage| usage.completion_tokens += 3);
        let summary = GenerationSummary {
            finish_reason: FinishReason::Stop,
            prompt_tokens: 1,
            completion_tokens: 3,
        };
        sender.end(Ok(summary));
        assert_eq!(generation.usage().completion_tokens, 3);
        assert_eq!(generation.usage().queued, queued, "the first time counts");
        assert_eq!(generation.next().await, Ok(Some("c".to_owned())));
        for _ in 0..2 {
            assert_eq!(generation.next().await, Ok(None));
        }
        assert_eq!(generation.summary(), Some(&summary));
    }

    #[tokio::test]
    async fn who_sends_may_wait_for_a_slow_reader() {
        let (sender, mut generation) = Generation::channel();
        let half = "x".repeat(BEHIND / 2);
        sender.piece(half.clone());
        sender.room().await;
        sender.piece(half);
        let mut room = Box::pin(sender.room());
        let poll = std::future::poll_fn(|context| Poll::Ready(room.as_mut().poll(context)));
        assert!(poll.await.is_pending());
        let text = generation.next().await.expect("a text").expect("a piece");
        assert_eq!(text.len(), BEHIND);
        room.await;
        // One that nobody reads is not waited for.
        sender.piece("x".repeat(BEHIND));
        let room = sender.room();
        drop(generation);
        room.await;
    }

    #[tokio::test]
    async fn a_failure_is_told_after_the_text_before_it() {
        let (sender, mut generation) = Generation::channel();
        sender.piece("a");
        sender.end(Err(InferenceError::DeviceLost));
        assert_eq!(generation.next().await, Ok(Some("a".to_owned())));
        for _ in 0..2 {
            assert_eq!(generation.next().await, Err(InferenceError::DeviceLost));
        }
        assert_eq!(generation.summary(), None);
        let (sender, mut generation) = Generation::channel();
        drop(sender);
        assert_eq!(generation.next().await, Err(InferenceError::Stopping));
    }

    #[tokio::test]
    async fn who_sends_learns_that_nobody_reads() {
        let (sender, generation) = Generation::channel();
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        let generation = generation.holding(held);
        assert!(!sender.is_closed());
        drop(generation);
        sender.closed().await;
        assert!(sender.is_closed() && !sender.piece("a"));
        dropped.await.expect_err("what it held is gone");
    }
}
