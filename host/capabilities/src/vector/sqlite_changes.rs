//! Which vectors of a collection, or of a tenant, changed since when.
//!
//! Each write of a target gives it a version, a random number, and keeps with it the version
//! that it had before and the rows that it wrote or deleted, in the write's own transaction.
//! So a version is one state of the target's vectors and of no other, in every process that
//! has the file open and after the file was restored from a copy; what was rolled back was
//! never a version. Who knows the state of one version learns from the changes what to read
//! again. Only the last changes are kept: who comes later reads everything.

use std::ops::RangeInclusive;

use futures::TryStreamExt as _;
use sqlx::{Row as _, SqliteConnection};

use super::sqlite_tables::Tables;

/// So many changes of a store are kept.
const KEPT: i64 = 1_000;
/// So many ranges of rows of one change.
const RANGES: usize = 1_000;

/// Rows that one write changed.
#[derive(Debug)]
pub(super) struct Changed {
    rows: Vec<i64>,
}

impl From<Vec<i64>> for Changed {
    fn from(rows: Vec<i64>) -> Self {
        Self { rows }
    }
}

impl Changed {
    /// Gives a tenant's vectors the next version, where any changed.
    pub(super) async fn record(
        self,
        connection: &mut SqliteConnection,
        tables: Tables,
        tenant: i64,
    ) -> Result<(), sqlx::Error> {
        if self.rows.is_empty() {
            return Ok(());
        }
        // First, so that there is room.
        sqlx::query("DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - ?1")
            .bind(KEPT)
            .execute(&mut *connection)
            .await?;
        let version = rand::random_range(1..=i64::MAX);
        sqlx::query(
            "INSERT INTO changes (collection, tenant, before, after, rows) VALUES (?1, ?2, \
             ifnull((SELECT version FROM versions WHERE collection = ?1 AND tenant = ?2), 0), \
             ?3, ?4)",
        )
        .bind(tables.number)
        .bind(tenant)
        .bind(version)
        .bind(encode(self.rows))
        .execute(&mut *connection)
        .await?;
        sqlx::query("INSERT OR REPLACE INTO versions VALUES (?1, ?2, ?3)")
            .bind(tables.number)
            .bind(tenant)
            .bind(version)
            .execute(&mut *connection)
            .await?;
        Ok(())
    }
}

/// The version of a tenant's vectors; 0 where nothing was written since versions are kept.
pub(super) async fn version(
    connection: &mut SqliteConnection,
    tables: Tables,
    tenant: i64,
) -> Result<i64, sqlx::Error> {
    let kept =
        sqlx::query_scalar("SELECT version FROM versions WHERE collection = ?1 AND tenant = ?2")
            .bind(tables.number)
            .bind(tenant)
            .fetch_optional(connection)
            .await?;
    Ok(kept.unwrap_or(0))
}

/// The rows that changed from one version to another, in order. None where that is not known
/// any more, or where they are more than `most`.
pub(super) async fn between(
    connection: &mut SqliteConnection,
    tables: Tables,
    tenant: i64,
    (from, to): (i64, i64),
    most: u64,
) -> Result<Option<Vec<i64>>, sqlx::Error> {
    let mut changes = sqlx::query(
        "SELECT before, after, rows FROM changes WHERE collection = ?1 AND tenant = ?2 \
         ORDER BY number DESC",
    )
    .bind(tables.number)
    .bind(tenant)
    .fetch(connection);
    let (mut at, mut rows, mut count) = (to, Vec::new(), 0);
    while at != from {
        let Some(change) = changes.try_next().await? else {
            return Ok(None);
        };
        let (before, after): (i64, i64) = (change.try_get(0)?, change.try_get(1)?);
        let Some(kept) = change.try_get::<Option<&[u8]>, _>(2)? else {
            return Ok(None);
        };
        if after != at {
            return Ok(None);
        }
        at = before;
        for range in decode(kept) {
            count += range.end().abs_diff(*range.start()) + 1;
            if count > most {
                return Ok(None);
            }
            rows.extend(range);
        }
    }
    rows.sort_unstable();
    rows.dedup();
    Ok(Some(rows))
}

/// Rows as ranges, each of its first and its last one; none where they are too many.
fn encode(mut rows: Vec<i64>) -> Option<Vec<u8>> {
    rows.sort_unstable();
    rows.dedup();
    let ranges = rows.chunk_by(|one, next| one + 1 == *next);
    let mut kept = Vec::new();
    for (number, range) in ranges.enumerate() {
        if number == RANGES {
            return None;
        }
        for row in [range[0], range[range.len() - 1]] {
            kept.extend(row.to_le_bytes());
        }
    }
    Some(kept)
}

fn decode(kept: &[u8]) -> impl Iterator<Item = RangeInclusive<i64>> {
    let (rows, _) = kept.as_chunks::<8>();
    let (ranges, _) = rows.as_chunks::<2>();
    ranges
        .iter()
        .map(|[first, last]| i64::from_le_bytes(*first)..=i64::from_le_bytes(*last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_as_ranges() {
        let rows = vec![7, 5, 6, 1 << 41, 5, 9];
        let kept = encode(rows).expect("few");
        let ranges: Vec<_> = decode(&kept).collect();
        assert_eq!(ranges, [5..=7, 9..=9, 1 << 41..=1 << 41]);
        assert_eq!(encode((0..5_000).collect()).expect("one").len(), 16);
        assert_eq!(encode((0..5_000).step_by(2).collect()), None);
    }
}
