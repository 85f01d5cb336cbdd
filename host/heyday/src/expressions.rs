//! jq for flows: the sandbox's evaluator behind the engine's trait.
//!
//! The evaluator is a component of ours that `cargo xtask build` builds and `build.rs`
//! embeds. A binary without it compiles, and says at its start what is missing.

use std::sync::Arc;

use heyday_durable::expressions::{ExpressionError, Expressions, Program};
use heyday_durable::payload::Digest;
use heyday_sandbox::{Evaluator, EvaluatorError, EvaluatorOptions, EvaluatorProgram};
use serde_json::Value;

/// The component; empty where this binary was built without it.
static COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/expressions.wasm"));

/// Why there is no evaluator.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionsError {
    /// This binary was built without it.
    #[error(
        "this binary has no expression evaluator: build it with `cargo xtask build`, or name the \
         built component in HEYDAY_EXPRESSIONS_WASM when compiling"
    )]
    NotEmbedded,
    /// It cannot be loaded.
    #[error("the expression evaluator cannot be loaded")]
    Load(#[source] EvaluatorError),
}

/// Whether this binary has an evaluator.
#[must_use]
pub const fn is_embedded() -> bool {
    !COMPONENT.is_empty()
}

/// The embedded evaluator.
#[derive(Clone)]
pub struct JqExpressions {
    evaluator: Evaluator,
    digest: Digest,
}

impl std::fmt::Debug for JqExpressions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JqExpressions")
            .field("digest", &self.digest)
            .finish()
    }
}

impl JqExpressions {
    /// Loads the embedded evaluator. Blocking, for seconds where it is compiled.
    ///
    /// # Errors
    /// When there is none, or it cannot be loaded.
    pub fn embedded(options: EvaluatorOptions) -> Result<Self, ExpressionsError> {
        if COMPONENT.is_empty() {
            return Err(ExpressionsError::NotEmbedded);
        }
        Self::load(COMPONENT, options)
    }

    /// Loads an evaluator.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn load(component: &[u8], options: EvaluatorOptions) -> Result<Self, ExpressionsError> {
        let evaluator = Evaluator::new(component, options).map_err(ExpressionsError::Load)?;
        Ok(Self {
            evaluator,
            digest: Digest::of(component),
        })
    }
}

fn translate(error: EvaluatorError, expression: &str) -> ExpressionError {
    let expression = expression.to_owned();
    match error {
        EvaluatorError::Invalid { message, .. } => ExpressionError::Invalid {
            expression,
            message,
        },
        EvaluatorError::Failed(message) => ExpressionError::Failed {
            expression,
            message,
        },
        EvaluatorError::LimitExceeded(limit) => ExpressionError::LimitExceeded {
            expression,
            message: limit.to_string(),
        },
        EvaluatorError::Unavailable(message) => ExpressionError::Unavailable(message),
    }
}

impl Expressions for JqExpressions {
    fn compile(
        &self,
        expressions: &[String],
        variables: &[String],
    ) -> Result<Arc<dyn Program>, ExpressionError> {
        match self.evaluator.program(expressions, variables) {
            Ok(program) => Ok(Arc::new(JqProgram {
                program,
                expressions: expressions.to_vec(),
            })),
            Err(error) => {
                let index = match &error {
                    EvaluatorError::Invalid { index, .. } => *index,
                    _ => 0,
                };
                let expression = expressions.get(index).map_or("", String::as_str);
                Err(translate(error, expression))
            }
        }
    }

    fn digest(&self) -> Digest {
        self.digest
    }
}

struct JqProgram {
    program: Arc<EvaluatorProgram>,
    expressions: Vec<String>,
}

impl Program for JqProgram {
    fn evaluate(
        &self,
        index: usize,
        input: &Value,
        values: &[Value],
    ) -> Result<Value, ExpressionError> {
        let texts: Vec<String> = values.iter().map(Value::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let answer = self
            .program
            .evaluate(index, &input.to_string(), &texts)
            .map_err(|error| {
                translate(
                    error,
                    self.expressions.get(index).map_or("", String::as_str),
                )
            })?;
        serde_json::from_str(&answer).map_err(|error| {
            ExpressionError::Unavailable(format!("the evaluator's answer is no JSON: {error}"))
        })
    }
}
