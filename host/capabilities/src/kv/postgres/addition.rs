//! An addition, which under a name counts once.

use std::time::Duration;

use super::error::Failed;
use super::rows::{bytes, entry, number, optional, text};
use crate::kv::{ONCE_KEPT, add};
use crate::postgres::{Lease, Param};

/// Adds within the transaction that is open; none where the row was swept away.
pub(super) async fn added(
    lease: &mut Lease,
    key: &str,
    delta: i64,
    ttl: Option<Duration>,
    once: Option<&str>,
) -> Result<Option<i64>, Failed> {
    let wire = lease.wire();
    let key = Param::text(key);
    // A row to hold, where there is none: one that has ended.
    let hold = "INSERT INTO heyday_kv_entries (key, value, version, expires_ms) \
                VALUES ($1, '', 0, 0) ON CONFLICT (key) DO NOTHING";
    wire.rows(hold, std::slice::from_ref(&key)).await?;
    let held = concat!(
        "SELECT value, version, expires_ms, ",
        live!(),
        " FROM heyday_kv_entries WHERE key = $1 FOR UPDATE"
    );
    let rows = wire.rows(held, std::slice::from_ref(&key)).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    if let Some(once) = once {
        let before = concat!(
            "SELECT sum FROM heyday_kv_additions \
             WHERE key = $1 AND once = $2 AND at_ms > ",
            now!(),
            " - $3::bigint"
        );
        let params = [key.clone(), Param::text(once), optional(Some(ONCE_KEPT))];
        if let Some(row) = wire.rows(before, &params).await?.first() {
            return Ok(Some(number(row, 0)?));
        }
    }
    let found = if text(row, 3)? == "t" {
        Some(entry(row)?)
    } else {
        None
    };
    let sum = add(found.as_ref().map(|entry| entry.value.as_slice()), delta)?;
    let value = bytes(sum.to_string().into_bytes());
    // An entry that is there keeps its end.
    let (put, params) = match found {
        Some(_) => (
            "UPDATE heyday_kv_entries SET value = $2, version = nextval('heyday_kv_versions') \
             WHERE key = $1",
            vec![key.clone(), value],
        ),
        None => (
            concat!(
                "UPDATE heyday_kv_entries SET value = $2, \
                 version = nextval('heyday_kv_versions'), expires_ms = ",
                now!(),
                " + $3::bigint WHERE key = $1"
            ),
            vec![key.clone(), value, optional(ttl)],
        ),
    };
    wire.rows(put, &params).await?;
    if let Some(once) = once {
        let note = concat!(
            "INSERT INTO heyday_kv_additions (key, once, sum, at_ms) \
             VALUES ($1, $2, $3::bigint, ",
            now!(),
            ") ON CONFLICT (key, once) DO UPDATE SET sum = excluded.sum, at_ms = excluded.at_ms"
        );
        let sum = Param::text(&sum.to_string());
        wire.rows(note, &[key, Param::text(once), sum]).await?;
    }
    Ok(Some(sum))
}
