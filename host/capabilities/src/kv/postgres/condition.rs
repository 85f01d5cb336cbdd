//! What is there where a write's condition does not hold.

use super::error::Failed;
use super::rows::number;
use crate::kv::{Condition, KvCode, KvError, check_condition};
use crate::postgres::{Lease, Param};

/// The version of the entry under a key, unless it has ended.
pub(super) async fn version(lease: &mut Lease, key: &str) -> Result<Option<u64>, Failed> {
    let statement = concat!(
        "SELECT version FROM heyday_kv_entries WHERE key = $1 AND ",
        live!()
    );
    let rows = lease.wire().rows(statement, &[Param::text(key)]).await?;
    let version = rows.first().map(|row| number(row, 0)).transpose()?;
    Ok(version.map(i64::unsigned_abs))
}

/// The refusal of a write whose condition did not hold when it was to be done.
pub(super) async fn unmet(
    lease: &mut Lease,
    key: &str,
    condition: Condition,
) -> Result<KvError, Failed> {
    let found = version(lease, key).await?;
    Ok(match check_condition(&condition, found) {
        Err(error) => error,
        // It holds again by now; it did not then.
        Ok(()) => KvError::new(
            KvCode::PreconditionFailed,
            "the entry was another one at that moment",
        ),
    })
}
