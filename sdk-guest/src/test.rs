//! Native unit tests of activities, without a host.
//!
//! A test enters a [`Context`]; until the guard that [`Context::enter`] answers is dropped,
//! the calling thread's `context`, `log` and capabilities are answered from it, and the
//! guard tells what the activity did.
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! fn shout() -> Result<()> {
//!     let container = blob::Container::open("texts")?;
//!     let text = String::from_utf8(container.get("in")?)?;
//!     container.put("out", text.to_uppercase())?;
//!     Ok(())
//! }
//!
//! let test = heyday_sdk::test::Context::new().blob("texts", [("in", "hi")]).enter();
//! shout().unwrap();
//! assert_eq!(test.object("texts", "out").unwrap(), b"HI");
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::context::CancellationReason;
use crate::error::CapabilityError;
use crate::log::Level;
use crate::sql::Rows;

pub use crate::host::http::{HttpCall, HttpReply};

/// A line that was logged.
///
/// ```
/// use heyday_sdk::{log, test::{Context, LogLine}};
///
/// let test = Context::new().enter();
/// log::info!("read"; pages = 3);
/// let LogLine { level, message, fields } = test.logs().remove(0);
/// assert_eq!((level, message.as_str(), &fields["pages"]), (log::Level::Info, "read", &3.into()));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// Its level.
    pub level: Level,
    /// Its text.
    pub message: String,
    /// Its further values.
    pub fields: Map<String, Value>,
}

/// What a stand-in for a database answers a statement.
///
/// ```
/// use heyday_sdk::{params, sql::{Connection, Rows}, test::{Context, SqlAnswer}};
///
/// fn database(statement: &str) -> SqlAnswer {
///     match statement.split(' ').next() {
///         Some("SELECT") => Rows::new(["name"], [vec!["Ada".into()]]).into(),
///         _ => SqlAnswer::changed(1),
///     }
/// }
/// let _test = Context::new().sql("main", |statement, _| Ok(database(statement))).enter();
/// let db = Connection::open("main")?;
/// assert_eq!(db.execute("DELETE FROM people WHERE name = ?1", params!["Bob"])?, 1);
/// assert_eq!(db.query("SELECT name FROM people", &[])?.len(), 1);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SqlAnswer {
    pub(crate) rows: Rows,
    pub(crate) changed: u64,
}

impl SqlAnswer {
    /// No rows; that many were changed.
    ///
    /// ```
    /// use heyday_sdk::{sql::Connection, test::{Context, SqlAnswer}};
    ///
    /// let _test = Context::new().sql("main", |_, _| Ok(SqlAnswer::changed(3))).enter();
    /// assert_eq!(Connection::open("main")?.execute("DELETE FROM drafts", &[])?, 3);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn changed(changed: u64) -> Self {
        Self {
            rows: Rows::from_parts(Vec::new(), Vec::new()),
            changed,
        }
    }
}

impl From<Rows> for SqlAnswer {
    fn from(rows: Rows) -> Self {
        Self { rows, changed: 0 }
    }
}

/// What a stand-in for a graph answers a statement.
///
/// ```
/// use heyday_sdk::{graph::{Changes, Connection, Rows}, test::{Context, GraphAnswer}};
///
/// fn graph(statement: &str) -> GraphAnswer {
///     if statement.starts_with("MATCH") {
///         return Rows::new(["name"], [vec!["Ada".into()]]).into();
///     }
///     Changes { nodes_created: 1, ..Default::default() }.into()
/// }
/// let _test = Context::new().graph("main", |statement, _| Ok(graph(statement))).enter();
/// let people = Connection::open("main")?;
/// assert_eq!(people.execute("CREATE (:Person)", &[])?.nodes_created, 1);
/// assert_eq!(people.query("MATCH (p:Person) RETURN p.name AS name", &[])?.len(), 1);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct GraphAnswer {
    pub(crate) rows: crate::graph::Rows,
    pub(crate) changes: crate::graph::Changes,
}

