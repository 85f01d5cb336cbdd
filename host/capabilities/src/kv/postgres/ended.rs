//! Removing what has ended.

use super::rows::optional;
use crate::kv::ONCE_KEPT;
use crate::postgres::{Lease, Param, PgError};

/// So much is removed at once at most.
const SWEPT: i64 = 200;

/// Removes some of what has ended, but nothing that someone holds.
pub(super) async fn sweep(lease: &mut Lease) -> Result<(), PgError> {
    lease.begin();
    let entries = concat!(
        "DELETE FROM heyday_kv_entries WHERE key IN (SELECT key FROM heyday_kv_entries \
         WHERE expires_ms <= ",
        now!(),
        " LIMIT $1::bigint FOR UPDATE SKIP LOCKED)"
    );
    let most = Param::text(&SWEPT.to_string());
    lease
        .wire()
        .rows(entries, std::slice::from_ref(&most))
        .await?;
    let additions = concat!(
        "DELETE FROM heyday_kv_additions WHERE (key, once) IN \
         (SELECT key, once FROM heyday_kv_additions WHERE at_ms <= ",
        now!(),
        " - $2::bigint LIMIT $1::bigint FOR UPDATE SKIP LOCKED)"
    );
    let params = [most, optional(Some(ONCE_KEPT))];
    lease.wire().rows(additions, &params).await?;
    Ok(())
}
