//! Why an engine refuses or cannot.

use uuid::Uuid;

use crate::failure::Failure;
use crate::replay::HistoryError;
use crate::signal::SignalError;

/// Why an engine refused or could not.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such run.
    #[error("no run {run_id:?} of workflow {workflow_id:?} exists in namespace {namespace:?}")]
    NotFound {
        /// The namespace.
        namespace: String,
        /// The workflow id.
        workflow_id: String,
        /// The run id, if one was named.
        run_id: Option<Uuid>,
    },
    /// The workflow id is taken and the policies do not allow another run.
    #[error("workflow {workflow_id:?} {reason} (run {run_id})")]
    AlreadyExists {
        /// The workflow id.
        workflow_id: String,
        /// The run that is in the way.
        run_id: Uuid,
        /// `is already running`, `has already completed`, ...
        reason: &'static str,
    },
    /// The run has ended; nothing can be asked of it.
    #[error("run {run_id} of workflow {workflow_id:?} has already ended")]
    Closed {
        /// The workflow id.
        workflow_id: String,
        /// The run.
        run_id: Uuid,
    },
    /// The request is malformed: a filter, a page token, an id, a payload.
    #[error("{0}")]
    Invalid(String),
    /// A payload is over the limit.
    #[error(
        "{what} has {size} bytes, more than the {limit} allowed; write it to a blob and pass its key"
    )]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The run was held and answers nothing that needs its flow.
    #[error("the run is held: {0}")]
    Held(String),
    /// No task of the run takes the update; nothing was recorded.
    #[error("{}", .0.message)]
    UpdateRejected(Failure),
    /// The run has accepted no update of that id.
    #[error("run {run_id} of workflow {workflow_id:?} has accepted no update {update_id:?}")]
    NoSuchUpdate {
        /// The workflow id.
        workflow_id: String,
        /// The run.
        run_id: Uuid,
        /// The update's id.
        update_id: String,
    },
    /// A query has no answer: there is none of that name, or its expression failed.
    #[error("{0}")]
    QueryFailed(String),
    /// There is no such schedule.
    #[error("no schedule {schedule_id:?} exists in namespace {namespace:?}")]
    ScheduleNotFound {
        /// The namespace.
        namespace: String,
        /// The schedule's id.
        schedule_id: String,
    },
    /// There is a schedule of that id.
    #[error("schedule {schedule_id:?} exists in namespace {namespace:?}")]
    ScheduleExists {
        /// The namespace.
        namespace: String,
        /// The schedule's id.
        schedule_id: String,
    },
    /// The run has had as much of something as it may have.
    #[error("{0}")]
    LimitReached(String),
    /// The run's history is none that can be taken out and replayed: of a foreign
    /// workflow, or too large.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The storage is full or failed, or the cluster is away. Nothing was acknowledged;
    /// the same request may be made again, under the same key or id where it was sent.
    #[error("the history cannot be written: {message}")]
    Unavailable {
        /// What to do about it.
        message: String,
        /// Whether it was on its way to a cluster: then it may have been done all the same.
        /// Where not, nothing was changed.
        sent: bool,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A fault of the engine.
    #[error("internal error: {0}")]
    Internal(String),
}

impl EngineError {
    /// That something cannot be done now and was not, nor was a cluster asked to: nothing was
    /// changed, and the same request may be made again. `message` says what to do about it, the
    /// source is for the log. Not for what may have been done all the same: that says `sent`.
    pub fn unavailable(
        message: impl Into<String>,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable {
            message: message.into(),
            sent: false,
            source,
        }
    }
}

impl From<SignalError> for EngineError {
    fn from(error: SignalError) -> Self {
        match error {
            SignalError::Invalid(message) => Self::Invalid(message),
            SignalError::TooLarge { size, limit } => Self::TooLarge {
                what: "the signal",
                size,
                limit,
            },
        }
    }
}