impl From<crate::graph::Rows> for GraphAnswer {
    fn from(rows: crate::graph::Rows) -> Self {
        Self {
            rows,
            changes: crate::graph::Changes::default(),
        }
    }
}

impl From<crate::graph::Changes> for GraphAnswer {
    fn from(changes: crate::graph::Changes) -> Self {
        Self {
            rows: crate::graph::Rows::from_parts(Vec::new(), Vec::new()),
            changes,
        }
    }
}

/// What an activity meets when a test calls it. Unless set: the first attempt, 5 minutes
/// left, not cancelled, nothing granted.
///
/// ```
/// use heyday_sdk::{context, test::Context};
///
/// // Of several that are entered the last one answers.
/// let _first = Context::new().enter();
/// let _second = Context::new().attempt(2).enter();
/// assert_eq!(context::attempt(), 2);
/// ```
#[must_use = "a context answers nothing before it is entered"]
pub struct Context {
    state: state::State,
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// A context with the defaults.
    ///
    /// ```
    /// let _test = heyday_sdk::test::Context::new().enter();
    /// assert_eq!(heyday_sdk::context::attempt(), 1);
    /// assert!(heyday_sdk::kv::Store::open("default").is_err()); // Nothing is granted.
    /// ```
    pub fn new() -> Self {
        Self {
            state: state::State::new(),
        }
    }

