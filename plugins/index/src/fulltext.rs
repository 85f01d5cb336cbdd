//! The passages, in SQLite's FTS5, ranked by BM25.
//!
//! A passage's id is its document's id and its position, so that neither needs a column
//! or an index of its own. The FTS table holds no text: it is given the words of a passage
//! once, and forgets a passage by its id. FTS5's `unicode61` knows words by the spaces
//! around them, which Chinese, Japanese, Thai and others do not write; [`terms`] puts
//! each of their characters into a word of its own, and a query's characters must then
//! follow each other. (FTS5's `trigram` would need three characters for any match, and
//! three times the room for all other text.) `porter` makes English words of one stem one.

use heyday_sdk::prelude::*;
use heyday_sdk::sql::{Connection, Transaction, Value};

use crate::snippet::snippet;
use crate::{Hit, Passage};

/// Passages of one document, at most.
pub const MAX_PASSAGES: u64 = 1 << POSITION_BITS;
const POSITION_BITS: u32 = 20;

/// Words of a query, at most.
const MAX_TERMS: usize = 32;

/// The statements that make the tables.
pub const SCHEMA: &[&str] = &[
    "CREATE TABLE passages (
        id INTEGER PRIMARY KEY, \"offset\" INTEGER NOT NULL, page INTEGER, heading TEXT,
        text TEXT NOT NULL)",
    "CREATE VIRTUAL TABLE passages_index USING fts5(
        text, heading, content='', contentless_delete=1,
        tokenize='porter unicode61 remove_diacritics 2')",
];

/// The statements that remove what [`SCHEMA`] made, and what earlier versions did.
pub const DROP: &[&str] = &[
    "DROP TABLE IF EXISTS passages_index",
    "DROP TABLE IF EXISTS passages",
];

fn id(document: i64, position: u64) -> i64 {
    (document << POSITION_BITS) | position.cast_signed()
}

/// Adds passages of a document.
pub fn add(transaction: &Transaction, document: i64, passages: &[Passage]) -> Result<()> {
    let rows: Vec<Vec<Value>> = passages
        .iter()
        .map(|p| {
            let id = id(document, p.position);
            params![id, p.offset, p.page, &p.heading, &p.text].to_vec()
        })
        .collect();
    transaction.execute_many(
        "INSERT INTO passages (id, \"offset\", page, heading, text) VALUES (?1, ?2, ?3, ?4, ?5)",
        &rows,
    )?;
    let rows: Vec<Vec<Value>> = passages
        .iter()
        .map(|p| {
            let heading = p.heading.as_deref().map(terms);
            params![id(document, p.position), terms(&p.text), heading].to_vec()
        })
        .collect();
    transaction.execute_many(
        "INSERT INTO passages_index (rowid, text, heading) VALUES (?1, ?2, ?3)",
        &rows,
    )?;
    Ok(())
}

/// Removes at most so many passages of a document, and answers how many it removed.
pub fn remove(transaction: &Transaction, document: i64, limit: u32) -> Result<u64> {
    let rows = transaction.query(
        "SELECT max(id) FROM (SELECT id FROM passages WHERE id BETWEEN ?1 AND ?2
         ORDER BY id LIMIT ?3)",
        params![id(document, 0), id(document, MAX_PASSAGES - 1), limit],
    )?;
    let last: Option<i64> = match rows.first() {
        Some(row) => row.get(0)?,
        None => None,
    };
    let Some(last) = last else { return Ok(0) };
    let range = params![id(document, 0), last];
    transaction.execute(
        "DELETE FROM passages_index WHERE rowid IN
            (SELECT id FROM passages WHERE id BETWEEN ?1 AND ?2)",
        range,
    )?;
    Ok(transaction.execute("DELETE FROM passages WHERE id BETWEEN ?1 AND ?2", range)?)
}

/// The passages that fit best: those with all words first, then those with any.
pub fn search(connection: &Connection, text: &str, limit: u32) -> Result<Vec<Hit>> {
    let words = words(text);
    if words.is_empty() {
        return Err(Error::new(
            "invalid-input",
            format!("there is no word to search for in {text:?}"),
        ));
    }
    let mut hits = matching(connection, &words, " AND ", limit)?;
    if words.len() > 1 && hits.len() < limit as usize {
        for hit in matching(connection, &words, " OR ", limit)? {
            if hits.len() == limit as usize {
                break;
            }
            let known = |known: &Hit| (&known.key, known.position) == (&hit.key, hit.position);
            if !hits.iter().any(known) {
                hits.push(hit);
            }
        }
    }
    Ok(hits)
}

