//! What workers announced to any of several servers. One server alone keeps it in memory.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::backend::values;
use super::shared::now_us;
use super::{HostDb, StateError, limit, micros_of, timestamp};

/// A worker that was heard lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    /// What it announced, as JSON.
    pub announcement: String,
    /// When it was first heard.
    pub since: Timestamp,
    /// When it was last heard.
    pub heard_at: Timestamp,
}

impl HostDb {
    /// Keeps what a worker announces, by the database's clock, and forgets who was silent for
    /// so long. Only where there are several servers; a new worker is left out where there
    /// are as many as `most`.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn hear_worker(
        &self,
        worker: &Uuid,
        announcement: &str,
        silence: Duration,
        most: usize,
    ) -> Result<(), StateError> {
        self.execute(
            concat!(
                // Those that another one forgets just now, or that say something, are left: after a
                // silence of all of them each would forget the others, and wait for them.
                "WITH gone AS (DELETE FROM workers WHERE id IN (SELECT id FROM workers \
                 WHERE id <> $1 AND heard_us < ",
                now_us!(),
                " - $3 FOR UPDATE SKIP LOCKED)), heard AS (SELECT ",
                now_us!(),
                " AS us) INSERT INTO workers (id, since_us, heard_us, announcement) \
                 SELECT $1, us, us, $2 FROM heard \
                 WHERE (SELECT count(*) FROM workers) < $4 \
                 OR EXISTS (SELECT 1 FROM workers WHERE id = $1) \
                 ON CONFLICT (id) DO UPDATE SET heard_us = excluded.heard_us, \
                 announcement = excluded.announcement, \
                 since_us = CASE WHEN workers.heard_us < excluded.heard_us - $3 \
                 THEN excluded.since_us ELSE workers.since_us END"
            ),
            values![worker, announcement, micros_of(silence), limit(most)],
        )
        .await?;
        Ok(())
    }

    /// The workers that were heard within that time, oldest first.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn workers(&self, silence: Duration) -> Result<Vec<WorkerRow>, StateError> {
        let rows = self
            .rows(
                concat!(
                    "SELECT announcement, since_us, heard_us FROM workers WHERE heard_us >= ",
                    now_us!(),
                    " - $1 ORDER BY since_us, id"
                ),
                values![micros_of(silence)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(WorkerRow {
                    announcement: row.string("announcement")?,
                    since: timestamp(row.int("since_us")?)?,
                    heard_at: timestamp(row.int("heard_us")?)?,
                })
            })
            .collect()
    }
}
