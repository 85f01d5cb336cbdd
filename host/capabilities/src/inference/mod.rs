//! `heyday:inference`: models that the host runs.
//!
//! There is one backend, [`heyday_inference::Inference`], and it is the same for all
//! namespaces: weights are nobody's data. Which plugin may use which model is a matter of
//! grants, `inference=MODEL`.

mod host;

use heyday_inference::InferenceError;

pub use host::InferenceCapability;

use crate::error::{CapabilityError, ErrorCode};

/// The capability's name in grants.
pub const NAME: &str = "inference";

/// Why a call of `heyday:inference` failed; the WIT explains each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InferenceCode {
    /// No grant.
    CapabilityDenied,
    /// Granted but not here.
    UnknownBinding,
    /// The model cannot do that.
    Unsupported,
    /// A text does not fit into the window.
    InputTooLong,
    /// Over a limit of one call.
    LimitExceeded,
    /// Too much is waiting.
    Busy,
    /// No room.
    OutOfMemory,
    /// The device failed.
    DeviceLost,
    /// The deadline came.
    Timeout,
    /// The attempt was asked to stop.
    Cancelled,
    /// The model cannot be loaded, or the host is stopping.
    Unavailable,
    /// A fault of the host.
    Internal,
}

impl ErrorCode for InferenceCode {
    const DENIED: Self = Self::CapabilityDenied;
    const UNKNOWN_BINDING: Self = Self::UnknownBinding;
    const LIMIT_EXCEEDED: Self = Self::LimitExceeded;
    const TIMEOUT: Self = Self::Timeout;
    const CANCELLED: Self = Self::Cancelled;
    const INTERNAL: Self = Self::Internal;

    fn as_str(self) -> &'static str {
        match self {
            Self::CapabilityDenied => "capability-denied",
            Self::UnknownBinding => "unknown-binding",
            Self::Unsupported => "unsupported",
            Self::InputTooLong => "input-too-long",
            Self::LimitExceeded => "limit-exceeded",
            Self::Busy => "busy",
            Self::OutOfMemory => "out-of-memory",
            Self::DeviceLost => "device-lost",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    fn retryable(self) -> bool {
        matches!(
            self,
            Self::Busy | Self::OutOfMemory | Self::DeviceLost | Self::Timeout | Self::Unavailable
        )
    }
}

/// An error of `heyday:inference`.
pub type Error = CapabilityError<InferenceCode>;

/// What a guest is told.
fn told(error: InferenceError) -> Error {
    let code = match &error {
        InferenceError::UnknownModel(_) => InferenceCode::UnknownBinding,
        InferenceError::Unsupported { .. } => InferenceCode::Unsupported,
        InferenceError::InputTooLong { .. } => InferenceCode::InputTooLong,
        InferenceError::LimitExceeded(_) => InferenceCode::LimitExceeded,
        InferenceError::Busy => InferenceCode::Busy,
        InferenceError::OutOfMemory(_) => InferenceCode::OutOfMemory,
        InferenceError::DeviceLost => InferenceCode::DeviceLost,
        InferenceError::Stopping => InferenceCode::Unavailable,
        // Its words name files of the host.
        InferenceError::Unloadable { model, message } => {
            tracing::error!(model, message, "a model cannot be loaded");
            return Error::new(
                InferenceCode::Unavailable,
                format!("the model {model} cannot be loaded; the host's log has the cause"),
            );
        }
        InferenceError::Internal => InferenceCode::Internal,
    };
    let answer = Error::new(code, error.to_string());
    match error {
        InferenceError::InputTooLong {
            index,
            tokens,
            window,
            ..
        } => answer.with_details(
            serde_json::json!({ "index": index, "tokens": tokens, "window": window }),
        ),
        _ => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_learns_what_it_can_act_on_and_no_file_of_the_host() {
        let too_long = told(InferenceError::InputTooLong {
            model: "m".to_owned(),
            index: 2,
            tokens: 300,
            window: 256,
        });
        assert_eq!(too_long.code, InferenceCode::InputTooLong);
        assert!(!too_long.code.retryable());
        let details = serde_json::json!({ "index": 2, "tokens": 300, "window": 256 });
        assert_eq!(too_long.details, Some(details));
        let unloadable = told(InferenceError::Unloadable {
            model: "m".to_owned(),
            message: "/srv/heyday/models/blobs/0 cannot be used".to_owned(),
        });
        assert_eq!(unloadable.code, InferenceCode::Unavailable);
        assert!(!unloadable.message.contains("/srv"), "{unloadable}");
        for (error, retryable) in [
            (InferenceError::Busy, true),
            (InferenceError::OutOfMemory("x".to_owned()), true),
            (InferenceError::DeviceLost, true),
            (InferenceError::Stopping, true),
            (InferenceError::UnknownModel("m".to_owned()), false),
            (InferenceError::LimitExceeded("x".to_owned()), false),
            (InferenceError::Internal, false),
        ] {
            assert_eq!(told(error.clone()).code.retryable(), retryable, "{error}");
        }
    }
}
