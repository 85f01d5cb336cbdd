//! Integration tests: the real binary, real sockets, guests as tests. Run by
//! `cargo xtask test`, which builds what they need.
//!
//! The way of a test: it starts the binary as a process of its own on a free port
//! (`support::server`), uploads components that were built of `tests/guests` and `plugins`
//! (`support::component`) or are written by hand (`support::handmade`), and asks by REST or as
//! somebody at the command line does (`support::cli`). A few need no process: `conformance`
//! runs both engines in this one, `power_loss` the embedded one on a disk whose power fails.
//!
//! Start reading at `support::server`, and at `bad_input` for tests of few lines.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod activities;
mod apart;
mod asked;
mod backends_away;
mod bad_input;
mod capabilities;
mod cluster_death;
mod commands;
mod conformance;
mod continuing;
mod device;
mod division;
mod doctor;
mod events;
mod flow_versions;
mod flows;
mod full_disk;
mod gcs;
mod generation;
mod grants;
mod graph;
mod histories;
mod holding_back;
mod inference;
mod interfaces;
mod interop;
mod kit;
mod knowledge;
mod logs;
mod metrics;
mod openai;
mod pages;
mod plugins;
mod postgres;
mod power_loss;
mod presigned;
mod process_death;
mod pulls;
mod readme;
mod receipts;
mod refusals;
mod released;
mod restart;
mod review;
mod s3;
mod schedules;
mod search;
mod security;
mod settings;
mod slow_backends;
mod state;
mod stopping;
mod support;
mod taken_back;
mod templates;
mod temporal;
mod traces;
mod triggered;
mod visiting;
mod weaviate;
mod worker_cluster;
mod workers;
