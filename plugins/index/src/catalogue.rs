//! The catalogue: which documents there are, under which etag each was processed, and by
//! which embedding. In SQL that both SQLite and PostgreSQL run; [`Catalogue::dialect`] says
//! where they differ.
//!
//! A document's passages are written under a *version*, which is made of its key, its etag and
//! the embedding, so that an attempt that comes again writes the same. A version that is being
//! written stands in `knowledge_writing` and is invisible; [`Catalogue::complete`] puts it
//! into the place of the one before it. Who completes one takes those that others write of the
//! same document away, so that they begin again.

use heyday_sdk::prelude::*;
use heyday_sdk::sql::{Connection, FromValue, Rows, Value};
use passages::vectors::Embedding;

use crate::types::{Document, Failure, Failures, Group, Overview, Rejected};

/// Raised with each change of the tables. They hold nothing that cannot be made again
/// from the documents, so another version's are dropped.
pub const VERSION: &str = "3";

/// Its tables.
const TABLES: [&str; 2] = ["knowledge_documents", "knowledge_writing"];
/// Those of version 2, which was on SQLite only.
const OLD: [&str; 3] = ["passages_index", "passages", "documents"];

/// The open catalogue.
pub struct Catalogue {
    connection: Connection,
    dialect: Dialect,
}

/// What the statements are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// A statement, whose parameters are written `?1` here.
    fn write(self, statement: &str) -> String {
        match self {
            Self::Sqlite => statement.to_owned(),
            Self::Postgres => statement.replace('?', "$"),
        }
    }

    fn schema(self) -> [String; 3] {
        // Keys are compared by their bytes, as those of objects are.
        let key = match self {
            Self::Sqlite => "TEXT NOT NULL",
            Self::Postgres => "TEXT COLLATE \"C\" NOT NULL",
        };
        [
            format!(
                "CREATE TABLE knowledge_documents (
                    key {key} PRIMARY KEY, version TEXT, etag TEXT, size BIGINT, format TEXT,
                    title TEXT, language TEXT, characters BIGINT, pages BIGINT,
                    passages BIGINT, kind TEXT, reason TEXT)"
            ),
            format!(
                "CREATE TABLE knowledge_writing (
                    key {key}, version TEXT NOT NULL, PRIMARY KEY (key, version))"
            ),
            "CREATE INDEX knowledge_documents_by_kind ON knowledge_documents (kind, key)"
                .to_owned(),
        ]
    }
}

/// A document that can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The version of its passages.
    pub version: String,
    /// Its title.
    pub title: String,
}

impl Catalogue {
    /// Opens the database. Where its tables are missing, they are made, and `forget` is called
    /// before: whatever the other stores hold is not known here.
    pub fn open(forget: impl FnOnce() -> Result<()>) -> Result<Self> {
        let connection = Connection::open("knowledge")?;
        let dialect = match connection.dialect().as_str() {
            "sqlite" => Dialect::Sqlite,
            "postgresql" => Dialect::Postgres,
            other => {
                let message = format!("the catalogue is kept on SQLite or PostgreSQL, not {other}");
                return Err(Error::new("unsupported", message));
            }
        };
        let this = Self {
            connection,
            dialect,
        };
        // Without the table this fails, alike on both.
        match this.setting("schema") {
            Ok(Some(version)) if version == VERSION => return Ok(this),
            Err(error) if error.kind() != "invalid-statement" => return Err(error),
            _ => {}
        }
        forget()?;
        this.set_up().map_err(|error| match error.kind() {
            // Another attempt makes them at the same time.
            "constraint" | "invalid-statement" => {
                Error::retryable("conflict", error.message().to_owned())
            }
            _ => error,
        })?;
        Ok(this)
    }

    fn set_up(&self) -> Result<()> {
        let settings = "CREATE TABLE IF NOT EXISTS knowledge_settings \
                        (name TEXT PRIMARY KEY, value TEXT NOT NULL)";
        self.connection.execute(settings, &[])?;
        let transaction = self.connection.begin()?;
        let old: &[&str] = match self.dialect {
            Dialect::Sqlite => &OLD,
            Dialect::Postgres => &[],
        };
        for table in TABLES.iter().chain(old) {
            transaction.execute(&format!("DROP TABLE IF EXISTS {table}"), &[])?;
        }
        transaction.execute("DELETE FROM knowledge_settings", &[])?;
        for statement in self.dialect.schema() {
            transaction.execute(&statement, &[])?;
        }
        let insert = "INSERT INTO knowledge_settings VALUES ('schema', ?1)";
        transaction.execute(&self.dialect.write(insert), params![VERSION])?;
        Ok(transaction.commit()?)
    }

