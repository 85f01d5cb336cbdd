//! Bytes by digest that several servers share: components, flows and values.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use heyday_durable::payload::Digest;

use super::backend::{Tx, values};
use super::shared::now_us;
use super::{HostDb, StateError, micros_of};

/// What bytes are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Components and flows.
    Components,
    /// Values that go by reference.
    Payloads,
}

impl Store {
    const fn word(self) -> &'static str {
        match self {
            Self::Components => "components",
            Self::Payloads => "payloads",
        }
    }
}

/// Lets the bytes of a version that is removed be kept for as long as new ones are.
pub(super) async fn touch_component(tx: &mut Tx, digest: &Digest) -> Result<(), StateError> {
    if matches!(tx, Tx::Postgres(_)) {
        tx.execute(
            concat!(
                "UPDATE content SET at_us = ",
                now_us!(),
                " WHERE store = $1 AND digest = $2"
            ),
            values![Store::Components.word(), digest],
        )
        .await?;
    }
    Ok(())
}

/// Only where [`HostDb::is_shared`]; else these are files ([`crate::files`]).
impl HostDb {
    /// Stores bytes; the same ones again are only kept for longer.
    ///
    /// # Errors
    /// As [`StateError`] says; so for all functions here.
    pub async fn put_content(
        &self,
        store: Store,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<(), StateError> {
        let there = self
            .execute(
                concat!(
                    "UPDATE content SET at_us = ",
                    now_us!(),
                    " WHERE store = $1 AND digest = $2"
                ),
                values![store.word(), digest],
            )
            .await;
        if there? > 0 {
            return Ok(());
        }
        self.execute(
            concat!(
                "INSERT INTO content (store, digest, at_us, bytes) VALUES ($1, $2, ",
                now_us!(),
                ", $3) ON CONFLICT (store, digest) DO UPDATE SET at_us = excluded.at_us"
            ),
            values![store.word(), digest, bytes],
        )
        .await?;
        Ok(())
    }

    /// The bytes of that digest, if they are stored.
    ///
    /// # Errors
    /// As [`put_content`](Self::put_content).
    pub async fn content(
        &self,
        store: Store,
        digest: &Digest,
    ) -> Result<Option<Bytes>, StateError> {
        let row = self
            .row(
                "SELECT bytes FROM content WHERE store = $1 AND digest = $2",
                values![store.word(), digest],
            )
            .await?;
        row.map(|row| Ok(Bytes::copy_from_slice(row.bytes("bytes")?)))
            .transpose()
    }

    /// The digests of all bytes of a store that are older.
    ///
    /// # Errors
    /// As [`put_content`](Self::put_content).
    pub async fn old_content(
        &self,
        store: Store,
        grace: Duration,
    ) -> Result<Vec<Digest>, StateError> {
        let rows = self
            .rows(
                concat!(
                    "SELECT digest FROM content WHERE store = $1 AND at_us < ",
                    now_us!(),
                    " - $2"
                ),
                values![store.word(), micros_of(grace)],
            )
            .await;
        rows?
            .iter()
            .map(|row| super::digest(row.bytes("digest")?))
            .collect()
    }

    /// Removes bytes that are older and not among those; answers how many.
    ///
    /// # Errors
    /// As [`put_content`](Self::put_content).
    pub async fn sweep_content(
        &self,
        store: Store,
        live: &HashSet<Digest>,
        grace: Duration,
    ) -> Result<u64, StateError> {
        let mut removed = 0;
        let micros = micros_of(grace);
        for digest in self.old_content(store, grace).await? {
            if !live.contains(&digest) {
                // It may have become young meanwhile.
                let done = self
                    .execute(
                        concat!(
                            "DELETE FROM content WHERE store = $1 AND digest = $2 AND at_us < ",
                            now_us!(),
                            " - $3"
                        ),
                        values![store.word(), &digest, micros],
                    )
                    .await;
                removed += done?;
            }
        }
        Ok(removed)
    }
}
