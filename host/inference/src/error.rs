//! Why a model cannot be used, and why a request of one fails.

use std::path::PathBuf;

/// Why a model is refused, when it is imported or loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that a model must have is missing.
    #[error("the model has no {file}: {why}")]
    Missing {
        /// Its name in the model's folder.
        file: String,
        /// What it is needed for.
        why: &'static str,
    },
    /// A file that cannot be what it should be: cut off, not JSON, not finite.
    #[error("the model's {file} is damaged: {message}")]
    Damaged {
        /// Its name in the model's folder.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// The files contradict each other.
    #[error("the model's files do not match: {0}")]
    Mismatch(String),
    /// A kind of model that this version cannot run.
    #[error("this version cannot run the model: {0}")]
    Unsupported(String),
    /// Over a bound on size.
    #[error("the model is too large: {0}")]
    TooLarge(String),
    /// A file cannot be read or written.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// The file on this machine.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What looks at a part of it cannot be run now: not the model's fault. It may be later.
    #[error("the model cannot be looked at now: {0}")]
    Unavailable(String),
    /// The device failed while it was loaded, mostly for lack of memory.
    #[error("the device cannot hold the model: {0}")]
    Device(String),
}

/// Numbers ran over: the device is well, but this model can make nothing of this text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it computed what is no number")]
pub(crate) struct NotFinite;

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The text of a choice is none.
    #[error("the device `{0}` is unknown: use `auto`, `cpu` or `gpu:N`")]
    Unknown(String),
    /// This build has no support for GPUs.
    #[error("this build cannot use a GPU: build it with the feature `gpu`, or choose `cpu`")]
    NotBuilt,
    /// The machine has no such GPU.
    #[error("there is no GPU {index} that can be used: {message}")]
    NotFound {
        /// Its number, from 0.
        index: usize,
        /// What the driver says, or how many there are.
        message: String,
    },
    /// The threads that compute cannot be made.
    #[error("the threads of inference cannot be started")]
    Threads(#[source] std::io::Error),
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// No model of that name.
    #[error("there is no model {0} here")]
    UnknownModel(String),
    /// The model cannot do that.
    #[error("the model {model} cannot {what}")]
    Unsupported {
        /// Its name.
        model: String,
        /// `embed`, `rerank`, `generate text`.
        what: &'static str,
    },
    /// A request that cannot be answered as it is.
    #[error("{0}")]
    InvalidRequest(String),
    /// A text is longer than the model's window, and the caller asked to refuse it.
    #[error(
        "text {index} has at least {tokens} tokens; the model {model} takes at most {window} at \
         once: shorten, truncate or split it"
    )]
    InputTooLong {
        /// The model.
        model: String,
        /// Which text, from 0.
        index: usize,
        /// Its tokens, with those that the model adds; of a long text those up to where it was
        /// read.
        tokens: usize,
        /// The most that the model reads.
        window: usize,
    },
    /// A prompt leaves no room for an answer.
    #[error(
        "the prompt leaves no room for its answer: there are at least {tokens} tokens, and the \
         window of the model {model} has {window}; shorten it"
    )]
    PromptTooLong {
        /// The model.
        model: String,
        /// Its tokens; of a long one those up to where it was read. An endpoint may count those
        /// of the answer too.
        tokens: usize,
        /// The most of prompt and answer together.
        window: usize,
    },
    /// Over a bound on what one request may hold.
    #[error("{0}")]
    LimitExceeded(String),
    /// The queue is full. Retryable.
    #[error("the queue of inference is full: try again later")]
    Busy,
    /// The device or the memory limit has no room. Retryable.
    #[error("there is no memory for this now: {0}")]
    OutOfMemory(String),
    /// The device failed under the batch; it is opened again for the next one. Retryable.
    #[error("the device failed while it computed; it is being opened again")]
    DeviceLost,
    /// The device failed before, and cannot be opened again so far. Retryable: elsewhere, or
    /// when the process was started anew.
    #[error("the device was lost and cannot be opened again so far")]
    DeviceGone,
    /// The model's files changed or vanished since it was imported.
    #[error("the model {model} cannot be loaded: {message}")]
    Unloadable {
        /// Its name.
        model: String,
        /// Why.
        message: String,
    },
    /// The service elsewhere that runs the model does not answer, or not as it should; or no
    /// process runs its chat template now. Retryable.
    #[error("the model {model} cannot be asked: {message}")]
    Unavailable {
        /// Its name.
        model: String,
        /// Why, without addresses or credentials: guests see it.
        message: String,
    },
    /// The service is stopping. Retryable, elsewhere.
    #[error("inference is stopping")]
    Stopping,
    /// A fault of the host; its log has the cause.
    #[error("the host failed to compute this; its log has the cause")]
    Internal,
}
