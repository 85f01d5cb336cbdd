//! The sandbox against guests that behave well and guests that do not.

mod evaluator;
mod guests;
mod prepare;
mod run;
mod stop;
mod support;
