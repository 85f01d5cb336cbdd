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

mod answer;
mod databases;
mod entered;
pub(crate) mod state;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::context::CancellationReason;
use crate::error::CapabilityError;
use crate::log::Level;

pub use self::answer::{GraphAnswer, SqlAnswer};
pub use self::entered::Entered;
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
        Entered::new()
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

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
