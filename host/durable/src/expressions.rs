//! jq expressions, evaluated by the host in its deterministic sandbox.
//!
//! The driver never evaluates jq itself: it asks a [`Program`], which holds all
//! expressions of one flow version, compiled together once.

use std::sync::Arc;

use serde_json::Value;

/// Raised by every change of what an expression may answer; recorded with each run.
/// Old behaviour stays behind its number while histories may need it.
pub const ANSWER_REVISION: u32 = 1;

/// Why an expression has no answer. Deterministic: the same on every evaluation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It does not compile.
    #[error("expression {expression:?} is invalid: {message}")]
    Invalid {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        message: String,
    },
    /// It failed while it ran, or yielded nothing.
    #[error("expression {expression:?} failed: {message}")]
    Failed {
        /// The expression.
        expression: String,
        /// jq's message.
        message: String,
    },
    /// It passed a limit on computation, memory or recursion.
    #[error("expression {expression:?} was stopped: {message}")]
    LimitExceeded {
        /// The expression.
        expression: String,
        /// Which limit.
        message: String,
    },
    /// The evaluator itself could not run. Not deterministic: the activation is
    /// given up and repeated later, the run is not failed.
    #[error("the expression evaluator is unavailable: {0}")]
    Unavailable(String),
}

/// All expressions of one flow version.
pub trait Program: Send + Sync + 'static {
    /// Evaluates the expression of that index (as given to
    /// [`Expressions::compile`]) and answers its first result. `values` are those of
    /// the variables, in their order. Blocking: called on activation threads only.
    ///
    /// # Errors
    /// As [`ExpressionError`] says.
    fn evaluate(
        &self,
        index: usize,
        input: &Value,
        values: &[Value],
    ) -> Result<Value, ExpressionError>;
}

/// Compiles expressions. The host implements it.
pub trait Expressions: Send + Sync + 'static {
    /// Compiles expressions (without `${` and `}`) that may use these variables
    /// (without `$`). Blocking. Cached by content, so that a flow version is compiled
    /// once however many runs it has.
    ///
    /// # Errors
    /// [`ExpressionError::Invalid`] with the first one that does not compile.
    fn compile(
        &self,
        expressions: &[String],
        variables: &[String],
    ) -> Result<Arc<dyn Program>, ExpressionError>;

    /// Identifies the evaluator's build, recorded with each run for information.
    fn digest(&self) -> crate::payload::Digest;
}
