//! Why an activation of a driver did not happen, whichever engine asked for it.

use crate::driver::DriverError;
use crate::failure::Failure;
use crate::payload::ResolveError;

/// Why an activation did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// A later try may succeed.
    #[error("{0}")]
    Later(String),
    /// The run can go on only under another release, or with what is missing.
    #[error("{0}")]
    Hold(String),
    /// A value is gone that the run refers to: it can go on only where that is.
    #[error("{0}")]
    Gone(String),
}

impl Trouble {
    /// The run's definition cannot be had.
    pub fn unloadable(failure: Failure) -> Self {
        let message = format!("its definition cannot be loaded: {failure}");
        if failure.retryable {
            Self::Later(message)
        } else {
            Self::Hold(message)
        }
    }
}

impl From<DriverError> for Trouble {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError::Unavailable(message) => Self::Later(message),
            error => Self::Hold(error.to_string()),
        }
    }
}

impl From<ResolveError> for Trouble {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Gone(message) => Self::Gone(message),
            ResolveError::Unavailable(message) => Self::Later(message),
        }
    }
}