    /// The number of the attempt, from 1.
    ///
    /// ```
    /// let _test = heyday_sdk::test::Context::new().attempt(3).enter();
    /// assert_eq!(heyday_sdk::context::current().attempt, 3);
    /// ```
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.state.attempt.attempt = attempt;
        self
    }

    /// Details of the previous attempt's last heartbeat.
    ///
    /// ```
    /// let _test = heyday_sdk::test::Context::new().last_heartbeat(&("a.pdf", 7)).enter();
    /// let (file, page): (String, u32) = heyday_sdk::context::last_heartbeat().unwrap();
    /// assert_eq!((file.as_str(), page), ("a.pdf", 7));
    /// ```
    ///
    /// # Panics
    /// Where they cannot be written as JSON.
    pub fn last_heartbeat(mut self, details: &impl Serialize) -> Self {
        let details = serde_json::to_value(details).expect("details are JSON");
        self.state.last_heartbeat = Some(details);
        self
    }

    /// How long the attempt has left.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let soon = Duration::from_millis(200);
    /// let _test = heyday_sdk::test::Context::new().remaining(soon).enter();
    /// assert_eq!(heyday_sdk::context::remaining(), soon);
    /// ```
    pub fn remaining(mut self, remaining: Duration) -> Self {
        self.state.remaining = remaining;
        self
    }

    /// The activity was asked to stop, as when somebody cancels the run.
    ///
    /// ```
    /// let _test = heyday_sdk::test::Context::new().cancelled().enter();
    /// assert!(heyday_sdk::context::is_cancelled());
    /// ```
    pub fn cancelled(self) -> Self {
        self.cancelled_for(CancellationReason::CancelRequested)
    }

    /// The activity was asked to stop, for that reason.
    ///
    /// ```
    /// use heyday_sdk::context::{self, CancellationReason};
    ///
    /// let paused = CancellationReason::Paused;
    /// let _test = heyday_sdk::test::Context::new().cancelled_for(paused.clone()).enter();
    /// assert_eq!(context::cancellation_reason(), Some(paused));
    /// ```
    pub fn cancelled_for(mut self, reason: CancellationReason) -> Self {
        self.state.cancelled = Some(reason);
        self
    }

    /// Grants a key-value store of that name, in memory, with these entries (key, value),
    /// which have no end.
    ///
    /// ```
    /// let _test = heyday_sdk::test::Context::new().kv("marks", [("last", "page 7")]).enter();
    /// let last = heyday_sdk::kv::Store::open("marks")?.get("last")?;
    /// assert_eq!(last.unwrap().text()?, "page 7");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn kv<K: AsRef<str>, V: AsRef<[u8]>>(
        mut self,
        binding: &str,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let mut values = state::Values::default();
        for (key, value) in entries {
            values.put(key.as_ref(), value.as_ref().to_vec(), None);
        }
        self.state.kv.insert(binding.to_owned(), values);
        self
    }

    /// Grants settings of that name, with these keys and values.
    ///
    /// ```
    /// let _test = heyday_sdk::test::Context::new().config("mail", [("port", "25")]).enter();
    /// assert_eq!(heyday_sdk::config::Config::open("mail")?.parse("port")?, Some(25));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn config<K: Into<String>, V: Into<String>>(
        mut self,
        binding: &str,
        settings: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let settings = settings.into_iter();
        let settings = settings.map(|(key, value)| (key.into(), value.into()));
        let of_binding = self.state.config.entry(binding.to_owned()).or_default();
        of_binding.extend(settings);
        self
    }

    /// Grants secrets of that name: these, by their names.
    ///
    /// ```
    /// let _test = heyday_sdk::test::Context::new().secrets("mail", [("password", "x")]).enter();
    /// assert_eq!(heyday_sdk::secrets::Secrets::open("mail")?.get("password")?.text()?, "x");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn secrets<K: Into<String>, V: AsRef<[u8]>>(
        mut self,
        binding: &str,
        secrets: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let secrets = secrets.into_iter();
        let secrets = secrets.map(|(name, value)| (name.into(), Some(value.as_ref().to_vec())));
        let of_binding = self.state.secrets.entry(binding.to_owned()).or_default();
        of_binding.extend(secrets);
        self
    }

    /// Grants requests by HTTP. The closure stands in for the other side: it is given each
    /// request and answers it, or fails as the host would.
    ///
    /// ```
    /// use heyday_sdk::{CapabilityError, http::Request, test::Context};
    ///
    /// // Nobody is there.
    /// let away = CapabilityError::new("unavailable", "the name has no address");
    /// let _test = Context::new().http(move |_| Err(away.clone())).enter();
    /// assert!(Request::get("https://example.com/").send().unwrap_err().is("unavailable"));
    /// ```
    pub fn http(
        mut self,
        answer: impl FnMut(&HttpCall) -> Result<HttpReply, CapabilityError> + 'static,
    ) -> Self {
        self.state.http = Some(Rc::new(RefCell::new(answer)));
        self
    }

    /// Grants a vector store of that name, in memory and empty.
    ///
    /// ```
    /// let _test = heyday_sdk::test::Context::new().vector("chunks").enter();
    /// assert!(heyday_sdk::vector::Store::open("chunks")?.collections()?.is_empty());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn vector(mut self, binding: &str) -> Self {
        let store = crate::host::vector::Collections::default();
        self.state.vectors.insert(binding.to_owned(), store);
        self
    }

    /// Grants a container of that name, in memory, with these objects (key, content).
    ///
    /// ```
    /// let _test = heyday_sdk::test::Context::new().blob("scans", [("a.txt", "text")]).enter();
    /// assert_eq!(heyday_sdk::blob::Container::open("scans")?.get("a.txt")?, b"text");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn blob<K: Into<String>, B: AsRef<[u8]>>(
        mut self,
        binding: &str,
        objects: impl IntoIterator<Item = (K, B)>,
    ) -> Self {
        let container = self.state.blobs.entry(binding.to_owned()).or_default();
        for (key, bytes) in objects {
            let object = state::Object::new(bytes.as_ref().to_vec());
            container.insert(key.into(), object);
        }
        self
    }

    /// Grants a database of that name. The closure stands in for it: it is given each
    /// statement with its parameters and answers rows or a number of changed rows. It is
    /// no database: use it for what one does not do when it is asked to, such as to be away,
    /// and `Context::sqlite` for everything else.
    ///
    /// ```
    /// use heyday_sdk::{sql::{Connection, Rows}, test::Context};
    ///
    /// let _test = Context::new()
    ///     .sql("main", |_, params| Ok(Rows::new(["given"], [params.to_vec()]).into()))
    ///     .enter();
    /// let rows = Connection::open("main")?.query("SELECT ?1 AS given", &[7.into()])?;
    /// assert_eq!(rows.first().unwrap().get::<i64>("given")?, 7);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn sql(
        mut self,
        binding: &str,
        answer: impl FnMut(&str, &[crate::sql::Value]) -> Result<SqlAnswer, CapabilityError> + 'static,
    ) -> Self {
        let answering = Rc::new(crate::host::sql::Answering::new(answer));
        self.state.sql.insert(binding.to_owned(), answering);
        self
    }

    /// Grants a SQLite database of that name, in memory, in which these statements ran: the
    /// same dialect, values, limits and errors as a binding of Heyday's own SQLite. It needs the
    /// SDK's feature `sqlite` and a C compiler:
    ///
    /// ```toml
    /// [dev-dependencies]
    /// heyday-sdk = { path = "heyday-sdk", features = ["sqlite"] }
    /// ```
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    ///
    /// fn birthday(name: &str) -> Result<i64> {
    ///     let db = sql::Connection::open("default")?;
    ///     db.execute("UPDATE people SET age = age + 1 WHERE name = ?1", params![name])?;
    ///     let rows = db.query("SELECT age FROM people WHERE name = ?1", params![name])?;
    ///     let row = rows.first().ok_or_else(|| Error::permanent("unknown", name))?;
    ///     Ok(row.get("age")?)
    /// }
    ///
    /// let people = [
    ///     "CREATE TABLE people (name TEXT PRIMARY KEY, age INTEGER NOT NULL)",
    ///     "INSERT INTO people VALUES ('Ada', 35)",
    /// ];
    /// let _test = heyday_sdk::test::Context::new().sqlite("default", people).enter();
    /// assert_eq!(birthday("Ada").unwrap(), 36);
    /// assert_eq!(birthday("Eve").unwrap_err().kind(), "unknown");
    /// ```
    ///
    /// # Panics
    /// Where one of the statements fails.
    #[cfg(feature = "sqlite")]
    pub fn sqlite<'a>(
        mut self,
        binding: &str,
        statements: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let database = crate::host::sql::sqlite::Sqlite::new(statements);
        let database = database.unwrap_or_else(|error| panic!("{binding}: {error}"));
        self.state.sql.insert(binding.to_owned(), Rc::new(database));
        self
    }

    /// Grants a graph of that name. The closure stands in for it: it is given each
    /// statement with its parameters and answers rows or changes. It is no graph, and there is
    /// none for native tests: what a statement means is tested on a running Heyday.
    ///
    /// ```
    /// use heyday_sdk::{graph::{Connection, Rows}, test::Context};
    ///
    /// let _test = Context::new()
    ///     .graph("main", |_, params| Ok(Rows::new(["given"], [vec![params["n"].clone()]]).into()))
    ///     .enter();
    /// let rows = Connection::open("main")?.query("RETURN $n AS given", &[("n", 7.into())])?;
    /// assert_eq!(rows.first().unwrap().get::<i64>("given")?, 7);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn graph(
        mut self,
        binding: &str,
        answer: impl FnMut(
            &str,
            &BTreeMap<String, crate::graph::Value>,
        ) -> Result<GraphAnswer, CapabilityError>
        + 'static,
    ) -> Self {
        self.state
            .graphs
            .insert(binding.to_owned(), Rc::new(RefCell::new(answer)));
        self
    }

    /// Grants a model of that name that makes embeddings of so many numbers. It is no model:
    /// texts with the same words are alike, whatever the words mean.
    ///
    /// ```
    /// use heyday_sdk::inference::{LongText, Model};
    ///
    /// let _test = heyday_sdk::test::Context::new().embeddings("minilm", 16).enter();
    /// let found = Model::open("minilm")?.embed(["a rotor"], LongText::Refuse)?;
    /// assert_eq!(found.dimensions(), 16);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Panics
    /// With no dimensions.
    pub fn embeddings(mut self, model: &str, dimensions: usize) -> Self {
        assert!(dimensions > 0, "an embedding has numbers");
        self.state
            .models
            .insert(model.to_owned(), state::StandIn::Embeds(dimensions));
        self
    }

    /// Grants a model of that name that scores documents. The closure stands in for it: it is
    /// given the query and a document.
    ///
    /// ```
    /// use heyday_sdk::inference::{LongText, Model};
    ///
    /// let _test = heyday_sdk::test::Context::new()
    ///     .scores("reranker", |query, document| if document.contains(query) { 1.0 } else { -1.0 })
    ///     .enter();
    /// let documents = ["on bread", "the rotor"];
    /// let scores = Model::open("reranker")?.rerank("rotor", documents, LongText::Refuse)?;
    /// assert_eq!(scores, [-1.0, 1.0]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn scores(mut self, model: &str, score: impl Fn(&str, &str) -> f32 + 'static) -> Self {
        self.state
            .models
            .insert(model.to_owned(), state::StandIn::Scores(Rc::new(score)));
        self
    }

    /// Grants a model of that name that generates text. The closure stands in for it: it is
    /// given the request and answers the text, which comes in pieces; each word of it is a
    /// token.
    ///
    /// ```
    /// use heyday_sdk::inference::{Model, Request};
    ///
    /// let _test = heyday_sdk::test::Context::new()
    ///     .generates("smollm2", |request| format!("You said {:?}.", request.prompt))
    ///     .enter();
    /// let mut answer = Model::open("smollm2")?.generate(&Request::prompt("hi"))?;
    /// assert_eq!(answer.text()?, r#"You said Some("hi")."#);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn generates(
        mut self,
        model: &str,
        answer: impl Fn(&crate::inference::Request) -> String + 'static,
    ) -> Self {
        self.state
            .models
            .insert(model.to_owned(), state::StandIn::Generates(Rc::new(answer)));
        self
    }

    /// Makes this what the calling thread's SDK answers, until the guard is dropped.
    ///
    /// ```
    /// use heyday_sdk::{context, test::Context};
    ///
    /// let test = Context::new().attempt(2).enter();
    /// assert_eq!(context::attempt(), 2);
    /// drop(test);
    /// assert_eq!(context::attempt(), 1);
    /// ```
    #[must_use = "dropping the guard ends the context"]
    pub fn enter(self) -> Entered {
        state::push(self.state);
        Entered {
            _of_this_thread: PhantomData,
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

/// The guard of an entered [`Context`]; it tells what the activity did.
///
/// ```
/// use heyday_sdk::{log, test::{Context, Entered}};
///
/// /// For the end of many tests.
/// fn assert_no_warning(test: &Entered) {
///     assert!(test.logs().iter().all(|line| line.level < log::Level::Warn));
/// }
/// let test = Context::new().enter();
/// log::info!("all is well");
/// assert_no_warning(&test);
/// ```
#[derive(Debug)]
pub struct Entered {
    _of_this_thread: PhantomData<*const ()>,
}

impl Entered {
    /// From now on the activity is asked to stop, as when somebody cancels the run.
    ///
    /// ```
    /// let test = heyday_sdk::test::Context::new().enter();
    /// test.cancel();
    /// assert!(heyday_sdk::context::is_cancelled());
    /// ```
    pub fn cancel(&self) {
        self.cancel_for(CancellationReason::CancelRequested);
    }

    /// From now on the activity is asked to stop, for that reason; the first one stays.
    ///
    /// ```
    /// use heyday_sdk::context::{self, CancellationReason};
    ///
    /// let test = heyday_sdk::test::Context::new().enter();
    /// test.cancel_for(CancellationReason::Reset);
    /// test.cancel();
    /// assert_eq!(context::cancellation_reason(), Some(CancellationReason::Reset));
    /// ```
    pub fn cancel_for(&self, reason: CancellationReason) {
        state::with(|state| {
            state.cancelled.get_or_insert(reason);
        });
    }

    /// From now on a setting has that value, as when an operator changes it.
    ///
    /// ```
    /// let test = heyday_sdk::test::Context::new().config("mail", [("port", "25")]).enter();
    /// let mail = heyday_sdk::config::Config::open("mail")?;
    /// test.set_config("mail", "port", "587");
    /// assert_eq!(mail.parse("port")?, Some(587));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn set_config(&self, binding: &str, key: &str, value: &str) {
        state::with(|state| {
            let settings = state.config.entry(binding.to_owned()).or_default();
            settings.insert(key.to_owned(), value.to_owned());
        });
    }

    /// From now on a secret has that value, as when it is rotated.
    ///
    /// ```
    /// let test = heyday_sdk::test::Context::new().secrets("mail", [("key", "old")]).enter();
    /// let mail = heyday_sdk::secrets::Secrets::open("mail")?;
    /// test.set_secret("mail", "key", "new");
    /// assert_eq!(mail.get("key")?.text()?, "new");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn set_secret(&self, binding: &str, name: &str, value: impl AsRef<[u8]>) {
        state::with(|state| {
            let secrets = state.secrets.entry(binding.to_owned()).or_default();
            secrets.insert(name.to_owned(), Some(value.as_ref().to_vec()));
        });
    }

    /// From now on a secret is not there, though the binding gives it out.
    ///
    /// ```
    /// let test = heyday_sdk::test::Context::new().secrets("mail", [("key", "x")]).enter();
    /// let mail = heyday_sdk::secrets::Secrets::open("mail")?;
    /// test.remove_secret("mail", "key");
    /// assert!(mail.get("key").unwrap_err().is("not-found"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn remove_secret(&self, binding: &str, name: &str) {
        state::with(|state| {
            let secrets = state.secrets.entry(binding.to_owned()).or_default();
            secrets.insert(name.to_owned(), None);
        });
    }

    /// The details of all heartbeats, in order.
    ///
    /// ```
    /// let test = heyday_sdk::test::Context::new().enter();
    /// heyday_sdk::context::heartbeat(1)?;
    /// heyday_sdk::context::heartbeat(2)?;
    /// assert_eq!(test.heartbeats(), [1, 2]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn heartbeats(&self) -> Vec<Value> {
        state::with(|state| state.heartbeats.clone())
    }

    /// What was told of the progress: completed, total, message.
    ///
    /// ```
    /// let test = heyday_sdk::test::Context::new().enter();
    /// heyday_sdk::context::progress(1, 2, "half");
    /// assert_eq!(test.progress().last(), Some(&(1, 2, "half".to_owned())));
    /// ```
    #[must_use]
    pub fn progress(&self) -> Vec<(u64, u64, String)> {
        state::with(|state| state.progress.clone())
    }

    /// The lines that were logged.
    ///
    /// ```
    /// let test = heyday_sdk::test::Context::new().enter();
    /// heyday_sdk::log::error!("page {} is torn", 3);
    /// assert_eq!(test.logs()[0].message, "page 3 is torn");
    /// ```
    #[must_use]
    pub fn logs(&self) -> Vec<LogLine> {
        state::with(|state| state.logs.clone())
    }

    /// The content of an object.
    ///
    /// ```
    /// let test = heyday_sdk::test::Context::new().blob::<&str, &str>("out", []).enter();
    /// heyday_sdk::blob::Container::open("out")?.put("a", "made")?;
    /// assert_eq!(test.object("out", "a").as_deref(), Some(&b"made"[..]));
    /// assert_eq!(test.object("out", "b"), None);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn object(&self, binding: &str, key: &str) -> Option<Vec<u8>> {
        state::with(|state| {
            let object = state.blobs.get(binding)?.get(key)?;
            Some(object.bytes.clone())
        })
    }

    /// The value under a key, also one that has ended.
    ///
    /// ```
    /// let test = heyday_sdk::test::Context::new().kv::<&str, &str>("marks", []).enter();
    /// heyday_sdk::kv::Store::open("marks")?.set("last", "page 7", heyday_sdk::kv::Set::new())?;
    /// assert_eq!(test.value("marks", "last").as_deref(), Some(&b"page 7"[..]));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn value(&self, binding: &str, key: &str) -> Option<Vec<u8>> {
        state::with(|state| {
            let entry = state.kv.get(binding)?.entries.get(key)?;
            Some(entry.value.clone())
        })
    }

    /// The statements that reached the stand-in of a database, in order, with `BEGIN`,
    /// `COMMIT` and `ROLLBACK` of transactions.
    ///
    /// ```
    /// use heyday_sdk::{sql::Connection, test::{Context, SqlAnswer}};
    ///
    /// let test = Context::new().sql("main", |_, _| Ok(SqlAnswer::changed(1))).enter();
    /// Connection::open("main")?.execute("DELETE FROM drafts", &[])?;
    /// assert_eq!(test.statements("main"), ["DELETE FROM drafts"]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn statements(&self, binding: &str) -> Vec<String> {
        state::with(|state| state.statements.get(binding).cloned().unwrap_or_default())
    }

    /// The statements that reached the stand-in of a graph, likewise.
    ///
    /// ```
    /// use heyday_sdk::{graph::{Changes, Connection}, test::Context};
    ///
    /// let test = Context::new().graph("main", |_, _| Ok(Changes::default().into())).enter();
    /// Connection::open("main")?.begin()?.rollback()?;
    /// assert_eq!(test.graph_statements("main"), ["BEGIN", "ROLLBACK"]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn graph_statements(&self, binding: &str) -> Vec<String> {
        state::with(|state| {
            let statements = state.graph_statements.get(binding);
            statements.cloned().unwrap_or_default()
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        state::pop();
    }
}