fn matching(
    connection: &Connection,
    words: &[String],
    operator: &str,
    limit: u32,
) -> Result<Vec<Hit>> {
    let expression: Vec<String> = words.iter().map(|word| phrase(word)).collect();
    // A document's passages count once it is whole; the join is done for the best
    // candidates only.
    let rows = connection.query(
        "SELECT d.key, d.title, p.heading, p.page, p.id & ?3, p.\"offset\", p.text, -f.score
         FROM (SELECT rowid AS id, bm25(passages_index, 1.0, 2.0) AS score
               FROM passages_index WHERE passages_index MATCH ?1
               ORDER BY score LIMIT ?2 * 4 + 100) f
         JOIN passages p ON p.id = f.id
         JOIN documents d ON d.id = p.id >> ?4 AND d.complete = 1
         ORDER BY f.score, p.id LIMIT ?2",
        params![
            expression.join(operator),
            limit,
            (MAX_PASSAGES - 1).cast_signed(),
            POSITION_BITS
        ],
    )?;
    rows.iter()
        .map(|row| {
            let text: String = row.get(6)?;
            Ok(Hit {
                key: row.get(0)?,
                title: row.get(1)?,
                heading: row.get(2)?,
                page: row.get(3)?,
                position: row.get(4)?,
                offset: row.get(5)?,
                snippet: snippet(&text, words),
                text,
                score: row.get(7)?,
            })
        })
        .collect()
}

/// What a person typed: words, and quoted phrases as one each. Nothing in it is an
/// operator.
pub fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for (index, part) in text.split('"').enumerate() {
        let parts: Vec<&str> = if index % 2 == 1 {
            vec![part.trim()]
        } else {
            part.split_whitespace().collect()
        };
        for part in parts {
            if part.chars().any(char::is_alphanumeric)
                && words.len() < MAX_TERMS
                && !words.iter().any(|known| known == part)
            {
                // SQLite's texts end at a zero.
                words.push(part.replace('\0', " "));
            }
        }
    }
    words
}

/// A word as an FTS5 string; it holds no quote, for they are what separates words.
fn phrase(word: &str) -> String {
    format!("\"{}\"", terms(word))
}

/// Text with spaces around each character of a script that writes none between words.
pub fn terms(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    let mut previous = false;
    for character in text.chars() {
        let alone = is_unspaced(character);
        if (alone || previous) && !spaced.is_empty() && !spaced.ends_with(' ') {
            spaced.push(' ');
        }
        spaced.push(character);
        previous = alone;
    }
    spaced
}

/// Thai, Lao, Myanmar, Khmer, kana, Han and Hangul (whose words carry their particles).
fn is_unspaced(character: char) -> bool {
    matches!(character,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1100}'..='\u{11ff}'
        | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}' | '\u{3130}'..='\u{318f}'
        | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
        && character.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_phrases_are_never_operators() {
        let expression = |text| words(text).iter().map(|w| phrase(w)).collect::<Vec<_>>();
        assert_eq!(
            expression("durable \"worker lost\" NEAR(x) AND durable"),
            ["\"durable\"", "\"worker lost\"", "\"NEAR(x)\"", "\"AND\""]
        );
        assert_eq!(expression(" * - \"\" "), [""; 0]);
        assert_eq!(
            expression("unclosed \"quote here"),
            ["\"unclosed\"", "\"quote here\""]
        );
        assert_eq!(expression("a\0b"), ["\"a b\""]);
        let many: String = (0..100).map(|n| format!("w{n} ")).collect();
        assert_eq!(words(&many).len(), MAX_TERMS);
    }

    #[test]
    fn unspaced_scripts_become_single_characters() {
        assert_eq!(terms("plain text"), "plain text");
        assert_eq!(terms("東京都に行く"), "東 京 都 に 行 く");
        assert_eq!(terms("in 東京, 3月"), "in 東 京 , 3 月");
        assert_eq!(phrase("서울에서"), "\"서 울 에 서\"");
    }

    #[test]
    fn ids_hold_document_and_position() {
        assert_eq!(id(1, 0), 1 << 20);
        assert_eq!(id(3, MAX_PASSAGES - 1) >> POSITION_BITS, 3);
    }
}
