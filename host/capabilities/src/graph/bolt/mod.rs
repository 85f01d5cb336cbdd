//! Bolt 5, the protocol of Neo4j and of our own engine's process.
//!
//! A client of our own, because what guests send is hostile and must end when they do: a
//! message is refused before it is in memory (`frame.rs`), a statement that nobody waits
//! for is reset on the server, columns keep their order, and a server that does not answer
//! is left (`wire.rs`, `pool.rs`).

pub(crate) mod frame;
pub(crate) mod message;
mod packstream;
mod pool;
mod wire;

pub(crate) use packstream::{DEPTH, Value};
pub(crate) use pool::{Connector, Lease, Pool, PoolOptions};
pub(crate) use wire::{BoltError, Failure, Mode, OTHER_VERSION, Pulled, Run, SignIn, Wire};
