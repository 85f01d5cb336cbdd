//! Heyday's server: the plugin registry, the REST API and the workers of one process.
//!
//! The way of a request:
//!
//! 1. `api` checks who asks and from where, reads the request, and calls one function
//!    below.
//! 2. [`registry`] keeps plugins and flows: immutable versions by digest, which one is
//!    active, and what each was granted. [`definitions`] answers the engine's questions
//!    over it.
//! 3. The engine (`heyday-durable`) makes runs durable and hands attempts to the
//!    [`executor`], which checks their input, calls the guest in its sandbox and writes
//!    down what it used ([`recorder`]).
//!
//! A [`worker`] is a process without state of its own: the same executor and engine over
//! what the server tells it by REST.
//!
//! Start reading at [`server`], where all of it is put together.

pub mod api;
pub mod auth;
pub mod config;
pub mod connections;
pub mod content;
pub mod data_folder;
pub mod definitions;
pub mod description;
pub mod executor;
pub mod expressions;
pub mod files;
pub mod follower;
pub mod listeners;
pub mod metrics;
mod models;
pub mod names;
pub mod pulls;
pub mod rebuild;
pub mod recorder;
pub mod registry;
pub mod remote;
pub mod replays;
pub mod schedules;
pub mod secret_file;
pub mod server;
pub mod state;
mod sweeping;
pub mod telemetry;
pub mod tokens;
pub mod worker;
pub mod workers;
