//! The attempt that is running: who it is, how long it has, and what it tells the host.
//!
//! Every plugin may use this without a grant. Natively, in `cargo test`, the answers are
//! those of the [`test::Context`](crate::test::Context) that the test entered.
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! fn copy(pages: u64) -> Result<u64> {
//!     // Go on where the last attempt stopped.
//!     let start = context::last_heartbeat::<u64>().unwrap_or(0);
//!     for page in start..pages {
//!         if context::is_cancelled() {
//!             return Err(Error::permanent("cancelled", format!("stopped at page {page}")));
//!         }
//!         context::heartbeat(&page)?;
//!         context::progress(page, pages, "copying");
//!     }
//!     Ok(pages - start)
//! }
//!
//! let test = heyday_sdk::test::Context::new().last_heartbeat(&7).enter();
//! assert_eq!(copy(10).unwrap(), 3);
//! assert_eq!(test.heartbeats(), [7, 8, 9]);
//! ```

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{CapabilityError, Result};
use crate::host;

/// Which attempt of which activity of which run this is.
///
/// ```
/// use heyday_sdk::context::{self, Attempt};
///
/// /// The lines of a report begin so.
/// fn heading(attempt: &Attempt) -> String {
///     format!("{} of {}, attempt {}", attempt.activity_type, attempt.workflow_id, attempt.attempt)
/// }
/// let _test = heyday_sdk::test::Context::new().attempt(2).enter();
/// assert!(heading(&context::current()).ends_with(", attempt 2"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The Heyday namespace of the run.
    pub namespace: String,
    /// The caller's id of the workflow.
    pub workflow_id: String,
    /// The id of this execution of the workflow.
    pub run_id: String,
    /// The id of the activity within the run, the same on every attempt.
    pub activity_id: String,
    /// The activity type, `<plugin>.<activity>`.
    pub activity_type: String,
    /// The queue it was taken from.
    pub queue: String,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// Which attempt this is.
///
/// ```
/// use heyday_sdk::context;
///
/// let _test = heyday_sdk::test::Context::new().attempt(3).enter();
/// let running = context::current();
/// assert_eq!((running.attempt, running.queue.as_str()), (3, "general-queue"));
/// ```
#[must_use]
pub fn current() -> Attempt {
    host::current()
}

/// The number of this attempt; 1 for the first.
///
/// ```
/// use heyday_sdk::context;
///
/// /// The large model only where the small one failed.
/// fn model() -> &'static str {
///     if context::attempt() == 1 { "small" } else { "large" }
/// }
/// assert_eq!(model(), "small");
/// let _retry = heyday_sdk::test::Context::new().attempt(2).enter();
/// assert_eq!(model(), "large");
/// ```
#[must_use]
pub fn attempt() -> u32 {
    current().attempt
}

/// A key that is the same on every attempt of this activity and on no other activity: give
/// it to whatever must happen at most once.
///
/// ```
/// use heyday_sdk::context;
///
/// let first = context::idempotency_key();
/// let _retry = heyday_sdk::test::Context::new().attempt(2).enter();
/// assert_eq!(context::idempotency_key(), first);
/// ```
#[must_use]
pub fn idempotency_key() -> String {
    host::idempotency_key()
}

/// How long until the attempt is interrupted.
///
/// ```
/// use heyday_sdk::context;
/// use std::time::Duration;
///
/// fn has_time_for_a_page() -> bool {
///     context::remaining() > Duration::from_secs(10)
/// }
/// let _test = heyday_sdk::test::Context::new().remaining(Duration::from_secs(3)).enter();
/// assert!(!has_time_for_a_page());
/// ```
#[must_use]
pub fn remaining() -> Duration {
    Duration::from_millis(host::remaining_ms())
}

/// Whether the activity was asked to stop. After the first `true` there is a grace (5 s
/// unless the operator set another) to clean up; then the attempt is interrupted.
///
/// ```
/// use heyday_sdk::context;
///
/// let test = heyday_sdk::test::Context::new().enter();
/// assert!(!context::is_cancelled());
/// test.cancel(); // As when somebody cancels the workflow.
/// assert!(context::is_cancelled());
/// ```
#[must_use]
pub fn is_cancelled() -> bool {
    host::is_cancelled()
}

/// Why an activity was asked to stop.
///
/// Who stops early answers an error of the kind `cancelled`. After any of these but
/// [`CancelRequested`](Self::CancelRequested) another attempt follows then, if the retry
/// policy allows one, and can read where this one stopped.
///
/// ```
/// use heyday_sdk::context::CancellationReason;
///
/// /// Whether what was done so far is to be undone: nobody goes on with it.
/// fn undo(reason: &CancellationReason) -> bool {
///     matches!(reason, CancellationReason::CancelRequested)
/// }
/// assert!(undo(&CancellationReason::CancelRequested));
/// assert!(!undo(&CancellationReason::WorkerShutdown));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancellationReason {
    /// The run was asked to cancel, or only the part of it that waits for the activity:
    /// another branch was first, a task's own timeout is over. No attempt follows.
    CancelRequested,
    /// The process that runs the attempt stops, and the time that it leaves to attempts is
    /// over.
    WorkerShutdown,
    /// The activity was paused on the Temporal cluster.
    Paused,
    /// The activity was reset on the Temporal cluster.
    Reset,
    /// A reason that this SDK does not know, in the host's word for it.
    Other(String),
}

