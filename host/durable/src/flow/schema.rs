//! JSON Schema: compiling and validating schemas that anyone may have written.
//!
//! Schemas are compiled offline: nothing outside the document is ever opened. Patterns
//! run on the linear regex engine, so that no pattern can spin.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// A schema that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SchemaError {
    /// Where in the schema, as JSON pointer; empty for the schema itself.
    pub pointer: String,
    /// What is wrong, for a person.
    pub message: String,
}

/// One way in which a value does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Where in the value, as JSON pointer; empty for the value itself.
    pub instance: String,
    /// Where in the schema, as JSON pointer.
    pub schema: String,
    /// What is wrong, for a person.
    pub message: String,
}

/// A schema, ready to validate.
#[derive(Debug, Clone)]
pub struct CompiledSchema {
    validator: Validator,
}

/// Compiles a schema: draft 2020-12 unless its `$schema` names another.
///
/// # Errors
/// When it is no valid schema or refers to anything outside of itself.
pub fn compile(schema: &Value) -> Result<CompiledSchema, SchemaError> {
    let validator = jsonschema::options()
        .offline()
        .with_pattern_options(PatternOptions::regex().size_limit(1 << 20))
        .build(schema)
        .map_err(|error| SchemaError {
            pointer: error.instance_path().to_string(),
            message: error.to_string(),
        })?;
    Ok(CompiledSchema { validator })
}

impl CompiledSchema {
    /// Checks a value.
    ///
    /// # Errors
    /// How it does not fit, the first 20 ways.
    pub fn validate(&self, value: &Value) -> Result<(), Vec<Violation>> {
        let violations: Vec<_> = self
            .validator
            .iter_errors(value)
            .take(20)
            .map(|error| Violation {
                instance: error.instance_path().to_string(),
                schema: error.schema_path().to_string(),
                message: error.to_string(),
            })
            .collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(violations)
        }
    }
}
