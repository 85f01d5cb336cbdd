//! Power losses: what was acknowledged is on the disk, not only in its cache.
//!
//! The page cache survives a killed process, so that kills prove nothing about syncing.
//! Here SQLite writes to a disk in memory that knows what was synced, and whose power
//! fails in the middle of a change: [`disk`] is that disk, [`settle`] what it holds of a
//! file afterwards, [`locks`] what connections share, and [`vfs`] makes a VFS of it that
//! SQLite opens by name. [`sqlite`] tests the disk with SQLite alone (and [`sqlite_contract`] what else SQLite needs): with
//! `synchronous=FULL` nothing acknowledged is lost, with `OFF` it is, so a test that
//! passes on this disk has shown something. [`engine`] tests the embedded engine on it.
//!
//! A test takes a [`Disk`], gives [`mount`]'s name to whoever opens a database, lets the
//! power fail (at once, or at the n-th change from now), mounts the disk again and looks.

mod disk;
mod engine;
mod locks;
mod settle;
mod sqlite;
mod sqlite_contract;
mod vfs;

pub use disk::Disk;
pub use vfs::mount;