    fn query(&self, statement: &str, params: &[Value]) -> Result<Rows> {
        let statement = self.dialect.write(statement);
        Ok(self.connection.query(&statement, params)?)
    }

    fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
        let statement = self.dialect.write(statement);
        Ok(self.connection.execute(&statement, params)?)
    }

    fn setting(&self, name: &str) -> Result<Option<String>> {
        let select = "SELECT value FROM knowledge_settings WHERE name = ?1";
        first(&self.query(select, params![name])?)
    }

    /// By which embedding the collection was filled; none while nothing was.
    pub fn embedding(&self) -> Result<Option<Embedding>> {
        let found = self.setting("embedding")?;
        Ok(found.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// Records by which embedding the collection is filled, where none is recorded.
    ///
    /// # Errors
    /// `embedding-mismatch` where it is another one.
    pub fn claim(&self, embedding: &Embedding) -> Result<()> {
        if self.embedding()?.is_none() {
            self.execute(
                "INSERT INTO knowledge_settings VALUES ('embedding', ?1)
                 ON CONFLICT (name) DO NOTHING",
                params![serde_json::to_string(embedding)?],
            )?;
        }
        match self.embedding()? {
            Some(filled) if filled != *embedding => Err(mismatch(&filled, &embedding.to_string())),
            _ => Ok(()),
        }
    }

    /// Forgets all documents and the embedding.
    pub fn clear(&self) -> Result<()> {
        let transaction = self.connection.begin()?;
        for statement in [
            "DELETE FROM knowledge_documents",
            "DELETE FROM knowledge_writing",
            "DELETE FROM knowledge_settings WHERE name = 'embedding'",
        ] {
            transaction.execute(statement, &[])?;
        }
        Ok(transaction.commit()?)
    }

    /// Key and etag of the documents in a range of keys, in order, at most so many; an etag
    /// is absent where the document is to be tried again.
    pub fn range(
        &self,
        after: Option<&str>,
        until: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Option<String>)>> {
        // No key begins with U+10FFFF, which no text has.
        let rows = self.query(
            "SELECT key, etag FROM knowledge_documents
             WHERE key > ?1 AND key <= ?2 ORDER BY key LIMIT ?3",
            params![after.unwrap_or(""), until.unwrap_or("\u{10ffff}"), limit],
        )?;
        rows.iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect()
    }

    /// Those of these documents that can be found, in the order of the keys.
    pub fn current(&self, keys: &[&str]) -> Result<Vec<Option<Current>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let marks: Vec<String> = (1..=keys.len()).map(|n| format!("?{n}")).collect();
        let select = format!(
            "SELECT key, version, title FROM knowledge_documents
             WHERE kind IS NULL AND key IN ({})",
            marks.join(", ")
        );
        let values: Vec<Value> = keys.iter().map(|key| Value::from(*key)).collect();
        let mut found = std::collections::HashMap::new();
        for row in &self.query(&select, &values)? {
            let current = Current {
                version: row.get(1)?,
                title: row.get(2)?,
            };
            found.insert(row.get::<String>(0)?, current);
        }
        Ok(keys.iter().map(|key| found.get(*key).cloned()).collect())
    }

    /// Begins to write a version; the same again changes nothing.
    pub fn begin(&self, key: &str, version: &str) -> Result<()> {
        self.execute(
            "INSERT INTO knowledge_writing (key, version) VALUES (?1, ?2)
             ON CONFLICT (key, version) DO NOTHING",
            params![key, version],
        )?;
        Ok(())
    }

    /// Puts a version into the place of the one before it.
    ///
    /// # Errors
    /// `conflict`, retryable, where another one was completed while it was written.
    pub fn complete(&self, document: &Document, version: &str, passages: u64) -> Result<()> {
        let transaction = self.connection.begin()?;
        let begun = "DELETE FROM knowledge_writing WHERE key = ?1 AND version = ?2";
        let begun =
            transaction.execute(&self.dialect.write(begun), params![&document.key, version])?;
        if begun == 0 {
            let message = "another run indexes the same document";
            return Err(Error::retryable("conflict", message));
        }
        let others = "DELETE FROM knowledge_writing WHERE key = ?1";
        transaction.execute(&self.dialect.write(others), params![&document.key])?;
        transaction.execute(
            &self.dialect.write(&upsert()),
            params![
                &document.key,
                version,
                &document.etag,
                document.size,
                &document.format,
                &document.title,
                &document.language,
                document.characters,
                document.pages,
                passages,
                None::<&str>,
                None::<&str>
            ],
        )?;
        Ok(transaction.commit()?)
    }

    /// Records a document that cannot be read.
    pub fn reject(&self, rejected: &Rejected) -> Result<()> {
        let again = !rejected.is_final();
        let etag = rejected.etag.as_deref().filter(|_| !again);
        let transaction = self.connection.begin()?;
        let others = "DELETE FROM knowledge_writing WHERE key = ?1";
        transaction.execute(&self.dialect.write(others), params![&rejected.key])?;
        let (text, number) = (None::<&str>, None::<u64>);
        transaction.execute(
            &self.dialect.write(&upsert()),
            params![
                &rejected.key,
                text,
                etag,
                number,
                text,
                text,
                text,
                number,
                number,
                number,
                &rejected.kind,
                &rejected.reason
            ],
        )?;
        Ok(transaction.commit()?)
    }

    /// Forgets documents.
    pub fn remove(&self, keys: &[String]) -> Result<()> {
        let transaction = self.connection.begin()?;
        let rows: Vec<Vec<Value>> = keys.iter().map(|key| params![key].to_vec()).collect();
        for table in ["knowledge_writing", "knowledge_documents"] {
            let delete = format!("DELETE FROM {table} WHERE key = ?1");
            transaction.execute_many(&self.dialect.write(&delete), &rows)?;
        }
        Ok(transaction.commit()?)
    }

    /// The documents that cannot be read: of one kind or of all, so many of each.
    pub fn failures(&self, kind: Option<&str>, after: &str, limit: u32) -> Result<Failures> {
        let counts = self.query(
            "SELECT kind, count(*) FROM knowledge_documents WHERE kind IS NOT NULL
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
            let rows = self.query(
                "SELECT key, reason FROM knowledge_documents
                 WHERE kind = ?1 AND key > ?2 ORDER BY key LIMIT ?3",
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
    pub fn overview(&self) -> Result<Overview> {
        let rows = self.query(
            "SELECT count(*) FILTER (WHERE kind IS NULL),
                    CAST(coalesce(sum(passages), 0) AS BIGINT),
                    count(*) FILTER (WHERE kind IS NOT NULL)
             FROM knowledge_documents",
            &[],
        )?;
        let row = rows
            .first()
            .ok_or_else(|| Error::new("internal", "a count has a row"))?;
        // A title of several words says more than the name of a file.
        let example = first(&self.query(
            "SELECT title FROM knowledge_documents WHERE kind IS NULL
             ORDER BY title LIKE '% % %' DESC, key LIMIT 1",
            &[],
        )?)?;
        Ok(Overview {
            documents: row.get(0)?,
            passages: row.get(1)?,
            unreadable: row.get(2)?,
            example,
            embedding: self.embedding()?,
        })
    }
}

fn first<T: FromValue>(rows: &Rows) -> Result<Option<T>> {
    match rows.first() {
        Some(row) => Ok(row.get(0)?),
        None => Ok(None),
    }
}

/// Writes a document's row, in the place of the one that is there.
fn upsert() -> String {
    const COLUMNS: [&str; 12] = [
        "key",
        "version",
        "etag",
        "size",
        "format",
        "title",
        "language",
        "characters",
        "pages",
        "passages",
        "kind",
        "reason",
    ];
    let marks: Vec<String> = (1..=COLUMNS.len()).map(|n| format!("?{n}")).collect();
    let sets: Vec<String> = COLUMNS[1..]
        .iter()
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    format!(
        "INSERT INTO knowledge_documents ({}) VALUES ({}) ON CONFLICT (key) DO UPDATE SET {}",
        COLUMNS.join(", "),
        marks.join(", "),
        sets.join(", ")
    )
}

/// What is refused where vectors of two embeddings would be mixed.
pub fn mismatch(filled: &Embedding, asked: &str) -> Error {
    Error::new(
        "embedding-mismatch",
        format!(
            "the passages were embedded by {filled}, and vectors by {asked} cannot be compared \
             with theirs: go on with {}, or run the flow knowledge.reset and then knowledge.sync \
             with the other one, which processes all documents again",
            filled.name
        ),
    )
}
