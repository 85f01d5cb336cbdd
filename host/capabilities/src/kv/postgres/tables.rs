//! The tables of a store in PostgreSQL, made by whichever host comes first.

use super::error::Failed;
use super::rows::{number, text};
use crate::postgres::{Lease, Param, PgError, Status};

/// Steps of the schema, in order; `heyday_kv_steps` counts those that a store has. A step
/// that was released never changes.
const STEPS: &[&[&str]] = &[&[
    "CREATE SEQUENCE heyday_kv_versions",
    "CREATE TABLE heyday_kv_entries (key text COLLATE \"C\" NOT NULL PRIMARY KEY, \
     value bytea NOT NULL, version bigint NOT NULL, expires_ms bigint)",
    "CREATE INDEX heyday_kv_entries_by_end ON heyday_kv_entries (expires_ms) \
     WHERE expires_ms IS NOT NULL",
    "CREATE TABLE heyday_kv_additions (key text COLLATE \"C\" NOT NULL, \
     once text COLLATE \"C\" NOT NULL, sum bigint NOT NULL, at_ms bigint NOT NULL, \
     PRIMARY KEY (key, once))",
    "CREATE INDEX heyday_kv_additions_by_time ON heyday_kv_additions (at_ms)",
]];

/// Makes the tables; as often and by as many hosts at once as may be.
pub(super) async fn migrate(lease: &mut Lease) -> Result<(), Failed> {
    let wire = lease.wire();
    wire.run("BEGIN").await?;
    // Held until the commit: one after the other.
    wire.run("SELECT pg_advisory_xact_lock(hashtextextended('heyday_kv ' || current_schema(), 0))")
        .await?;
    let there = "SELECT to_regclass('heyday_kv_steps') IS NOT NULL";
    let rows = wire.rows(there, &[]).await?;
    let made = rows.first().map(|row| text(row, 0)).transpose()? == Some("t");
    let mut done = 0;
    if made {
        let rows = wire.rows("SELECT steps FROM heyday_kv_steps", &[]).await?;
        let steps = rows.first().map(|row| number(row, 0)).transpose()?;
        done = usize::try_from(steps.unwrap_or(0)).unwrap_or_default();
    } else {
        wire.run("CREATE TABLE heyday_kv_steps (steps bigint NOT NULL)")
            .await?;
        wire.run("INSERT INTO heyday_kv_steps VALUES (0)").await?;
    }
    if done > STEPS.len() {
        return Err(PgError::Refused("the store was written by a newer Heyday".to_owned()).into());
    }
    for statement in STEPS.iter().skip(done).flat_map(|step| step.iter()) {
        wire.run(statement).await?;
    }
    if done < STEPS.len() {
        let steps = Param::text(&STEPS.len().to_string());
        let update = "UPDATE heyday_kv_steps SET steps = $1::bigint";
        wire.rows(update, &[steps]).await?;
    }
    wire.run("COMMIT").await?;
    debug_assert_eq!(wire.status(), Status::Idle);
    Ok(())
}
