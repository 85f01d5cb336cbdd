//! An endpoint that speaks OpenAI's protocol, in place of one: what it answers can be told
//! from what it was asked, and a test decides how it fails. It ends with the runtime.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::http_server::{cut, serve};

/// Numbers of its embeddings.
pub const DIMENSIONS: usize = 3;
/// Words of the longest text that it takes.
pub const WINDOW: usize = 16;

/// How it answers a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// With that status, `Retry-After` and body.
    Status(u16, Option<&'static str>, &'static str),
    /// With that text, as a model that makes sense.
    Says(&'static str),
    /// With success and that body.
    Body(&'static str),
    /// With so many bytes.
    Oversize(usize),
    /// Never.
    Silence,
    /// As it should, but the connection is cut after so many pieces.
    CutAfter(usize),
    /// As it should, but after so many pieces it keeps silent.
    SilentAfter(usize),
    /// As it should, but after so many pieces it says that it failed.
    ErrorAfter(usize),
}

/// What it was asked.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
}

/// A running one.
#[derive(Clone)]
pub struct StandIn {
    pub url: String,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// A permit for each silent answer that its client gave up.
    pub left: Arc<Semaphore>,
}

impl StandIn {
    pub async fn start() -> Self {
        let mut stand_in = Self {
            url: String::new(),
            faults: Arc::default(),
            seen: Arc::default(),
            left: Arc::new(Semaphore::new(0)),
        };
        let router = Router::new()
            .route("/v1/{*path}", post(answer))
            .with_state(stand_in.clone());
        let address = serve(router).await.unwrap();
        stand_in.url = format!("http://{address}/v1");
        stand_in
    }

