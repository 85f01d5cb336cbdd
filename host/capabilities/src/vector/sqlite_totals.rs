//! What scores of words are computed from, for each tenant alone: how many items it has, and
//! of each searchable property how many items have words in it, and how many words.
//!
//! They are kept beside the words and change in the transaction of each write. FTS5 itself
//! keeps how many words each row has (`cN_words_docsize`, a part of its format): a write reads
//! there what goes before it deletes, and what came after it wrote. So they are exact, and no
//! other tokenizer than FTS5's ever counts. What an older Heyday wrote is counted once, when
//! the store is opened; a store that is only read counts at each search until then.

use futures::TryStreamExt as _;
use sqlx::{Row as _, SqliteConnection};

use super::Specification;
use super::sqlite_filter::{Param, Statement};
use super::sqlite_tables::{COUNTED_SINCE, Tables, rows_of, searchable};
use super::sqlite_targets::tenant_numbers;

/// In the place of a property: all items of the tenant.
const ALL_ITEMS: i64 = -1;

/// The totals of a tenant, or by how much they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) items: i64,
    /// Of the searchable properties, as the columns of words stand.
    columns: Vec<Column>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    property: i64,
    /// With at least one word.
    items: i64,
    words: i64,
}

impl Totals {
    /// Of nothing, or no change.
    pub(super) fn none(specification: &Specification) -> Self {
        let columns = searchable(specification).map(|property| Column {
            property: property as i64,
            items: 0,
            words: 0,
        });
        Self {
            items: 0,
            columns: columns.collect(),
        }
    }

    /// How many words a text of each column has in the mean.
    pub(super) fn means(&self) -> Vec<f64> {
        let means = self
            .columns
            .iter()
            .map(|column| column.words as f64 / column.items.max(1) as f64);
        means.collect()
    }

    /// Adds the words of a row `times` times, as FTS5 keeps their counts.
    fn add(&mut self, kept: &[u8], times: i64) {
        for (column, words) in self.columns.iter_mut().zip(counts(kept)) {
            if words > 0 {
                column.items += times;
                column.words += times * words;
            }
        }
    }

    /// Adds the words that rows have `times` times: -1 where they go. `rows` as `json_each`
    /// reads them.
    pub(super) async fn add_words(
        &mut self,
        connection: &mut SqliteConnection,
        tables: Tables,
        rows: Param,
        times: i64,
    ) -> Result<(), sqlx::Error> {
        if self.columns.is_empty() {
            return Ok(());
        }
        let mut statement = Statement::new(format!(
            "SELECT sz FROM {} WHERE id IN (SELECT value FROM json_each(",
            tables.table("words_docsize")
        ));
        statement.param(rows).push("))");
        self.add_found(connection, statement, times).await
    }

    async fn add_found(
        &mut self,
        connection: &mut SqliteConnection,
        statement: Statement,
        times: i64,
    ) -> Result<(), sqlx::Error> {
        let mut rows = statement.query(true).fetch(connection);
        while let Some(row) = rows.try_next().await? {
            self.add(row.try_get(0)?, times);
        }
        Ok(())
    }

