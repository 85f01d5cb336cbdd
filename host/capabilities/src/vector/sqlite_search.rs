//! What is read of a collection in SQLite: items, counts and searches.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::slice;

use futures::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::sqlite::Stop;
use super::sqlite_bm25::{push_score, rarity};
use super::sqlite_error::Failed;
use super::sqlite_filter::{Param, Statement};
use super::sqlite_tables::{Tables, rows_of, vector};
use super::sqlite_targets::{tables, tenant};
use super::sqlite_totals::Totals;
use super::{
    Entry, Filter, Found, PropertyType, Query, Specification, Target, Value, VectorError,
    VectorLimits, Want, too_large,
};

/// What is read of a target in one transaction.
pub(super) struct Reading<'a> {
    pub(super) connection: &'a mut SqliteConnection,
    pub(super) tables: Tables,
    pub(super) specification: &'a Specification,
    pub(super) rows: RangeInclusive<i64>,
    pub(super) tenant: i64,
    pub(super) limits: &'a VectorLimits,
    /// When it is to end; ends what is done beside the connection.
    pub(super) stop: Stop,
}

impl<'a> Reading<'a> {
    /// Of a target; none where the tenant is not there.
    pub(super) async fn of(
        connection: &'a mut SqliteConnection,
        target: &'a Target,
        limits: &'a VectorLimits,
        stop: Stop,
    ) -> Result<Option<Self>, Failed> {
        let tables = tables(connection, &target.collection).await?;
        let tenant = tenant(connection, tables, target.tenant.as_deref()).await?;
        Ok(tenant.map(|tenant| Self {
            connection,
            tables,
            specification: &target.collection.specification,
            rows: rows_of(tenant),
            tenant,
            limits,
            stop,
        }))
    }
}

impl Reading<'_> {
    /// Adds that a row is one of the target's.
    pub(super) fn in_range(&self, statement: &mut Statement, column: &str) {
        statement
            .push(column)
            .push(" BETWEEN ")
            .param(Param::Integer(*self.rows.start()))
            .push(" AND ")
            .param(Param::Integer(*self.rows.end()));
    }

    /// Adds that the row `i` is one of the target's and passes a filter.
    pub(super) fn passes(&self, statement: &mut Statement, filter: &Filter) {
        statement
            .push("i.tenant = ")
            .param(Param::Integer(self.tenant))
            .push(" AND ");
        statement.condition(self.specification, filter);
    }

    pub(super) async fn count(&mut self, filter: Option<Filter>) -> Result<u64, Failed> {
        let items = self.tables.table("items");
        let mut statement = Statement::new(format!("SELECT count(*) FROM {items} AS i WHERE "));
        // An index has the tenant, and less to read than the items.
        self.passes(&mut statement, &filter.unwrap_or(Filter::All(Vec::new())));
        let query = statement.query(false);
        let row = query.fetch_one(&mut *self.connection).await?;
        Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
    }

    /// The first (`min`) or the last (`max`) row with a vector.
    pub(super) async fn end(&mut self, which: &str) -> Result<Option<i64>, Failed> {
        let vectors = self.tables.table("vectors");
        let mut statement = Statement::new(format!("SELECT {which}(row) FROM {vectors} WHERE "));
        self.in_range(&mut statement, "row");
        let query = statement.query(true);
        let row = query.fetch_one(&mut *self.connection).await?;
        Ok(row.try_get(0)?)
    }

    pub(super) async fn by_ids(
        mut self,
        ids: Vec<String>,
        want: Want,
    ) -> Result<Vec<Option<Entry>>, Failed> {
        let mut condition = Statement::default();
        condition
            .push("i.tenant = ")
            .param(Param::Integer(self.tenant))
            .push(" AND i.id IN (SELECT value FROM json_each(")
            .param(Param::Text(
                serde_json::Value::from(ids.clone()).to_string(),
            ))
            .push("))");
        let found = self.entries(condition, &want).await?;
        let mut by_id: HashMap<String, Entry> = found
            .into_iter()
            .map(|(_, entry)| (entry.id.clone(), entry))
            .collect();
        Ok(ids.iter().map(|id| by_id.remove(id)).collect())
    }

    pub(super) async fn keywords(
        mut self,
        words: Vec<String>,
        properties: Vec<usize>,
        query: Query,
    ) -> Result<Vec<Found>, Failed> {
        let having = self.having(&words, &properties).await?;
        if having.iter().all(|count| *count == 0) {
            return Ok(Vec::new());
        }
        let totals = Totals::of(
            self.connection,
            self.tables,
            self.specification,
            self.tenant,
        )
        .await?;
        let rarities: Vec<f64> = having
            .chunks(properties.len())
            .map(|having| rarity(totals.items, having))
            .collect();
        let (table, items) = (self.tables.table("words"), self.tables.table("items"));
        let mut statement = Statement::new("SELECT w.rowid, ");
        push_score(&mut statement, &table, &rarities, &totals.means());
        statement.push(&format!(" AS s FROM {table} AS w "));
        if query.filter.is_some() {
            statement.push(&format!("CROSS JOIN {items} AS i ON i.row = w.rowid "));
        }
        statement
            .push(&format!("WHERE {table} MATCH "))
            .param(Param::Text(matching(&words, &properties)))
            .push(" AND ");
        self.in_range(&mut statement, "w.rowid");
        if let Some(filter) = &query.filter {
            statement.push(" AND ");
            self.passes(&mut statement, filter);
        }
        statement
            .push(" ORDER BY s DESC, w.rowid LIMIT ")
            .param(Param::Integer(query.limit.into()));
        let ranked = self.ranked(statement).await?;
        self.found(ranked, &query.want).await
    }

    /// How many of the target's items have each word in each property: word by word.
    async fn having(&mut self, words: &[String], properties: &[usize]) -> Result<Vec<i64>, Failed> {
        let mut each = Vec::new();
        for word in words {
            for property in properties {
                each.push(matching(slice::from_ref(word), slice::from_ref(property)));
            }
        }
        let table = self.tables.table("words");
        let mut statement = Statement::new(format!(
            "SELECT (SELECT count(*) FROM {table} WHERE {table} MATCH j.value AND "
        ));
        self.in_range(&mut statement, "rowid");
        statement
            .push(") FROM json_each(")
            .param(Param::Text(serde_json::Value::from(each).to_string()))
            .push(") AS j ORDER BY j.key");
        let query = statement.query(true);
        let rows = query.fetch_all(&mut *self.connection).await?;
        let counts = rows.iter().map(|row| Ok(row.try_get(0)?));
        counts.collect()
    }

    /// What a statement answers: rows with a number each, in its order.
    pub(super) async fn ranked(&mut self, statement: Statement) -> Result<Vec<(i64, f64)>, Failed> {
        let query = statement.query(false);
        let rows = query.fetch_all(&mut *self.connection).await?;
        let each = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        each.collect()
    }

    /// The items of rows, with their numbers, in that order.
    pub(super) async fn found(
        mut self,
        ranked: Vec<(i64, f64)>,
        want: &Want,
    ) -> Result<Vec<Found>, Failed> {
        let numbers: Vec<i64> = ranked.iter().map(|(row, _)| *row).collect();
        let mut condition = Statement::default();
        condition
            .push("i.row IN (SELECT value FROM json_each(")
            .param(Param::rows(&numbers))
            .push("))");
        let entries = self.entries(condition, want).await?;
        let mut by_row: HashMap<i64, Entry> = entries.into_iter().collect();
        let found = ranked.into_iter().filter_map(|(row, number)| {
            Some(Found {
                entry: by_row.remove(&row)?,
                number: number as f32,
            })
        });
        Ok(found.collect())
    }

    /// The items that fulfil a condition on the row `i`, by their rows.
    async fn entries(
        &mut self,
        condition: Statement,
        want: &Want,
    ) -> Result<Vec<(i64, Entry)>, Failed> {
        let (vectors, items) = (self.tables.table("vectors"), self.tables.table("items"));
        let mut select = String::from("SELECT i.row, i.id");
        for number in &want.properties {
            select += &format!(", i.p{number}");
        }
        if want.vectors {
            select += ", v.vector";
        }
        select += &format!(" FROM {items} AS i ");
        if want.vectors {
            select += &format!("LEFT JOIN {vectors} AS v ON v.row = i.row ");
        }
        let mut statement = condition;
        statement.prepend(&format!("{select} WHERE "));
        let mut rows = statement.query(false).fetch(&mut *self.connection);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let entry = entry(self.specification, want, &row)?;
            bytes += entry.bytes();
            if bytes > self.limits.call_bytes {
                return Err(too_large(self.limits.call_bytes).into());
            }
            entries.push((row.try_get(0)?, entry));
        }
        Ok(entries)
    }
}