impl CancellationReason {
    /// The host's word for it, in kebab-case.
    ///
    /// ```
    /// use heyday_sdk::context::CancellationReason;
    ///
    /// assert_eq!(CancellationReason::WorkerShutdown.as_str(), "worker-shutdown");
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::CancelRequested => "cancel-requested",
            Self::WorkerShutdown => "worker-shutdown",
            Self::Paused => "paused",
            Self::Reset => "reset",
            Self::Other(word) => word,
        }
    }

    fn from_word(word: String) -> Self {
        let known = [
            Self::CancelRequested,
            Self::WorkerShutdown,
            Self::Paused,
            Self::Reset,
        ];
        let mut known = known.into_iter();
        known
            .find(|reason| reason.as_str() == word)
            .unwrap_or(Self::Other(word))
    }
}

/// Why the activity was asked to stop; `None` as long as [`is_cancelled`] answers `false`.
/// The first reason stays.
///
/// An attempt whose time is over or whose run has ended has no grace: it is interrupted, not
/// asked. What a person wrote as the reason of a cancel is the message of the run's failure.
///
/// ```
/// use heyday_sdk::context::CancellationReason;
/// use heyday_sdk::prelude::*;
///
/// fn copy(pages: u64) -> Result<u64> {
///     for page in context::last_heartbeat().unwrap_or(0)..pages {
///         if let Some(reason) = context::cancellation_reason() {
///             // The next attempt goes on at this page, where there is one.
///             context::heartbeat(page)?;
///             return Err(Error::permanent("cancelled", reason.as_str()));
///         }
///     }
///     Ok(pages)
/// }
///
/// let test = heyday_sdk::test::Context::new().enter();
/// assert_eq!(copy(10).unwrap(), 10);
/// test.cancel_for(CancellationReason::WorkerShutdown);
/// assert_eq!(copy(10).unwrap_err().message(), "worker-shutdown");
/// ```
#[must_use]
pub fn cancellation_reason() -> Option<CancellationReason> {
    host::cancellation_reason().map(CancellationReason::from_word)
}

/// Tells that the attempt is alive, with details that the next attempt can read. May be
/// called as often as you like; the host keeps the last.
///
/// ```
/// use heyday_sdk::context;
///
/// let test = heyday_sdk::test::Context::new().enter();
/// context::heartbeat("page 7")?;
/// assert_eq!(test.heartbeats(), ["page 7"]);
/// let error = context::heartbeat("x".repeat(70_000)).unwrap_err();
/// assert!(error.is("too-large"));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
///
/// # Errors
/// `invalid-json` where the details cannot be written as JSON, `too-large` where they are
/// over 64 KiB; the last ones stay in place.
pub fn heartbeat(details: impl Serialize) -> Result<(), CapabilityError> {
    let details = serde_json::to_string(&details)
        .map_err(|error| CapabilityError::new("invalid-json", error.to_string()))?;
    host::heartbeat(Some(&details))
}

/// The details of the previous attempt's last heartbeat; `None` where there is none, or
/// where they are not a `T`.
///
/// ```
/// use heyday_sdk::context;
///
/// assert_eq!(context::last_heartbeat::<u64>(), None); // The first attempt.
/// let _retry = heyday_sdk::test::Context::new().last_heartbeat(&7).enter();
/// assert_eq!(context::last_heartbeat::<u64>(), Some(7));
/// assert_eq!(context::last_heartbeat::<String>(), None);
/// ```
#[must_use]
pub fn last_heartbeat<T: DeserializeOwned>() -> Option<T> {
    serde_json::from_str(&host::last_heartbeat()?).ok()
}

/// How far the attempt is: `completed` of `total` (0: not known) and a short message,
/// shown to whoever watches the run.
///
/// ```
/// use heyday_sdk::context;
///
/// let test = heyday_sdk::test::Context::new().enter();
/// context::progress(3, 10, "reading");
/// assert_eq!(test.progress(), [(3, 10, "reading".to_owned())]);
/// ```
pub fn progress(completed: u64, total: u64, message: impl AsRef<str>) {
    host::progress(completed, total, message.as_ref());
}