    /// Changes by these what is kept of a tenant.
    pub(super) async fn record(
        &self,
        connection: &mut SqliteConnection,
        tables: Tables,
        tenant: i64,
    ) -> Result<(), sqlx::Error> {
        if self.columns.is_empty() {
            return Ok(());
        }
        let mut changes = vec![(ALL_ITEMS, self.items, 0)];
        for column in &self.columns {
            changes.push((column.property, column.items, column.words));
        }
        changes.retain(|(_, items, words)| (*items, *words) != (0, 0));
        for (property, items, words) in changes {
            sqlx::query(
                "INSERT INTO totals (collection, tenant, property, items, words) \
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (collection, tenant, property) \
                 DO UPDATE SET items = items + excluded.items, words = words + excluded.words",
            )
            .bind(tables.number)
            .bind(tenant)
            .bind(property)
            .bind(items)
            .bind(words)
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }

    /// Those of a tenant.
    pub(super) async fn of(
        connection: &mut SqliteConnection,
        tables: Tables,
        specification: &Specification,
        tenant: i64,
    ) -> Result<Self, sqlx::Error> {
        match Self::kept(connection, tables, specification, tenant).await? {
            Some(kept) => Ok(kept),
            None => Self::counted(connection, tables, specification, tenant).await,
        }
    }

    /// Those that are kept of a tenant; none where the collection was never counted.
    pub(super) async fn kept(
        connection: &mut SqliteConnection,
        tables: Tables,
        specification: &Specification,
        tenant: i64,
    ) -> Result<Option<Self>, sqlx::Error> {
        let steps: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *connection)
            .await?;
        if steps < COUNTED_SINCE {
            return Ok(None);
        }
        let counted: i64 = sqlx::query_scalar("SELECT counted FROM collections WHERE number = ?1")
            .bind(tables.number)
            .fetch_one(&mut *connection)
            .await?;
        if counted == 0 {
            return Ok(None);
        }
        let rows = sqlx::query(
            "SELECT property, items, words FROM totals WHERE collection = ?1 AND tenant = ?2",
        )
        .bind(tables.number)
        .bind(tenant)
        .fetch_all(&mut *connection)
        .await?;
        let mut totals = Self::none(specification);
        for row in rows {
            let (property, items): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            let words = row.try_get(2)?;
            if property == ALL_ITEMS {
                totals.items = items;
            }
            let columns = totals.columns.iter_mut();
            for column in columns.filter(|column| column.property == property) {
                (column.items, column.words) = (items, words);
            }
        }
        Ok(Some(totals))
    }

    /// Those of a tenant, counted row by row.
    pub(super) async fn counted(
        connection: &mut SqliteConnection,
        tables: Tables,
        specification: &Specification,
        tenant: i64,
    ) -> Result<Self, sqlx::Error> {
        let mut totals = Self::none(specification);
        if totals.columns.is_empty() {
            return Ok(totals);
        }
        let mut items = Statement::new(format!(
            "SELECT count(*) FROM {} WHERE tenant = ",
            tables.table("items")
        ));
        items.param(Param::Integer(tenant));
        let items = items.query(true).fetch_one(&mut *connection).await?;
        totals.items = items.try_get(0)?;
        let rows = rows_of(tenant);
        let mut words = Statement::new(format!(
            "SELECT sz FROM {} WHERE id BETWEEN ",
            tables.table("words_docsize")
        ));
        words
            .param(Param::Integer(*rows.start()))
            .push(" AND ")
            .param(Param::Integer(*rows.end()));
        totals.add_found(connection, words, 1).await?;
        Ok(totals)
    }
}

/// Counts what older Heydays wrote, one collection after the other: whoever calls next goes on
/// where this was broken off. One that cannot be read is left to whoever asks for it.
pub(super) async fn count_older(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let older = "SELECT number, specification FROM collections WHERE counted = 0";
    for row in sqlx::query(older).fetch_all(&mut *connection).await? {
        let (number, kept): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        let specification = match serde_json::from_str::<Specification>(&kept) {
            Ok(specification) => specification,
            Err(error) => {
                tracing::warn!(number, %error, "a collection's specification cannot be read");
                continue;
            }
        };
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut *connection)
            .await?;
        // Another process may have been faster.
        let counting =
            sqlx::query("UPDATE collections SET counted = 1 WHERE number = ?1 AND counted = 0")
                .bind(number)
                .execute(&mut *connection)
                .await?;
        if counting.rows_affected() > 0 {
            let tables = Tables { number };
            for tenant in tenant_numbers(connection, tables, &specification).await? {
                let totals = Totals::counted(connection, tables, &specification, tenant).await?;
                totals.record(connection, tables, tenant).await?;
            }
        }
        sqlx::query("COMMIT").execute(&mut *connection).await?;
    }
    Ok(())
}

/// The counts of words of a row's columns: numbers of SQLite's variable length.
fn counts(kept: &[u8]) -> impl Iterator<Item = i64> {
    let mut bytes = kept.iter();
    std::iter::from_fn(move || {
        let mut count = 0;
        loop {
            let byte = bytes.next()?;
            count = (count << 7) | i64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Some(count);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_fts5_are_read() {
        let kept = [0x00, 0x7f, 0x81, 0x00, 0xbf, 0xff, 0x7f, 0x81];
        let read: Vec<i64> = counts(&kept).collect();
        assert_eq!(read, [0, 127, 128, (1 << 20) - 1]);
    }
}
