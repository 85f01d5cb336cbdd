//! Why the registry refuses; every message says what to do.

use super::types::{RequestProblem, UnfitGrant};
use crate::content::StateFailed;
use crate::state::StateError;

/// Why the registry refused or could not.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such plugin, flow, version, upload or grant (404).
    #[error("no {what} {name:?} exists in namespace {namespace:?}")]
    NotFound {
        /// `plugin`, `flow`, `plugin version`, ...
        what: &'static str,
        /// Its name.
        name: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// There is no such activity (404); the text says what there is.
    #[error("{0}")]
    UnknownActivity(String),
    /// An activity or a run was to be on a queue that there is not (422); the text says which
    /// there are.
    #[error("{0}")]
    UnknownQueue(String),
    /// The request is malformed: a name, a version, a mode, a page (400).
    #[error("{0}")]
    Invalid(String),
    /// What was uploaded cannot be used (422).
    #[error("{message}")]
    Unusable {
        /// What is wrong, in one or a few sentences.
        message: String,
        /// Each thing that is wrong, where there is a place to name.
        problems: Vec<RequestProblem>,
    },
    /// An upload has more bytes than allowed (413).
    #[error(
        "the component has {size} bytes, more than the {limit} allowed; build it in release \
         mode without debug information, or raise `limits.upload_bytes` in the server's \
         configuration"
    )]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// What is stored stands in the way: other bytes of the same version, an active
    /// version, a version that open runs use, no version to go back to (409).
    #[error("{0}")]
    Conflict(String),
    /// Grants are missing (409).
    #[error(
        "plugin {name} {version} was not granted {}: grant it (`heyday grant {name} \
         CAPABILITY=BINDING`) or activate with allow_missing",
        .missing.join(", ")
    )]
    MissingGrants {
        /// The plugin.
        name: String,
        /// The version.
        version: String,
        /// The capabilities.
        missing: Vec<String>,
    },
    /// Grants are of dialects that the plugin cannot use (409).
    #[error(
        "plugin {name} {version} cannot use what it is granted: {}; grant a binding of that \
         dialect (`heyday binding list` shows them), and take back one that does not fit \
         (`heyday grant revoke`)",
        .unfit.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    UnfitGrants {
        /// The plugin.
        name: String,
        /// The version.
        version: String,
        /// The grants.
        unfit: Vec<UnfitGrant>,
    },
    /// The disk is full, or another process holds the database; the same request may
    /// be made again (503).
    #[error("the server cannot do this now: {0}")]
    Unavailable(String),
    /// A fault of the host (500); the text is for the log.
    #[error("the registry failed: {0}")]
    Internal(String),
}

impl From<StateError> for RegistryError {
    fn from(error: StateError) -> Self {
        if error.is_passing() {
            tracing::error!(error = %error.chain(), "the state cannot be used now");
            Self::Unavailable(
                "its database is away or busy, or the disk is full; the same request may be made \
                 again"
                    .to_owned(),
            )
        } else {
            Self::Internal(error.chain())
        }
    }
}

impl From<std::io::Error> for RegistryError {
    fn from(error: std::io::Error) -> Self {
        let error = match error.downcast::<StateFailed>() {
            Ok(StateFailed(error)) => return error.into(),
            Err(error) => error,
        };
        tracing::error!(%error, "a file of the server cannot be read or written");
        Self::Unavailable(
            "a file cannot be read or written, the disk may be full; the same request may be \
             made again"
                .to_owned(),
        )
    }
}

impl RegistryError {
    pub(crate) fn not_found(what: &'static str, name: impl Into<String>, namespace: &str) -> Self {
        Self::NotFound {
            what,
            name: name.into(),
            namespace: namespace.to_owned(),
        }
    }

    /// What is wrong with a document, one by one; the first stands in the message too.
    pub(crate) fn wrong(document: &str, problems: Vec<RequestProblem>) -> Self {
        let first = problems.first().map(ToString::to_string);
        let first = first.unwrap_or_default();
        Self::Unusable {
            message: match problems.len() {
                0 | 1 => format!("{document} is wrong: {first}"),
                more => format!("{document} has {more} errors, the first: {first}"),
            },
            problems,
        }
    }

    /// The same for everybody who waited for an upload.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Unusable { message, problems } => Self::Unusable {
                message: message.clone(),
                problems: problems.clone(),
            },
            Self::TooLarge { size, limit } => Self::TooLarge {
                size: *size,
                limit: *limit,
            },
            Self::Conflict(message) => Self::Conflict(message.clone()),
            Self::Internal(message) => Self::Internal(message.clone()),
            // No other comes out of an upload but this.
            error => Self::Unavailable(error.to_string()),
        }
    }

    pub(crate) fn unusable(message: impl Into<String>) -> Self {
        Self::Unusable {
            message: message.into(),
            problems: Vec::new(),
        }
    }
}
