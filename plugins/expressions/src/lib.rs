//! The jq evaluator of flows: `heyday:expressions/evaluator` on jaq.
//!
//! The host keeps one instance per flow version, calls `prepare` once with all of its
//! expressions and then `evaluate` for each evaluation. Whatever an expression may do is
//! contained by the host's sandbox: it limits computation, memory and stack, and gives
//! nothing to reach. This crate sees to it that the same expression on the same input has
//! the same answer always: see [`language`] for what is left out of jq and why, [`program`]
//! for how expressions are compiled together, and [`json`] for how values are written.
//!
//! Start reading at [`program`].

pub mod json;
pub mod language;
pub mod program;

pub use program::{Code, Error, Program};

#[cfg(target_arch = "wasm32")]
mod component {
    use std::cell::RefCell;

    use crate::{Error, Program};

    wit_bindgen::generate!({ path: "../../wit/expressions", world: "expressions" });

    use exports::heyday::expressions::evaluator;

    struct Evaluator;

    export!(Evaluator);

    thread_local!(static PROGRAM: RefCell<Option<Program>> = const { RefCell::new(None) });

    impl From<Error> for evaluator::Error {
        fn from(error: Error) -> Self {
            Self {
                code: error.code.as_str().to_owned(),
                message: error.message,
            }
        }
    }

    impl evaluator::Guest for Evaluator {
        fn prepare(expressions: Vec<String>, names: Vec<String>) -> Result<(), evaluator::Error> {
            let program = Program::compile(&expressions, &names)?;
            PROGRAM.replace(Some(program));
            Ok(())
        }

        fn evaluate(
            index: u32,
            input: String,
            values: Vec<String>,
        ) -> Result<String, evaluator::Error> {
            PROGRAM.with_borrow(|program| match program {
                Some(program) => Ok(program.evaluate(index as usize, &input, &values)?),
                None => Err(Error::not_prepared().into()),
            })
        }
    }
}