pub(crate) mod state;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context;

    #[test]
    fn without_a_context_there_are_defaults_and_nothing_is_granted() {
        assert_eq!(context::attempt(), 1);
        assert_eq!(context::last_heartbeat::<u64>(), None);
        assert!(!context::is_cancelled());
        assert_eq!(context::cancellation_reason(), None);
        assert!(crate::blob::Container::open("default").is_err());
    }

    #[test]
    fn a_context_answers_and_remembers() {
        let test = Context::new()
            .attempt(3)
            .last_heartbeat(&"page 7")
            .remaining(Duration::from_secs(9))
            .enter();
        assert_eq!(context::attempt(), 3);
        assert_eq!(
            context::last_heartbeat::<String>().as_deref(),
            Some("page 7")
        );
        assert_eq!(context::last_heartbeat::<u64>(), None);
        assert_eq!(context::remaining(), Duration::from_secs(9));
        assert_eq!(
            context::idempotency_key(),
            "default/00000000-0000-0000-0000-000000000000/1"
        );
        context::heartbeat(8).unwrap();
        assert!(
            context::heartbeat("x".repeat(65 * 1024))
                .unwrap_err()
                .is("too-large")
        );
        context::progress(1, 2, "half");
        crate::log::warn!("careful");
        test.cancel();
        assert!(context::is_cancelled());
        assert_eq!(test.heartbeats(), [Value::from(8)]);
        assert_eq!(test.progress(), [(1, 2, "half".to_owned())]);
        assert_eq!(test.logs()[0].level, Level::Warn);
    }

    #[test]
    fn a_cancel_has_its_reason() {
        for reason in [
            CancellationReason::CancelRequested,
            CancellationReason::WorkerShutdown,
            CancellationReason::Paused,
            CancellationReason::Reset,
            CancellationReason::Other("of-a-later-host".to_owned()),
        ] {
            let _test = Context::new().cancelled_for(reason.clone()).enter();
            assert!(context::is_cancelled());
            assert_eq!(context::cancellation_reason(), Some(reason));
        }
        let test = Context::new().enter();
        test.cancel();
        test.cancel_for(CancellationReason::Paused);
        assert_eq!(
            context::cancellation_reason(),
            Some(CancellationReason::CancelRequested)
        );
    }

    #[test]
    fn the_inner_context_hides_the_outer_one_and_gives_it_back() {
        let _outer = Context::new().attempt(2).enter();
        {
            let _inner = Context::new().attempt(5).enter();
            assert_eq!(context::attempt(), 5);
        }
        assert_eq!(context::attempt(), 2);
    }
}
