//! The embedded engine: history in SQLite, dispatch in memory.