/// What finds the items that have any of the words in any of the properties. Words are
/// letters and digits: within quotes they are no syntax of FTS5.
fn matching(words: &[String], properties: &[usize]) -> String {
    let columns: Vec<String> = properties
        .iter()
        .map(|number| format!("w{number}"))
        .collect();
    format!(
        "{{{}}} : (\"{}\")",
        columns.join(" "),
        words.join("\" OR \"")
    )
}

fn entry(specification: &Specification, want: &Want, row: &SqliteRow) -> Result<Entry, Failed> {
    let mut values: Vec<Option<Value>> = vec![None; specification.properties.len()];
    for (column, &number) in want.properties.iter().enumerate() {
        let column = column + 2;
        values[number] = match specification.properties[number].kind {
            PropertyType::Text => row.try_get::<Option<String>, _>(column)?.map(Value::Text),
            PropertyType::Integer => row.try_get::<Option<i64>, _>(column)?.map(Value::Integer),
            PropertyType::Real => row.try_get::<Option<f64>, _>(column)?.map(Value::Real),
            PropertyType::Boolean => {
                let kept: Option<i64> = row.try_get(column)?;
                kept.map(|kept| Value::Boolean(kept != 0))
            }
            PropertyType::Timestamp => row.try_get::<Option<i64>, _>(column)?.map(Value::Timestamp),
            PropertyType::TextList => {
                let kept: Option<String> = row.try_get(column)?;
                let texts = kept.map(|kept| serde_json::from_str(&kept)).transpose();
                texts.map_err(VectorError::internal)?.map(Value::TextList)
            }
        };
    }
    let kept = if want.vectors {
        row.try_get::<Option<Vec<u8>>, _>(2 + want.properties.len())?
    } else {
        None
    };
    Ok(Entry {
        id: row.try_get(1)?,
        vector: kept.map(|kept| vector(&kept)),
        values,
    })
}
