//! The catalogue: which documents there are, and under which etag each was processed.
//!
//! A document's passages are added in several transactions, so that a book does not keep
//! everyone else from the database. Its row is not `complete` until the last of them,
//! which is when it takes the place of the row before it; rows that are not complete are
//! invisible to all but [`sweep`], which removes what ended attempts and replaced
//! documents left.

use heyday_sdk::prelude::*;
use heyday_sdk::sql::{Connection, Transaction};

use crate::{Document, Failure, Failures, Group, Overview, Rejected, fulltext};

/// Raised with each change of the tables. They hold nothing that cannot be made again
/// from the documents, so another version's are dropped.
pub const VERSION: i64 = 2;

const SCHEMA: &[&str] = &[
    "CREATE TABLE documents (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, complete INTEGER NOT NULL,
        etag TEXT, size INTEGER, format TEXT, title TEXT, language TEXT, characters INTEGER,
        pages INTEGER, passages INTEGER, kind TEXT, reason TEXT)",
    "CREATE UNIQUE INDEX documents_complete ON documents (key) WHERE complete = 1",
    "CREATE INDEX documents_incomplete ON documents (key) WHERE complete = 0",
    "CREATE INDEX documents_rejected ON documents (kind, key)
        WHERE complete = 1 AND kind IS NOT NULL",
];

/// Passages that one transaction removes.
const SWEEP: u32 = 2_000;

/// Opens the database, and makes its tables where they are missing.
pub fn open() -> Result<Connection> {
    let connection = Connection::open("knowledge")?;
    let version = "PRAGMA user_version";
    if first(connection.query(version, &[])?)? == Some(VERSION) {
        return Ok(connection);
    }
    let transaction = connection.begin()?;
    // Another attempt may have made them while this one waited for its turn.
    if first(transaction.query(version, &[])?)? != Some(VERSION) {
        for statement in fulltext::DROP {
            transaction.execute(statement, &[])?;
        }
        transaction.execute("DROP TABLE IF EXISTS documents", &[])?;
        for statement in SCHEMA.iter().chain(fulltext::SCHEMA) {
            transaction.execute(statement, &[])?;
        }
        transaction.execute(&format!("{version} = {VERSION}"), &[])?;
    }
    transaction.commit()?;
    Ok(connection)
}

fn first<T: sql::FromValue>(rows: sql::Rows) -> Result<Option<T>> {
    match rows.first() {
        Some(row) => Ok(row.get(0)?),
        None => Ok(None),
    }
}

