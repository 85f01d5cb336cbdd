//! What a test sees of its activity.

use std::marker::PhantomData;

use serde_json::Value;

use super::{LogLine, state};
use crate::context::CancellationReason;

/// The guard of an entered [`Context`](super::Context); it tells what the activity did.
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
    pub(super) fn new() -> Self {
        Self {
            _of_this_thread: PhantomData,
        }
    }

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
