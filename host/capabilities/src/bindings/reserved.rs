//! What is the host's own, and no binding's.

use std::path::PathBuf;

/// What no binding may reach: whoever has it has more than was granted.
#[derive(Debug, Clone, Default)]
pub struct Reserved {
    /// Files and folders: the server's own data, and what it signs in with. A binding holds
    /// none of them, and lies in none.
    pub paths: Vec<PathBuf>,
    /// Where its state is, on PostgreSQL.
    pub state: Option<StateDatabase>,
}

/// The database of the server's state. Its role and all of the database are the server's alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDatabase {
    /// The server's host; of one that is reached by a socket, 127.0.0.1.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who signs in.
    pub role: String,
    /// The database.
    pub database: String,
}
