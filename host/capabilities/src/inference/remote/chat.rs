//! Generation by an endpoint: streamed, and never begun again after its first piece.

use std::collections::VecDeque;

use heyday_inference::{
    Caller, FinishReason, GenerateRequest, Generation, GenerationSender, GenerationSummary,
    InferenceError, Meter, Task,
};
use reqwest::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, Failed, Mask, is_stream};
use super::wire::{Refusal, Usage};
use super::{Inner, RemoteConfig};
use crate::error::chain;
use crate::http::sse::Parser;

/// Bytes of one answer.
const ANSWER_BYTES: usize = 16 << 20;
/// Tokens that an endpoint is believed to have read or written: what it says is added up.
const MOST_TOKENS: u64 = 1 << 32;
/// The data of a stream's last event.
const DONE: &str = "[DONE]";

/// What is in an event; all else in it is not asked for.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    /// Of `/completions`.
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta {
    content: Option<String>,
}

/// What comes next of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Piece(String),
    End(GenerationSummary),
}

/// An answer that is being read.
struct Answer {
    response: Response,
    mask: Mask,
    parser: Parser,
    events: VecDeque<String>,
    reason: Option<FinishReason>,
    usage: Usage,
    bytes: usize,
    /// Pieces so far: each is a token at least.
    pieces: u64,
}

impl Answer {
    fn new(response: Response, mask: Mask) -> Result<Self, Failed> {
        if !is_stream(&response) {
            return Err(Failed::Odd("its answer is no stream of events".to_owned()));
        }
        Ok(Self {
            response,
            mask,
            parser: Parser::foreign(),
            events: VecDeque::new(),
            reason: None,
            usage: Usage::default(),
            bytes: 0,
            pieces: 0,
        })
    }

    async fn next(&mut self, client: &Client) -> Result<Next, Failed> {
        loop {
            while let Some(data) = self.events.pop_front() {
                if let Some(next) = self.event(&data)? {
                    return Ok(next);
                }
            }
            let chunk = tokio::time::timeout(client.timeout(), self.response.chunk()).await;
            let chunk = chunk
                .map_err(|_| Failed::again("it keeps silent within its answer"))?
                .map_err(|error| Failed::again(chain(&error.without_url())))?;
            let Some(chunk) = chunk else {
                // Some leave out the last event.
                return match self.reason {
                    Some(_) => Ok(Next::End(self.summary())),
                    None => Err(Failed::again("its answer was cut off")),
                };
            };
            let events = self.parser.feed(&chunk);
            let events = events.map_err(|error| Failed::Odd(error.to_string()))?;
            self.events.extend(events.into_iter().map(|it| it.data));
        }
    }

