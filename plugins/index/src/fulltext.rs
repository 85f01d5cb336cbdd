//! The passages, in SQLite's FTS5, ranked by BM25.

use heyday_sdk::prelude::*;
use heyday_sdk::sql::{Connection, Transaction, Value};

use crate::{Hit, Passage};

/// Makes the tables where they are missing.
pub fn create(connection: &Connection) -> Result<()> {
    connection.execute(
        "CREATE TABLE IF NOT EXISTS passages (
            id INTEGER PRIMARY KEY, key TEXT NOT NULL, position INTEGER NOT NULL, heading TEXT,
            text TEXT NOT NULL, UNIQUE (key, position))",
        &[],
    )?;
    connection.execute(
        "CREATE VIRTUAL TABLE IF NOT EXISTS passages_index USING fts5(
            text, heading, content='passages', content_rowid='id',
            tokenize='unicode61 remove_diacritics 2')",
        &[],
    )?;
    Ok(())
}

/// Removes a document's passages.
pub fn remove(transaction: &Transaction, key: &str) -> Result<()> {
    // An index over external content is told of a removal with the values it had.
    transaction.execute(
        "INSERT INTO passages_index (passages_index, rowid, text, heading)
         SELECT 'delete', id, text, heading FROM passages WHERE key = ?1",
        params![key],
    )?;
    transaction.execute("DELETE FROM passages WHERE key = ?1", params![key])?;
    Ok(())
}

/// Adds passages of a document.
pub fn add(transaction: &Transaction, key: &str, passages: &[Passage]) -> Result<()> {
    let Some(first) = passages.first() else {
        return Ok(());
    };
    let rows: Vec<Vec<Value>> = passages
        .iter()
        .map(|p| params![key, p.position, &p.heading, &p.text].to_vec())
        .collect();
    transaction.execute_many(
        "INSERT INTO passages (key, position, heading, text) VALUES (?1, ?2, ?3, ?4)",
        &rows,
    )?;
    transaction.execute(
        "INSERT INTO passages_index (rowid, text, heading)
         SELECT id, text, heading FROM passages WHERE key = ?1 AND position >= ?2",
        params![key, first.position],
    )?;
    Ok(())
}

/// The passages that fit best.
pub fn search(connection: &Connection, text: &str, limit: u32) -> Result<Vec<Hit>> {
    let expression = match_expression(text);
    if expression.is_empty() {
        return Ok(Vec::new());
    }
    let rows = connection.query(
        "SELECT p.key, coalesce(d.title, p.key), p.heading, p.position, p.text,
                -bm25(passages_index, 1.0, 2.0)
         FROM passages_index
         JOIN passages p ON p.id = passages_index.rowid
         LEFT JOIN documents d ON d.key = p.key
         WHERE passages_index MATCH ?1 ORDER BY bm25(passages_index, 1.0, 2.0), p.id LIMIT ?2",
        params![expression, limit],
    )?;
    rows.iter()
        .map(|row| {
            Ok(Hit {
                key: row.get(0)?,
                title: row.get(1)?,
                heading: row.get(2)?,
                position: row.get(3)?,
                text: row.get(4)?,
                score: row.get(5)?,
            })
        })
        .collect()
}

/// What a person typed as an FTS5 expression: each word or quoted phrase is a string, so
/// that nothing in it is an operator, and any of them may match.
pub fn match_expression(text: &str) -> String {
    let mut terms = Vec::new();
    for (index, part) in text.split('"').enumerate() {
        if index % 2 == 1 {
            terms.push(part.trim().to_owned());
        } else {
            terms.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    terms
        .iter()
        .filter(|term| term.chars().any(char::is_alphanumeric))
        .take(64)
        .map(|term| format!("\"{term}\""))
        .collect::<Vec<_>>()
        .join(" OR ")
}

#[cfg(test)]
mod tests {
    use super::match_expression;

    #[test]
    fn words_and_phrases_are_never_operators() {
        assert_eq!(
            match_expression("durable \"worker lost\" NEAR(x)"),
            "\"durable\" OR \"worker lost\" OR \"NEAR(x)\""
        );
        assert_eq!(match_expression(" * - \"\" "), "");
        assert_eq!(
            match_expression("unclosed \"quote here"),
            "\"unclosed\" OR \"quote here\""
        );
    }
}
