//! What is read of a collection in SQLite: items, counts and searches.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use futures::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::sqlite_error::Failed;
use super::sqlite_filter::{Param, Statement};
use super::sqlite_tables::{Tables, distance, vector};
use super::{
    Entry, Filter, Found, PropertyType, Query, Specification, Value, VectorError, Want, too_large,
};

/// What is read of a target in one transaction.
pub(super) struct Reading<'a> {
    pub(super) connection: &'a mut SqliteConnection,
    pub(super) tables: Tables,
    pub(super) specification: &'a Specification,
    pub(super) rows: RangeInclusive<i64>,
    pub(super) tenant: i64,
    /// The most bytes that are answered.
    pub(super) limit: u64,
}

impl Reading<'_> {
    /// Adds that a row is one of the target's.
    fn in_range(&self, statement: &mut Statement, column: &str) {
        statement
            .push(column)
            .push(" BETWEEN ")
            .param(Param::Integer(*self.rows.start()))
            .push(" AND ")
            .param(Param::Integer(*self.rows.end()));
    }

    /// Adds that the row `i` is one of the target's and passes a filter.
    fn passes(&self, statement: &mut Statement, filter: &Filter) {
        statement
            .push("i.tenant = ")
            .param(Param::Integer(self.tenant))
            .push(" AND ");
        statement.condition(self.specification, filter);
    }

    pub(super) async fn count(self, filter: Option<Filter>) -> Result<u64, Failed> {
        let items = self.tables.table("items");
        let mut statement = Statement::new(format!("SELECT count(*) FROM {items} AS i WHERE "));
        match &filter {
            None => self.in_range(&mut statement, "i.row"),
            Some(filter) => self.passes(&mut statement, filter),
        }
        let row = statement.query(false).fetch_one(self.connection).await?;
        Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
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

    pub(super) async fn nearest(
        self,
        vector: Vec<f32>,
        within: Option<f32>,
        query: Query,
    ) -> Result<Vec<Found>, Failed> {
        let mut statement = distance(self.specification, &vector);
        let (vectors, items) = (self.tables.table("vectors"), self.tables.table("items"));
        statement.prepend("SELECT v.row, ");
        match &query.filter {
            None => {
                statement.push(&format!(" AS d FROM {vectors} AS v WHERE "));
                self.in_range(&mut statement, "v.row");
            }
            // In this order: what does not pass is not compared.
            Some(filter) => {
                statement.push(&format!(
                    " AS d FROM {items} AS i CROSS JOIN {vectors} AS v ON v.row = i.row WHERE "
                ));
                self.passes(&mut statement, filter);
            }
        }
        if let Some(within) = within {
            statement
                .push(" AND d <= ")
                .param(Param::Real(f64::from(within)));
        }
        statement
            .push(" ORDER BY d, v.row LIMIT ")
            .param(Param::Integer(query.limit.into()));
        self.found(statement, &query.want).await
    }

    pub(super) async fn keywords(
        self,
        words: Vec<String>,
        properties: Vec<usize>,
        query: Query,
    ) -> Result<Vec<Found>, Failed> {
        let (table, items) = (self.tables.table("words"), self.tables.table("items"));
        let mut statement = Statement::new(format!("SELECT w.rowid, -bm25({table}) AS s FROM "));
        statement.push(&format!("{table} AS w "));
        if query.filter.is_some() {
            statement.push(&format!("CROSS JOIN {items} AS i ON i.row = w.rowid "));
        }
        // Words are letters and digits: within quotes they are no syntax of FTS5.
        let columns: Vec<String> = properties
            .iter()
            .map(|number| format!("w{number}"))
            .collect();
        let matched = format!(
            "{{{}}} : (\"{}\")",
            columns.join(" "),
            words.join("\" OR \"")
        );
        statement
            .push(&format!("WHERE {table} MATCH "))
            .param(Param::Text(matched))
            .push(" AND ");
        self.in_range(&mut statement, "w.rowid");
        if let Some(filter) = &query.filter {
            statement.push(" AND ");
            self.passes(&mut statement, filter);
        }
        statement
            .push(" ORDER BY s DESC, w.rowid LIMIT ")
            .param(Param::Integer(query.limit.into()));
        self.found(statement, &query.want).await
    }

    /// The items of the rows that a statement answers with a number each, in its order.
    async fn found(mut self, statement: Statement, want: &Want) -> Result<Vec<Found>, Failed> {
        let rows = statement
            .query(false)
            .fetch_all(&mut *self.connection)
            .await?;
        let mut ranked = Vec::with_capacity(rows.len());
        for row in rows {
            ranked.push((row.try_get::<i64, _>(0)?, row.try_get::<f64, _>(1)?));
        }
        let numbers: Vec<i64> = ranked.iter().map(|(row, _)| *row).collect();
        let mut condition = Statement::default();
        condition
            .push("i.row IN (SELECT value FROM json_each(")
            .param(Param::Text(serde_json::Value::from(numbers).to_string()))
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
            if bytes > self.limit {
                return Err(too_large(self.limit).into());
            }
            entries.push((row.try_get(0)?, entry));
        }
        Ok(entries)
    }
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