    fn event(&mut self, data: &str) -> Result<Option<Next>, Failed> {
        if data == DONE {
            return match self.reason {
                Some(_) => Ok(Some(Next::End(self.summary()))),
                None => Err(Failed::again("its answer ended without a reason")),
            };
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(|error| {
            let why = self.mask.told(&error.to_string());
            Failed::Odd(format!("an event of its answer: {why}"))
        })?;
        if let Some(error) = chunk.error {
            let refusal = Refusal::of(&error);
            let said = format!("{} {}", refusal.code, refusal.message);
            return Err(Failed::again(format!(
                "it failed within its answer: {}",
                self.mask.told(&said)
            )));
        }
        if let Some(usage) = chunk.usage {
            self.usage = usage;
        }
        let Some(choice) = chunk.choices.into_iter().next() else {
            return Ok(None);
        };
        match choice.finish_reason.as_deref() {
            None => {}
            Some("length") => self.reason = Some(FinishReason::Length),
            Some("content_filter") => {
                let why = "the service that runs the model filtered the answer";
                return Err(Failed::Invalid(why.to_owned()));
            }
            Some(_) => self.reason = Some(FinishReason::Stop),
        }
        let text = choice.delta.content.or(choice.text).unwrap_or_default();
        if text.is_empty() {
            return Ok(None);
        }
        self.bytes += text.len();
        self.pieces += 1;
        if self.bytes > ANSWER_BYTES {
            return Err(Failed::Odd(format!(
                "its answer has over {ANSWER_BYTES} bytes"
            )));
        }
        Ok(Some(Next::Piece(text)))
    }

    fn summary(&self) -> GenerationSummary {
        let told = |tokens: Option<u64>| tokens.unwrap_or_default().min(MOST_TOKENS);
        GenerationSummary {
            finish_reason: self.reason.unwrap_or(FinishReason::Stop),
            prompt_tokens: told(self.usage.prompt_tokens),
            completion_tokens: told(self.usage.completion_tokens).max(self.pieces),
        }
    }
}

/// The path, and what is asked there.
fn request(config: &RemoteConfig, request: GenerateRequest) -> (&'static str, Value) {
    let mut body = json!({
        "model": config.model,
        "stream": true,
        "stream_options": { "include_usage": true },
        (config.token_limit.name()): request.max_tokens(),
    });
    let path = match request.prompt {
        Some(prompt) => {
            body["prompt"] = prompt.into();
            "completions"
        }
        None => {
            // Roles and texts cannot fail to be written.
            body["messages"] = serde_json::to_value(&request.messages).unwrap_or_default();
            "chat/completions"
        }
    };
    let further = [
        ("temperature", request.temperature.map(Value::from)),
        ("top_p", request.top_p.map(Value::from)),
        ("top_k", request.top_k.map(Value::from)),
        ("seed", request.seed.map(Value::from)),
        (
            "stop",
            (!request.stop.is_empty()).then(|| request.stop.into()),
        ),
    ];
    for (name, value) in further {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    (path, body)
}

impl Inner {
    pub(super) async fn generate(
        self: std::sync::Arc<Self>,
        caller: &Caller,
        asked: GenerateRequest,
        meter: &Meter,
    ) -> Result<Generation, InferenceError> {
        self.check_task(Task::Generate, "generate text")?;
        let (sender, generation) = Generation::channel();
        let place = self.gate.enter(caller).await?;
        // The meter has what it takes until there is a text, and the text's handle all of it.
        let _running = meter.run();
        sender.begin();
        sender.run();
        let (path, body) = request(&self.config, asked);
        // An answer begins with its first piece: until then it may be asked for again.
        let mut attempt = 1;
        let (mut answer, first) = loop {
            match self.begin(path, &body).await {
                Ok(begun) => break begun,
                Err(failed) => {
                    let waited = self.client.wait(&mut attempt, failed).await;
                    waited.map_err(|failed| self.told(failed))?;
                }
            }
        };
        tokio::spawn(async move {
            let end = tokio::select! {
                end = self.pass_on(&mut answer, first, &sender) => end,
                // The connection ends with the answer, and with it the endpoint's work.
                () = sender.closed() => return,
            };
            // Before anybody is told: who asks again then has the place, and who has not read all
            // of the text yet keeps it from nobody.
            drop((answer, place));
            if let Ok(summary) = &end {
                sender.used(|usage| {
                    usage.prompt_tokens = summary.prompt_tokens;
                    usage.completion_tokens = summary.completion_tokens;
                });
            }
            sender.end(end);
        });
        Ok(generation)
    }

    async fn begin(&self, path: &str, body: &Value) -> Result<(Answer, Next), Failed> {
        let (response, mask) = self.client.send(path, body).await?;
        let mut answer = Answer::new(response, mask)?;
        let first = answer.next(&self.client).await?;
        Ok((answer, first))
    }

    async fn pass_on(
        &self,
        answer: &mut Answer,
        first: Next,
        sender: &GenerationSender,
    ) -> Result<GenerationSummary, InferenceError> {
        let mut next = first;
        loop {
            let text = match next {
                Next::End(summary) => return Ok(summary),
                Next::Piece(text) => text,
            };
            sender.used(|usage| usage.completion_tokens = answer.pieces);
            sender.piece(text);
            self.room(sender).await?;
            let read = answer.next(&self.client).await;
            next = read.map_err(|failed| self.told(failed))?;
        }
    }

    /// Waits where who reads the text here is far behind: how much an endpoint says is its own
    /// choice, and no more of it is kept. The endpoint has nothing to do meanwhile, but its place is
    /// taken, so that one that reads nothing at all is not waited for longer than the endpoint.
    async fn room(&self, sender: &GenerationSender) -> Result<(), InferenceError> {
        let patience = self.client.timeout();
        sender.pause();
        let room = tokio::time::timeout(patience, sender.room()).await;
        sender.run();
        room.map_err(|_| {
            InferenceError::LimitExceeded(format!(
                "nothing of the text was read for {} s, while more of it came than is kept: read \
                 it as it comes",
                patience.as_secs_f64()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::{Duration, Instant};

    use heyday_inference::{Message, Role};
    use zeroize::Zeroizing;

    use super::super::RemoteModel;
    use super::*;
    use crate::bindings::Bindings;

    fn config() -> RemoteConfig {
        let config = serde_json::from_value(json!({
            "url": "http://127.0.0.1:9/v1", "model": "large", "task": "generate", "window": 4096,
        }));
        config.expect("a configuration")
    }

    fn inner(config: &RemoteConfig) -> Arc<Inner> {
        let runtime = tokio::runtime::Handle::current();
        let model = RemoteModel::new("ours", config, &Bindings::default(), runtime);
        Arc::clone(&model.expect("a model").inner)
    }

    const PIECES: u64 = 1_000;
    const PIECE: usize = 1 << 10;

    /// An answer of that many pieces, all of which is there.
    fn long_answer() -> Answer {
        let event = |text: &str, reason: Option<&str>| {
            let choice = json!({ "delta": { "content": text }, "finish_reason": reason });
            format!("data: {}\n\n", json!({ "choices": [choice] }))
        };
        let mut events = event(&"x".repeat(PIECE), None).repeat(PIECES as usize);
        events += &event("", Some("stop"));
        events += "data: [DONE]\n\n";
        answer(events, None)
    }

    /// An answer of these events, to a request with that key.
    fn answer(events: String, key: Option<&str>) -> Answer {
        let response = http::Response::builder()
            .header("content-type", "text/event-stream")
            .body(events)
            .expect("an answer");
        let mask = Mask(key.map(|key| Zeroizing::new(key.to_owned())));
        Answer::new(Response::from(response), mask).expect("a stream")
    }

    #[tokio::test]
    async fn what_is_said_within_an_answer_is_told_short_and_without_the_key() {
        let inner = inner(&config());
        let words = format!("wrong key: sk-secret {}", "x".repeat(10_000));
        for event in [
            json!({ "error": { "message": words } }),
            // Why it is none has its words, too.
            json!({ "choices": words }),
        ] {
            let mut answer = answer(format!("data: {event}\n\n"), Some("sk-secret"));
            let failed = answer.next(&inner.client).await.expect_err("no piece");
            let (Failed::Again { why, .. } | Failed::Odd(why)) = failed else {
                panic!("{failed:?}");
            };
            assert!(why.contains("wrong key: *** x"), "{why}");
            assert!(why.len() < 1_000, "{why}");
        }
    }

    #[tokio::test]
    async fn what_an_endpoint_counts_can_be_added_up() {
        let inner = inner(&config());
        let usage = json!({ "prompt_tokens": u64::MAX, "completion_tokens": u64::MAX });
        let choice = json!({ "delta": { "content": "a" }, "finish_reason": "stop" });
        let event = json!({ "choices": [choice], "usage": usage });
        let mut answer = answer(format!("data: {event}\n\ndata: [DONE]\n\n"), None);
        let piece = answer.next(&inner.client).await.expect("a piece");
        assert_eq!(piece, Next::Piece("a".to_owned()));
        let end = answer.next(&inner.client).await.expect("an end");
        let Next::End(summary) = end else {
            panic!("{end:?}");
        };
        let all = summary.prompt_tokens.checked_add(summary.completion_tokens);
        assert_eq!(all, Some(2 * MOST_TOKENS));
    }

    #[tokio::test]
    async fn an_answer_that_is_read_slowly_is_not_kept_here_nor_counted_as_computed() {
        let begun = Instant::now();
        let inner = inner(&config());
        let mut answer = long_answer();
        let (sender, mut generation) = Generation::channel();
        let first = answer.next(&inner.client).await.expect("a piece");
        sender.run();
        let mut passing = Box::pin(inner.pass_on(&mut answer, first, &sender));
        // All of it is there, so that it goes on until it waits for its reader.
        for _ in 0..PIECES {
            let poll = std::future::poll_fn(|context| Poll::Ready(passing.as_mut().poll(context)));
            assert!(poll.await.is_pending());
        }
        let passed = generation.usage().completion_tokens;
        assert!((1..PIECES).contains(&passed), "{passed}");
        // Some time passes, which is its reader's.
        let waits = Instant::now();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let waited = waits.elapsed();
        let read = async {
            let mut bytes = 0;
            while bytes < PIECE * PIECES as usize {
                let text = generation.next().await.expect("a text");
                bytes += text.expect("a piece").len();
            }
        };
        let (summary, ()) = futures::join!(passing, read);
        assert_eq!(summary.expect("an end").completion_tokens, PIECES);
        let computed = generation.usage().computed;
        assert!(computed > Duration::ZERO);
        assert!(computed + waited <= begun.elapsed(), "{computed:?}");
    }

    #[tokio::test]
    async fn the_time_of_what_never_begins_or_never_ends_is_the_endpoint_s() {
        let moment = Duration::from_millis(50);
        // It takes connections, and never answers.
        let endpoint = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = endpoint.local_addr().expect("an address");
        let inner = inner(&RemoteConfig {
            url: format!("http://{address}/v1"),
            timeout_ms: 50,
            attempts: 1,
            ..config()
        });
        let me = Caller {
            namespace: "default".to_owned(),
            plugin: "me".to_owned(),
        };
        let asked = GenerateRequest {
            prompt: Some("once".to_owned()),
            ..GenerateRequest::default()
        };
        let meter = Meter::start();
        let failed = inner.generate(&me, asked, &meter).await;
        failed.expect_err("it keeps silent");
        let used = meter.usage();
        assert!(used.computed >= moment, "{used:?}");
        assert!(used.queued < used.computed, "{used:?}");

        // After its first piece nothing comes, until its reader goes.
        let (sender, generation) = Generation::channel();
        sender.run();
        sender.piece("once");
        tokio::time::sleep(moment).await;
        assert!(generation.usage().computed >= moment);
        drop(sender);
        let ended = generation.usage();
        tokio::time::sleep(moment).await;
        assert_eq!(generation.usage(), ended);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_is_not_waited_for_without_end() {
        let inner = inner(&RemoteConfig {
            timeout_ms: 50,
            ..config()
        });
        let mut answer = long_answer();
        let (sender, mut generation) = Generation::channel();
        let first = answer.next(&inner.client).await.expect("a piece");
        let passing = inner.pass_on(&mut answer, first, &sender);
        let end = tokio::time::timeout(Duration::from_secs(60), passing).await;
        let end = end.expect("it ends");
        assert!(
            matches!(end, Err(InferenceError::LimitExceeded(_))),
            "{end:?}"
        );
        // What came is there still, and then why no more does.
        sender.end(end.clone());
        let text = generation.next().await.expect("a text").expect("a piece");
        assert!((1..PIECE * PIECES as usize).contains(&text.len()));
        assert_eq!(generation.next().await, end.map(|_| None));
    }

    #[test]
    fn only_what_was_said_is_asked() {
        let config = config();
        let asked = GenerateRequest {
            messages: vec![Message {
                role: Role::User,
                content: "hi".to_owned(),
            }],
            max_tokens: Some(5),
            ..GenerateRequest::default()
        };
        let (path, body) = request(&config, asked);
        assert_eq!(path, "chat/completions");
        let expected = json!({
            "model": "large", "stream": true, "stream_options": { "include_usage": true },
            "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }],
        });
        assert_eq!(body, expected);
        let asked = GenerateRequest {
            prompt: Some("once".to_owned()),
            temperature: Some(0.0),
            stop: vec![".".to_owned()],
            seed: Some(7),
            ..GenerateRequest::default()
        };
        let newer = RemoteConfig {
            token_limit: super::super::TokenLimit::MaxCompletionTokens,
            ..config
        };
        let (path, body) = request(&newer, asked);
        assert_eq!(path, "completions");
        assert_eq!(body["max_completion_tokens"], 1_024);
        assert_eq!((&body["seed"], &body["stop"]), (&json!(7), &json!(["."])));
        assert!(body.get("messages").is_none() && body.get("top_p").is_none());
    }
}
