//! Runs untrusted WebAssembly components under limits.
//!
//! The sandbox knows what a plugin exports (`heyday:plugin`) and no capability by
//! name: capabilities hand it their imports through [`Capability`].
//!
//! The way of a call:
//!
//! 1. [`Sandbox::verify`] reads uploaded bytes without running them and names every
//!    import it refuses.
//! 2. [`Sandbox::prepare`] answers a compiled [`Plugin`]: from memory, from the cache
//!    on disk, or compiled by a child process at low priority ([`compile`]).
//! 3. [`Sandbox::call`] takes a slot of the pool, makes a fresh store, links the
//!    call's state, runs the guest on the sandbox's own runtime until it ends or one of
//!    its [`Limits`] is passed, and answers its outcome with what it used.
//!
//! Expressions run on a second engine, with fuel: see [`expressions`].
//!
//! Start reading at [`call`] for what goes in and comes out, at [`capability`] for how
//! a capability is linked.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails should panic")
)]

mod cache;
pub mod call;
pub mod capability;
pub mod compile;
mod control;
mod denial;
mod engine;
pub mod expressions;
mod json;
pub mod limits;
pub mod mask;
mod options;
mod plugin;
mod run;
mod sandbox;
mod shares;
pub mod state;
mod turns;
mod verify;
mod wasi;

pub use cache::CacheError;
pub use call::{CallContext, CallError, CallOutcome, CallRequest, Usage};
pub use capability::{Capability, Grant, Grants};
pub use compile::{CompileError, CompileLimits, Compiler, CompilerCommand};
pub use denial::{DENIALS, Denial};
pub use expressions::{
    EvaluationLimit, Evaluator, EvaluatorError, EvaluatorOptions, EvaluatorProgram,
};
pub use limits::Limits;
pub use options::{CACHE_BYTES, PrepareError, PrepareState, SandboxError, SandboxOptions};
pub use sandbox::{Plugin, Sandbox, SandboxStats};
pub use shares::HeldShare;
pub use state::{CallState, HostCall, Stopped};
pub use verify::{Verified, VerifyError};

#[cfg(test)]
mod tests;
