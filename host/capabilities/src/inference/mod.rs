//! `heyday:inference`: models that the host runs.
//!
//! One service answers all calls, [`heyday_inference::Inference`], and it is the same for
//! all namespaces: weights are nobody's data. It computes itself, or asks an endpoint
//! ([`remote`]): the calls are the same, but properties have no parameters, memory or digest
//! then. Which plugin may use which model is a matter of grants, `inference=MODEL`. A granted
//! one that is not in this process may be in another one ([`elsewhere`]).

pub mod elsewhere;
mod host;
pub mod remote;

use heyday_inference::InferenceError;

pub use host::InferenceCapability;

use crate::error::{CapabilityError, codes};

/// The capability's name in grants.
pub const NAME: &str = "inference";

codes! {
    /// Why a call of `heyday:inference` failed; the WIT explains each.
    InferenceCode {
        /// No grant.
        CapabilityDenied = "capability-denied",
        /// Granted but not here.
        UnknownBinding = "unknown-binding",
        /// The model cannot do that.
        Unsupported = "unsupported",
        /// The request for text is not of its form.
        InvalidRequest = "invalid-request",
        /// A text does not fit into the window.
        InputTooLong = "input-too-long",
        /// Over a limit of one call.
        LimitExceeded = "limit-exceeded",
        /// Too much is waiting.
        Busy = "busy",
        /// No room.
        OutOfMemory = "out-of-memory",
        /// The device failed.
        DeviceLost = "device-lost",
        /// The deadline came.
        Timeout = "timeout",
        /// The attempt was asked to stop.
        Cancelled = "cancelled",
        /// The model cannot be loaded or asked, is on another worker only, or the host is
        /// stopping.
        Unavailable = "unavailable",
        /// A fault of the host.
        Internal = "internal",
    }
    retryable: Busy, OutOfMemory, DeviceLost, Timeout, Unavailable
}

/// An error of `heyday:inference`.
pub type Error = CapabilityError<InferenceCode>;

/// What a guest is told.
fn told(error: InferenceError) -> Error {
    let code = match &error {
        InferenceError::UnknownModel(_) => InferenceCode::UnknownBinding,
        InferenceError::Unsupported { .. } => InferenceCode::Unsupported,
        InferenceError::InvalidRequest(_) => InferenceCode::InvalidRequest,
        InferenceError::InputTooLong { .. } | InferenceError::PromptTooLong { .. } => {
            InferenceCode::InputTooLong
        }
        InferenceError::LimitExceeded(_) => InferenceCode::LimitExceeded,
        InferenceError::Busy => InferenceCode::Busy,
        InferenceError::OutOfMemory(_) => InferenceCode::OutOfMemory,
        InferenceError::DeviceLost | InferenceError::DeviceGone => InferenceCode::DeviceLost,
        InferenceError::Stopping | InferenceError::Unavailable { .. } => InferenceCode::Unavailable,
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
    let (index, tokens, window) = match error {
        InferenceError::InputTooLong {
            index,
            tokens,
            window,
            ..
        } => (index, tokens, window),
        // A request has one.
        InferenceError::PromptTooLong { tokens, window, .. } => (0, tokens, window),
        _ => return answer,
    };
    answer.with_details(serde_json::json!({ "index": index, "tokens": tokens, "window": window }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode as _;

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
        let prompt = told(InferenceError::PromptTooLong {
            model: "m".to_owned(),
            tokens: 256,
            window: 256,
        });
        assert_eq!(prompt.code, InferenceCode::InputTooLong);
        assert!(prompt.message.contains("no room"), "{prompt}");
        let details = serde_json::json!({ "index": 0, "tokens": 256, "window": 256 });
        assert_eq!(prompt.details, Some(details));
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
            (InferenceError::DeviceGone, true),
            (InferenceError::Stopping, true),
            (
                InferenceError::Unavailable {
                    model: "m".to_owned(),
                    message: "x".to_owned(),
                },
                true,
            ),
            (InferenceError::InvalidRequest("x".to_owned()), false),
            (InferenceError::UnknownModel("m".to_owned()), false),
            (InferenceError::LimitExceeded("x".to_owned()), false),
            (InferenceError::Internal, false),
        ] {
            assert_eq!(told(error.clone()).code.retryable(), retryable, "{error}");
        }
    }
}
