//! What every capability's errors have in common.

use std::fmt;

use heyday_sandbox::{CallState, HostCall, Stopped};

/// The documented codes of one capability, with those that every capability has.
pub trait ErrorCode: fmt::Debug + Copy + Eq + Send + Sync + 'static {
    /// The plugin has no grant for this, or lost it.
    const DENIED: Self;
    /// A binding is granted that is not configured.
    const UNKNOWN_BINDING: Self;
    /// A limit of the binding was reached.
    const LIMIT_EXCEEDED: Self;
    /// The attempt's deadline, or a limit on time, came before the end.
    const TIMEOUT: Self;
    /// The attempt was asked to stop.
    const CANCELLED: Self;
    /// What is behind the binding cannot be used now.
    const UNAVAILABLE: Self;
    /// A fault of the host.
    const INTERNAL: Self;

    /// As the WIT writes it, `capability-denied`.
    fn as_str(self) -> &'static str;
    /// Whether the same call may succeed later.
    fn retryable(self) -> bool;
    /// The code of a call that was stopped from outside.
    #[must_use]
    fn stopped(stopped: Stopped) -> Self {
        match stopped {
            Stopped::TimedOut => Self::TIMEOUT,
            Stopped::Cancelled => Self::CANCELLED,
            Stopped::Revoked => Self::DENIED,
            Stopped::Crowded => Self::UNAVAILABLE,
        }
    }
}

/// An error that a guest may see: its code, and words for a person. It never holds a
/// path or an address of the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .code.as_str())]
pub struct CapabilityError<C: ErrorCode> {
    /// What happened.
    pub code: C,
    /// One or two sentences for a person.
    pub message: String,
    /// One JSON value for a program.
    pub details: Option<serde_json::Value>,
}

impl<C: ErrorCode> CapabilityError<C> {
    /// An error without details.
    pub fn new(code: C, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
        }
    }

    /// Adds details.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(details);
        self
    }

    /// A fault of the host: the cause goes to its log, the guest learns only that
    /// there was one.
    pub fn internal(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "a capability failed");
        Self::new(
            C::INTERNAL,
            "the host failed to do this; its log has the cause",
        )
    }

    /// The error of a call that was stopped from outside.
    #[must_use]
    pub fn stopped(stopped: Stopped) -> Self {
        let message = match stopped {
            Stopped::TimedOut => "the attempt's deadline came before the call ended",
            Stopped::Cancelled => "the attempt was asked to stop",
            Stopped::Revoked => TAKEN_BACK,
            Stopped::Crowded => CROWDED,
        };
        Self::new(C::stopped(stopped), message)
    }
}

/// What a call is told whose grants were taken back.
pub(crate) const TAKEN_BACK: &str = "the plugin's grants were taken back during the call";

/// What a call is told that found its share of the queue waiting already.
const CROWDED: &str = "the binding is busy: most slots of the queue wait for it already, and it \
                       answers none of them";

/// How a host function fails: with an error that the guest sees, or by a trap.
#[derive(Debug)]
pub enum Fault<C: ErrorCode> {
    /// Answered to the guest.
    Error(CapabilityError<C>),
    /// Ends the guest: a fault of its own (an unknown handle) or of the host.
    Trap(wasmtime::Error),
}

impl<C: ErrorCode> From<CapabilityError<C>> for Fault<C> {
    fn from(error: CapabilityError<C>) -> Self {
        Self::Error(error)
    }
}

impl<C: ErrorCode> From<wasmtime::Error> for Fault<C> {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

impl<C: ErrorCode> From<wasmtime::component::ResourceTableError> for Fault<C> {
    fn from(error: wasmtime::component::ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

impl<C: ErrorCode> From<Stopped> for Fault<C> {
    fn from(stopped: Stopped) -> Self {
        Self::Error(CapabilityError::stopped(stopped))
    }
}

/// The codes of a capability, each with the text that the WIT has for it; and which of them
/// are retryable. Those that every capability has are among them.
macro_rules! codes {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$doc:meta])* $case:ident = $text:literal,)*
        }
        retryable: $($retryable:ident),+
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $case,)*
        }

        impl $crate::error::ErrorCode for $name {
            const DENIED: Self = Self::CapabilityDenied;
            const UNKNOWN_BINDING: Self = Self::UnknownBinding;
            const LIMIT_EXCEEDED: Self = Self::LimitExceeded;
            const TIMEOUT: Self = Self::Timeout;
            const CANCELLED: Self = Self::Cancelled;
            const UNAVAILABLE: Self = Self::Unavailable;
            const INTERNAL: Self = Self::Internal;

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$case => $text,)*
                }
            }

            fn retryable(self) -> bool {
                // A timeout is worth another attempt: its deadline is a new one.
                matches!(self, $(Self::$retryable)|+)
            }
        }
    };
}
pub(crate) use codes;

/// The answer to a guest of a call that failed: every interface's `error` has the same
/// members, and is a type of its own. What was denied is told the call's state.
macro_rules! answer {
    ($state:expr, $capability:expr, $fault:expr, $error:ty) => {
        match $fault {
            $crate::error::Fault::Error(error) => {
                type Answer = $error;
                $crate::error::told($state, $capability, &error);
                Ok(Answer {
                    code: $crate::error::ErrorCode::as_str(error.code).to_owned(),
                    retryable: $crate::error::ErrorCode::retryable(error.code),
                    message: error.message,
                    details: error.details.map(|details| details.to_string()),
                })
            }
            $crate::error::Fault::Trap(trap) => Err(trap),
        }
    };
}
pub(crate) use answer;

/// Tells the call's state of a refusal that the guest is about to be answered.
pub(crate) fn told<C: ErrorCode>(
    state: &CallState,
    capability: &'static str,
    error: &CapabilityError<C>,
) {
    if error.code == C::DENIED {
        state.denied(capability, &error.message);
    }
}

/// Runs a backend's future under its call. A failure stands in the call's span too.
pub(crate) async fn run<T, C: ErrorCode>(
    call: &HostCall,
    future: impl Future<Output = Result<T, CapabilityError<C>>>,
) -> Result<T, Fault<C>> {
    Ok(noted(call, call.run(future).await?)?)
}

/// The outcome of a call, after a failure was noted in its span.
pub(crate) fn noted<T, C: ErrorCode>(
    call: &HostCall,
    outcome: Result<T, CapabilityError<C>>,
) -> Result<T, CapabilityError<C>> {
    outcome.inspect_err(|error| call.failed(error.code.as_str()))
}

/// The text of an error and of all its causes: for the host's log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