    /// The next requests are answered so.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// What it was asked since the last time.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Adds a permit when it is dropped.
struct Left(Arc<Semaphore>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

async fn answer(
    State(stand_in): State<StandIn>,
    axum::extract::Path(path): axum::extract::Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let authorization = headers.get(header::AUTHORIZATION);
    stand_in.seen.lock().unwrap().push(Seen {
        path: path.clone(),
        authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
        body: body.clone(),
    });
    let fault = stand_in.faults.lock().unwrap().pop_front();
    match fault {
        Some(Fault::Status(status, retry_after, body)) => {
            let mut response = body.to_owned().into_response();
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let headers = response.headers_mut();
            if let Some(after) = retry_after {
                headers.insert(header::RETRY_AFTER, after.parse().unwrap());
            }
            headers.insert(header::LOCATION, "http://127.0.0.1:1/".parse().unwrap());
            response
        }
        Some(Fault::Body(body)) => body.into_response(),
        Some(Fault::Oversize(bytes)) => {
            let piece = Bytes::from(vec![b'['; 1 << 16]);
            let pieces = bytes.div_ceil(piece.len());
            let all = stream::iter(vec![Ok::<_, Infallible>(piece); pieces]);
            Body::from_stream(all).into_response()
        }
        Some(Fault::Silence) => {
            let _left = Left(Arc::clone(&stand_in.left));
            std::future::pending().await
        }
        fault => match &*path {
            "embeddings" => embeddings(&body),
            "rerank" => rerank(&body),
            "chat/completions" => {
                let asked = body["messages"].as_array().and_then(|all| all.last());
                let again = asked.unwrap()["content"].as_str().unwrap();
                let text = match &fault {
                    Some(Fault::Says(text)) => text,
                    _ => again,
                };
                streamed(&stand_in, text, true, fault.clone())
            }
            "completions" => {
                let text = body["prompt"].as_str().unwrap().to_owned();
                streamed(&stand_in, &text, false, fault)
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

fn texts(list: &Value) -> Vec<&str> {
    let all = list.as_array().expect("a list").iter();
    all.map(|text| text.as_str().expect("a text")).collect()
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn too_long(texts: &[&str]) -> Option<Response> {
    let longest = texts.iter().map(|text| words(text)).max().unwrap_or(0);
    (longest > WINDOW).then(|| {
        let body = json!({ "error": {
            "message": format!("{longest} tokens, {WINDOW} at most"),
            "type": "invalid_request_error",
            "code": "context_length_exceeded",
        } });
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    })
}

/// What it makes of a text.
pub fn embedding(text: &str) -> [f32; DIMENSIONS] {
    let vowels = text.chars().filter(|c| "aeiou".contains(*c)).count();
    [words(text) as f32, vowels as f32, 0.25]
}

fn embeddings(body: &Value) -> Response {
    let texts = texts(&body["input"]);
    if let Some(refused) = too_long(&texts) {
        return refused;
    }
    let data = texts.iter().enumerate().map(
        |(index, text)| json!({ "object": "embedding", "index": index, "embedding": embedding(text) }),
    );
    // In another order: the index says which it is.
    let data: Vec<Value> = data.rev().collect();
    let tokens: usize = texts.iter().map(|text| words(text)).sum();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Json(json!({ "object": "list", "data": data, "model": body["model"], "usage": usage }))
        .into_response()
}

/// How often the document has the query.
fn rerank(body: &Value) -> Response {
    let documents = texts(&body["documents"]);
    if let Some(refused) = too_long(&documents) {
        return refused;
    }
    let query = body["query"].as_str().unwrap();
    let mut results: Vec<(usize, usize)> = documents
        .iter()
        .enumerate()
        .map(|(index, text)| (text.matches(query).count(), index))
        .collect();
    results.sort_unstable();
    let results = results.iter().rev().map(|(score, index)| {
        json!({ "index": index, "relevance_score": score, "document": { "text": documents[*index] } })
    });
    Json(json!({ "id": "x", "results": results.collect::<Vec<_>>() })).into_response()
}

/// The text again, word by word.
fn streamed(stand_in: &StandIn, text: &str, chat: bool, fault: Option<Fault>) -> Response {
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({ "id": "x", "choices": choices, "usage": usage });
        format!("data: {chunk}\r\n\r\n")
    };
    let piece = |text: &str, reason: Value| {
        let choice = if chat {
            json!({ "index": 0, "delta": { "content": text }, "finish_reason": reason })
        } else {
            json!({ "index": 0, "text": text, "finish_reason": reason })
        };
        chunk(json!([choice]), Value::Null)
    };
    let mut events = vec![": a comment\n\n".to_owned(), piece("", Value::Null)];
    let before = events.len();
    events.extend(
        text.split_inclusive(' ')
            .map(|word| piece(word, Value::Null)),
    );
    let tokens = events.len() - before;
    events.push(piece("", json!("stop")));
    let usage =
        json!({ "prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens });
    events.push(chunk(json!([]), usage));
    events.push("data: [DONE]\n\n".to_owned());
    let ok = |events: Vec<String>| stream::iter(events).map(Ok::<_, std::io::Error>);
    let first = |pieces: usize| events[..before + pieces].to_vec();
    let body = match fault {
        Some(Fault::CutAfter(pieces)) => Body::from_stream(ok(first(pieces)).chain(cut())),
        Some(Fault::ErrorAfter(pieces)) => {
            let mut events = first(pieces);
            events.push(
                "data: {\"error\":{\"message\":\"it broke\",\"code\":\"broken\"}}\n\n".to_owned(),
            );
            Body::from_stream(ok(events))
        }
        Some(Fault::SilentAfter(pieces)) => {
            let left = Left(Arc::clone(&stand_in.left));
            Body::from_stream(ok(first(pieces)).chain(silent(left)))
        }
        _ => Body::from_stream(ok(events)),
    };
    (
        [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")],
        body,
    )
        .into_response()
}

fn silent(left: Left) -> impl Stream<Item = Result<String, std::io::Error>> {
    stream::once(async move {
        let _left = left;
        std::future::pending().await
    })
}
