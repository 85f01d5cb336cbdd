//! The tables of a store in SQLite.
//!
//! A collection with the number N has a table of items (`cN_items`), one of vectors
//! (`cN_vectors`, apart, so that a search reads nothing else), and where a property is
//! searchable an FTS5 table of words (`cN_words`) that keeps no text. Their rows have the
//! same numbers. The number of a row begins with the number of its tenant, so that a tenant's
//! rows stand together and every search, also of words, is of one range of rows.

use std::ops::RangeInclusive;

use super::sqlite_filter::{Param, Statement};
use super::{Distance, PropertyType, Specification};

/// Steps of the schema, in order; `user_version` counts those that a store has. A step that
/// was released never changes.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE collections (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
        specification TEXT NOT NULL
    );
    CREATE TABLE tenants (
        collection INTEGER NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL,
        PRIMARY KEY (collection, name)
    ) WITHOUT ROWID;
",
    "
    CREATE TABLE versions (
        collection INTEGER NOT NULL, tenant INTEGER NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (collection, tenant)
    ) WITHOUT ROWID;
    CREATE TABLE changes (
        number INTEGER NOT NULL PRIMARY KEY, collection INTEGER NOT NULL,
        tenant INTEGER NOT NULL, before INTEGER NOT NULL, after INTEGER NOT NULL, rows BLOB
    );
    CREATE INDEX changes_of ON changes (collection, tenant);
",
    "
    CREATE TABLE totals (
        collection INTEGER NOT NULL, tenant INTEGER NOT NULL, property INTEGER NOT NULL,
        items INTEGER NOT NULL, words INTEGER NOT NULL,
        PRIMARY KEY (collection, tenant, property)
    ) WITHOUT ROWID;
    ALTER TABLE collections ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;
",
];
/// The step that brought totals of words (`sqlite_totals`).
pub(super) const COUNTED_SINCE: i64 = 3;

/// Bits of a row's number below its tenant's.
const ROW_BITS: u32 = 40;
/// The most tenants that a collection can ever have had.
pub(super) const MOST_TENANTS: i64 = 1 << 22;

/// The tables of a collection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tables {
    /// The collection's number.
    pub(super) number: i64,
}

/// The rows of a tenant; of all, where a collection has none.
pub(super) fn rows_of(tenant: i64) -> RangeInclusive<i64> {
    let first = tenant << ROW_BITS;
    first..=(first | ((1 << ROW_BITS) - 1))
}

/// The searchable properties.
pub(super) fn searchable(specification: &Specification) -> impl Iterator<Item = usize> {
    let properties = specification.properties.iter().enumerate();
    properties
        .filter(|(_, property)| property.searchable)
        .map(|(number, _)| number)
}

impl Tables {
    /// The table of this kind: `items`.
    pub(super) fn table(self, kind: &str) -> String {
        format!("c{}_{kind}", self.number)
    }

    /// What makes them.
    pub(super) fn create(self, specification: &Specification) -> String {
        let items = self.table("items");
        let mut sql = format!(
            "CREATE TABLE {items} (row INTEGER NOT NULL PRIMARY KEY, tenant INTEGER NOT NULL, \
             id TEXT NOT NULL"
        );
        for (number, property) in specification.properties.iter().enumerate() {
            let kind = match property.kind {
                PropertyType::Text | PropertyType::TextList => "TEXT",
                PropertyType::Real => "REAL",
                PropertyType::Integer | PropertyType::Boolean | PropertyType::Timestamp => {
                    "INTEGER"
                }
            };
            sql += &format!(", p{number} {kind}");
        }
        sql += &format!("); CREATE UNIQUE INDEX {items}_by_id ON {items} (tenant, id);");
        for (number, property) in specification.properties.iter().enumerate() {
            // Of a list the index would be of its text as a whole.
            if property.filterable && property.kind != PropertyType::TextList {
                sql +=
                    &format!("CREATE INDEX {items}_by_p{number} ON {items} (tenant, p{number});");
            }
        }
        sql += &format!(
            "CREATE TABLE {} (row INTEGER NOT NULL PRIMARY KEY, length REAL NOT NULL, \
             vector BLOB NOT NULL);",
            self.table("vectors")
        );
        let words: Vec<String> = searchable(specification)
            .map(|number| format!("w{number}, "))
            .collect();
        if !words.is_empty() {
            sql += &format!(
                "CREATE VIRTUAL TABLE {} USING fts5({} content='', contentless_delete=1, \
                 tokenize='unicode61 remove_diacritics 0');",
                self.table("words"),
                words.concat()
            );
        }
        sql
    }

    /// What they are, by kind.
    pub(super) fn kinds(specification: &Specification) -> &'static [&'static str] {
        if searchable(specification).next().is_some() {
            &["words", "vectors", "items"]
        } else {
            &["vectors", "items"]
        }
    }

    /// What deletes them.
    pub(super) fn drop(self, specification: &Specification) -> String {
        let tables = Self::kinds(specification).iter();
        let drop = tables.map(|kind| format!("DROP TABLE {};", self.table(kind)));
        drop.collect()
    }

    /// The column with a row's number.
    pub(super) fn row_column(kind: &str) -> &'static str {
        if kind == "words" { "rowid" } else { "row" }
    }

    /// What deletes the rows of a tenant.
    pub(super) fn delete_range(
        self,
        specification: &Specification,
        rows: &RangeInclusive<i64>,
    ) -> Vec<Statement> {
        let kinds = Self::kinds(specification).iter();
        let statements = kinds.map(|kind| {
            let mut statement = Statement::new(format!(
                "DELETE FROM {} WHERE {} BETWEEN ",
                self.table(kind),
                Self::row_column(kind)
            ));
            statement
                .param(Param::Integer(*rows.start()))
                .push(" AND ")
                .param(Param::Integer(*rows.end()));
            statement
        });
        statements.collect()
    }
}

/// The distance of the vectors `v` to a parameter, as SQL.
pub(super) fn distance(specification: &Specification, vector: &[f32]) -> Statement {
    let mut statement = Statement::default();
    let blob = Param::Blob(blob(vector));
    match specification.distance {
        Distance::Cosine => {
            // Not below 0 by an error of rounding.
            statement.push("max(vec_distance_cosine(v.vector, ");
            statement.param(blob).push("), 0.0)");
        }
        Distance::Euclidean => {
            statement.push("vec_distance_L2(v.vector, ");
            statement.param(blob).push(")");
        }
        // By the cosine and both lengths, for there is no function of it. Without a length
        // there is no cosine, and the product is 0.
        Distance::Dot => {
            statement.push("ifnull((vec_distance_cosine(v.vector, ");
            statement.param(blob).push(") - 1.0) * v.length * ");
            statement.param(Param::Real(length(vector))).push(", 0.0)");
        }
    }
    statement
}

/// The numbers of a vector as sqlite-vec reads them.
pub(super) fn blob(vector: &[f32]) -> Vec<u8> {
    vector
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

/// The vector of these bytes.
pub(super) fn vector(blob: &[u8]) -> Vec<f32> {
    let (numbers, _) = blob.as_chunks::<4>();
    numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// How long a vector is.
pub(super) fn length(vector: &[f32]) -> f64 {
    let squares = vector.iter().map(|number| f64::from(*number).powi(2));
    squares.sum::<f64>().sqrt()
}
