//! JSON Schema: compiling and validating schemas that anyone may have written.
//!
//! Nothing outside the schema is ever opened: it is compiled offline, and it may refer
//! only to itself, by `#` or `#/...`. Validation has no clock that could stop it, so
//! what it may cost is bounded before it runs (`shape` counts how often one place of a
//! value can be visited and how deep): a schema past the limits is refused when it is
//! compiled, a value too large for its schema when it is validated. Patterns run on
//! the linear regex engine, and their number and size are limited.

mod shape;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use shape::{Extent, Shape};

/// The most violations that one answer lists.
const MAX_VIOLATIONS: usize = 20;

/// The most bytes of a violation's message, which quotes the value.
const MAX_MESSAGE: usize = 300;

/// The most visits that validating one value may take.
const MAX_VISITS: u64 = 200_000_000;

/// Up to this many visits, every violation is looked for; above, the first one.
const DETAILED_VISITS: u64 = 200_000;

/// Up to this many levels of schema on top of each other, the caller's stack does.
const SHALLOW: u64 = 128;

/// The most levels of schema on top of each other, on a stack of [`DEEP_STACK`] bytes.
const MAX_LEVELS: u64 = 8_192;
const DEEP_STACK: usize = 128 * 1024 * 1024;

/// A schema that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SchemaError {
    /// Where in the schema, as JSON pointer; empty for the schema itself.
    pub pointer: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// One way in which a value does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Where in the value, as JSON pointer; empty for the value itself.
    pub instance: String,
    /// Where in the schema, as JSON pointer.
    pub schema: String,
    /// What is wrong, for a person. Quotes the start of the value.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.instance.is_empty() {
            write!(f, "{}: ", self.instance)?;
        }
        f.write_str(&self.message)
    }
}

/// A schema, ready to validate.
#[derive(Clone)]
pub struct CompiledSchema {
    validator: Validator,
    shape: Shape,
}

impl std::fmt::Debug for CompiledSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledSchema")
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// Compiles a schema: draft 2020-12 unless its `$schema` names another.
///
/// # Errors
/// When it is no valid schema, refers to anything but itself, or is too costly.
pub fn compile(schema: &Value) -> Result<CompiledSchema, SchemaError> {
    let shape = Shape::of(schema)?;
    let validator = jsonschema::options()
        .offline()
        .with_pattern_options(PatternOptions::regex().size_limit(shape::MAX_PATTERN_PROGRAM))
        .build(schema)
        .map_err(|error| SchemaError {
            pointer: error.instance_path().to_string(),
            message: message(&error),
        })?;
    Ok(CompiledSchema { validator, shape })
}

impl CompiledSchema {
    /// Checks a value.
    ///
    /// # Errors
    /// How it does not fit: the first 20 ways, or only one where the value is large. A
    /// value that is too large or too deep for its schema does not fit either.
    pub fn validate(&self, value: &Value) -> Result<(), Vec<Violation>> {
        let extent = Extent::of(value);
        let visits = self.shape.visits(&extent);
        let levels = self.shape.levels(&extent);
        if visits > MAX_VISITS || levels > MAX_LEVELS {
            return Err(vec![Violation {
                instance: String::new(),
                schema: String::new(),
                message: format!(
                    "the value ({} parts, {} levels) is too large to be checked by this schema; make one of them smaller",
                    extent.nodes, extent.depth
                ),
            }]);
        }
        if levels <= SHALLOW {
            return self.check(value, &extent);
        }
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(DEEP_STACK)
                .spawn_scoped(scope, || self.check(value, &extent))
                .ok()
                .and_then(|thread| thread.join().ok())
                .unwrap_or_else(|| {
                    Err(vec![Violation {
                        instance: String::new(),
                        schema: String::new(),
                        message: "the value is nested too deep to be checked by this schema"
                            .to_owned(),
                    }])
                })
        })
    }

    fn check(&self, value: &Value, extent: &Extent) -> Result<(), Vec<Violation>> {
        // Only this way of validating remembers what it has seen of schemas that refer
        // to themselves; the others are run where they cannot explode.
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let explained = self.shape.visits_explained(extent);
        let violations: Vec<Violation> = if explained <= DETAILED_VISITS {
            self.validator
                .iter_errors(value)
                .take(MAX_VIOLATIONS)
                .map(|error| violation(&error))
                .collect()
        } else if explained <= MAX_VISITS {
            let first = self.validator.validate(value).err();
            first.iter().map(violation).collect()
        } else {
            Vec::new()
        };
        if violations.is_empty() {
            return Err(vec![Violation {
                instance: String::new(),
                schema: String::new(),
                message: "the value does not fit the schema, and is too large to say where"
                    .to_owned(),
            }]);
        }
        Err(violations)
    }
}

fn violation(error: &ValidationError<'_>) -> Violation {
    Violation {
        instance: error.instance_path().to_string(),
        schema: error.schema_path().to_string(),
        message: message(error),
    }
}

/// The error's text, cut off: it quotes the value, which may be huge.
fn message(error: &ValidationError<'_>) -> String {
    struct Limited(String);
    impl std::fmt::Write for Limited {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for c in text.chars() {
                if self.0.len() >= MAX_MESSAGE {
                    self.0.push_str("...");
                    return Err(std::fmt::Error);
                }
                self.0.push(c);
            }
            Ok(())
        }
    }
    let mut limited = Limited(String::new());
    // It fails only to end early.
    let _ = write!(limited, "{error}");
    limited.0
}
