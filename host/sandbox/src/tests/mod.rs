//! The sandbox against guests that behave well and guests that do not.

mod cache;
mod capability;
mod evaluator;
mod guests;
mod prepare;
mod run;
mod stop;
mod support;
