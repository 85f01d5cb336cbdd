//! The catalogue: one row a document, with the etag under which it was processed.

use heyday_sdk::prelude::*;
use heyday_sdk::sql::{Connection, Transaction};

use crate::{Document, Rejected, fulltext};

/// Opens the database and makes its tables where they are missing.
pub fn open() -> Result<Connection> {
    let connection = Connection::open("knowledge")?;
    connection.execute(
        "CREATE TABLE IF NOT EXISTS documents (
            key TEXT PRIMARY KEY, etag TEXT, size INTEGER, format TEXT, title TEXT, language TEXT,
            characters INTEGER, passages INTEGER, rejected TEXT)",
        &[],
    )?;
    fulltext::create(&connection)?;
    Ok(connection)
}

/// The etag under which a document was processed last.
pub fn etag(connection: &Connection, key: &str) -> Result<Option<String>> {
    let rows = connection.query("SELECT etag FROM documents WHERE key = ?1", params![key])?;
    match rows.first() {
        Some(row) => Ok(row.get(0)?),
        None => Ok(None),
    }
}

/// Records a processed document.
pub fn record(transaction: &Transaction, document: &Document, passages: u64) -> Result<()> {
    transaction.execute(
        "INSERT OR REPLACE INTO documents
            (key, etag, size, format, title, language, characters, passages, rejected)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL)",
        params![
            &document.key,
            &document.etag,
            document.size,
            &document.format,
            &document.title,
            &document.language,
            document.characters,
            passages
        ],
    )?;
    Ok(())
}

/// Records a document that cannot be read.
pub fn reject(transaction: &Transaction, rejected: &Rejected) -> Result<()> {
    transaction.execute(
        "INSERT OR REPLACE INTO documents (key, etag, rejected) VALUES (?1, ?2, ?3)",
        params![&rejected.key, &rejected.etag, &rejected.reason],
    )?;
    Ok(())
}