/// Key and etag of the documents in a range of keys, in order, at most so many; an etag
/// is absent where the document is to be tried again.
pub fn range(
    connection: &Connection,
    after: Option<&str>,
    until: Option<&str>,
    limit: u32,
) -> Result<Vec<(String, Option<String>)>> {
    // No key begins with U+10FFFF, which no text has.
    let rows = connection.query(
        "SELECT key, etag FROM documents
         WHERE complete = 1 AND key > ?1 AND key <= ?2 ORDER BY key LIMIT ?3",
        params![after.unwrap_or(""), until.unwrap_or("\u{10ffff}"), limit],
    )?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// Begins a document and answers its id.
pub fn begin(transaction: &Transaction, document: &Document) -> Result<i64> {
    let rows = transaction.query(
        "INSERT INTO documents
            (key, complete, etag, size, format, title, language, characters, pages)
         VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id",
        params![
            &document.key,
            &document.etag,
            document.size,
            &document.format,
            &document.title,
            &document.language,
            document.characters,
            document.pages
        ],
    )?;
    first(rows)?.ok_or_else(|| Error::new("internal", "an inserted row has an id"))
}

/// Records in each transaction how far the document is; fails where it was swept away.
pub fn advance(transaction: &Transaction, id: i64, passages: u64) -> Result<()> {
    let changed = transaction.execute(
        "UPDATE documents SET passages = ?2 WHERE id = ?1 AND complete = 0",
        params![id, passages],
    )?;
    if changed == 1 {
        return Ok(());
    }
    Err(Error::retryable(
        "conflict",
        "another run indexes the same document",
    ))
}

/// Puts a document in the place of the one before it.
pub fn complete(transaction: &Transaction, key: &str, id: i64) -> Result<()> {
    hide(transaction, key)?;
    transaction.execute(
        "UPDATE documents SET complete = 1 WHERE id = ?1",
        params![id],
    )?;
    Ok(())
}

/// Makes a document invisible; [`sweep`] removes it.
pub fn hide(transaction: &Transaction, key: &str) -> Result<()> {
    transaction.execute(
        "UPDATE documents SET complete = 0 WHERE key = ?1 AND complete = 1",
        params![key],
    )?;
    Ok(())
}

/// Records a document that cannot be read.
pub fn reject(transaction: &Transaction, rejected: &Rejected) -> Result<()> {
    hide(transaction, &rejected.key)?;
    let again = !rejected.is_final();
    transaction.execute(
        "INSERT INTO documents (key, complete, etag, kind, reason) VALUES (?1, 1, ?2, ?3, ?4)",
        params![
            &rejected.key,
            rejected.etag.as_deref().filter(|_| !again),
            &rejected.kind,
            &rejected.reason
        ],
    )?;
    Ok(())
}

/// Removes a document's invisible rows and their passages.
pub fn sweep(connection: &Connection, key: &str) -> Result<()> {
    let rows = connection.query(
        "SELECT id FROM documents WHERE key = ?1 AND complete = 0",
        params![key],
    )?;
    for row in &rows {
        let id: i64 = row.get(0)?;
        loop {
            let transaction = connection.begin()?;
            let last = fulltext::remove(&transaction, id, SWEEP)? < u64::from(SWEEP);
            if last {
                transaction.execute("DELETE FROM documents WHERE id = ?1", params![id])?;
            }
            transaction.commit()?;
            if last {
                break;
            }
        }
    }
    Ok(())
}

/// The documents that cannot be read: of one kind or of all, so many of each.
pub fn failures(
    connection: &Connection,
    kind: Option<&str>,
    after: &str,
    limit: u32,
) -> Result<Failures> {
    let counts = connection.query(
        "SELECT kind, count(*) FROM documents WHERE complete = 1 AND kind IS NOT NULL
         GROUP BY kind ORDER BY 2 DESC, 1",
        &[],
    )?;
    let mut failures = Failures {
        total: 0,
        kinds: Vec::new(),
    };
    for row in &counts {
        let mut group = Group {
            kind: row.get(0)?,
            total: row.get(1)?,
            documents: Vec::new(),
        };
        failures.total += group.total;
        if kind.is_some_and(|kind| kind != group.kind) {
            continue;
        }
        let rows = connection.query(
            "SELECT key, reason FROM documents
             WHERE complete = 1 AND kind = ?1 AND key > ?2 ORDER BY key LIMIT ?3",
            params![&group.kind, after, limit],
        )?;
        for row in &rows {
            group.documents.push(Failure {
                key: row.get(0)?,
                reason: row.get(1)?,
            });
        }
        failures.kinds.push(group);
    }
    Ok(failures)
}

/// What there is.
pub fn overview(connection: &Connection) -> Result<Overview> {
    let rows = connection.query(
        "SELECT count(*) FILTER (WHERE kind IS NULL), coalesce(sum(passages), 0),
                count(*) FILTER (WHERE kind IS NOT NULL)
         FROM documents WHERE complete = 1",
        &[],
    )?;
    let row = rows
        .first()
        .ok_or_else(|| Error::new("internal", "a count has a row"))?;
    // A title of several words says more than the name of a file.
    let example = first(connection.query(
        "SELECT title FROM documents WHERE complete = 1 AND kind IS NULL
         ORDER BY title LIKE '% % %' DESC, key LIMIT 1",
        &[],
    )?)?;
    Ok(Overview {
        documents: row.get(0)?,
        passages: row.get(1)?,
        unreadable: row.get(2)?,
        example,
    })
}
