//! What a context answers from, one stack of them per thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use super::LogLine;
use crate::context::{Attempt, CancellationReason};
use crate::error::CapabilityError;

pub(crate) type Objects = BTreeMap<String, Object>;
pub(crate) type HttpHandler =
    dyn FnMut(&super::HttpCall) -> Result<super::HttpReply, CapabilityError>;

pub(crate) struct Object {
    pub(crate) bytes: Vec<u8>,
    /// Rises with every write, in place of a clock.
    pub(crate) revision: u64,
}

impl Object {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        thread_local!(static WRITES: Cell<u64> = const { Cell::new(0) });
        let revision = WRITES.get() + 1;
        WRITES.set(revision);
        Self { bytes, revision }
    }

    pub(crate) fn etag(&self) -> String {
        format!("write-{}", self.revision)
    }
}

/// The values of a key-value store.
#[derive(Default)]
pub(crate) struct Values {
    pub(crate) entries: BTreeMap<String, crate::kv::Entry>,
    /// The sums of additions that have a name, by key and name.
    pub(crate) additions: BTreeMap<(String, String), i64>,
    version: u64,
}

impl Values {
    pub(crate) fn put(&mut self, key: &str, value: Vec<u8>, expires_ms: Option<u64>) -> u64 {
        self.version += 1;
        let entry = crate::kv::Entry {
            value,
            version: self.version,
            expires_ms,
        };
        self.entries.insert(key.to_owned(), entry);
        self.version
    }
}

/// The score of a document for a query.
pub(crate) type Score = dyn Fn(&str, &str) -> f32;
pub(crate) type Generate = dyn Fn(&crate::inference::Request) -> String;

/// What stands in for a model.
#[derive(Clone)]
pub(crate) enum StandIn {
    /// Makes embeddings of so many numbers.
    Embeds(usize),
    /// Scores a document for a query.
    Scores(Rc<Score>),
    /// Answers a request for text.
    Generates(Rc<Generate>),
}

pub(crate) struct State {
    pub(crate) attempt: Attempt,
    pub(crate) remaining: Duration,
    pub(crate) cancelled: Option<CancellationReason>,
    pub(crate) last_heartbeat: Option<Value>,
    pub(crate) heartbeats: Vec<Value>,
    pub(crate) progress: Vec<(u64, u64, String)>,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) blobs: BTreeMap<String, Objects>,
    pub(crate) kv: BTreeMap<String, Values>,
    pub(crate) config: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) http: Option<Rc<RefCell<HttpHandler>>>,
    /// None where one is given out and not there.
    pub(crate) secrets: BTreeMap<String, BTreeMap<String, Option<Vec<u8>>>>,
    pub(crate) vectors: BTreeMap<String, crate::host::vector::Collections>,
    pub(crate) sql: BTreeMap<String, Rc<dyn crate::host::sql::Database>>,
    pub(crate) statements: BTreeMap<String, Vec<String>>,
    pub(crate) graphs: BTreeMap<String, Rc<dyn crate::host::graph::Graph>>,
    pub(crate) graph_statements: BTreeMap<String, Vec<String>>,
    pub(crate) models: BTreeMap<String, StandIn>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            attempt: Attempt {
                namespace: "default".into(),
                workflow_id: "test".into(),
                run_id: "00000000-0000-0000-0000-000000000000".into(),
                activity_id: "1".into(),
                activity_type: "test.test".into(),
                queue: "general-queue".into(),
                attempt: 1,
            },
            remaining: Duration::from_secs(300),
            cancelled: None,
            last_heartbeat: None,
            heartbeats: Vec::new(),
            progress: Vec::new(),
            logs: Vec::new(),
            blobs: BTreeMap::new(),
            kv: BTreeMap::new(),
            config: BTreeMap::new(),
            http: None,
            secrets: BTreeMap::new(),
            vectors: BTreeMap::new(),
            sql: BTreeMap::new(),
            statements: BTreeMap::new(),
            graphs: BTreeMap::new(),
            graph_statements: BTreeMap::new(),
            models: BTreeMap::new(),
        }
    }
}

thread_local!(static ENTERED: RefCell<Vec<State>> = const { RefCell::new(Vec::new()) });

pub(crate) fn push(state: State) {
    ENTERED.with_borrow_mut(|stack| stack.push(state));
}

pub(crate) fn pop() {
    // Dropped after the borrow: a stand-in may hold what uses the SDK.
    let state = ENTERED.with_borrow_mut(Vec::pop);
    drop(state);
}

/// The innermost state; the defaults where the test entered none.
pub(crate) fn with<T>(f: impl FnOnce(&mut State) -> T) -> T {
    ENTERED.with_borrow_mut(|stack| match stack.last_mut() {
        Some(state) => f(state),
        None => f(&mut State::new()),
    })
}
