//! Durable execution, independent of WebAssembly and of any database of a plugin.
//!
//! A *run* is one execution of a workflow definition. What makes it durable is an
//! [`Engine`](engine::Engine): `embedded` keeps the history in SQLite, in process;
//! `temporal` hands it to a Temporal cluster. Both feed the same sans-IO
//! [`Driver`](driver::Driver): what resolved goes in, commands come out, and
//! nothing in between reads a clock, does I/O or spawns.
//!
//! The way of a call:
//!
//! 1. [`Engine::start`](engine::Engine::start) records the run's first event, with the
//!    digests of everything it will use, and activates a driver.
//! 2. The driver's commands (schedule an activity, start a timer, ...) are recorded
//!    in the same transition as what led to them.
//! 3. A queue's slot becomes free, the start of the attempt is made durable, and
//!    [`ActivityExecutor::execute`](activity::ActivityExecutor::execute) runs it.
//! 4. The outcome resolves the driver's future, and so on until a terminal command.
//!
//! A run may be started by a [`schedule`] as well. Recorded histories are checked against
//! definitions by [`replay`].
//!
//! Start reading at [`driver`] for what a workflow is, at [`engine`] for what the
//! host can ask, at [`activity`] for what the host must provide.

pub mod activity;
mod attempt;
pub mod clock;
pub mod definition;
pub mod driver;
pub mod engine;
pub mod expressions;
pub mod failure;
pub mod flow;
mod live;
pub mod payload;
pub mod replay;
pub mod schedule;
pub mod search;
pub mod signal;
pub mod trace;
mod trouble;

pub mod embedded;
pub mod temporal;
