//! Answers by idempotency key: the same request again gets the same answer for 24
//! hours. Where there are several servers, the one that answers a request has its key
//! meanwhile.

use jiff::Timestamp;

use super::backend::values;
use super::shared::server_is_gone;
use super::{HostDb, StateError, micros};

/// How long an answer is kept.
const KEPT_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Digest of the request that it answered.
    pub request: Vec<u8>,
    /// The HTTP status.
    pub status: u16,
    /// The header `Location`, where it had one.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// A key that this server has. Given back by [`give_back`](Self::give_back), or soon
/// after it is dropped.
#[derive(Debug)]
pub struct Claim {
    database: HostDb,
    key: Option<(String, String, String)>,
}

impl Claim {
    /// Lets others have the key.
    pub async fn give_back(mut self) {
        if let Some(key) = self.key.take() {
            release(&self.database, &key).await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let (Some(key), Ok(runtime)) = (self.key.take(), tokio::runtime::Handle::try_current()) {
            let database = self.database.clone();
            runtime.spawn(async move { release(&database, &key).await });
        }
    }
}

async fn release(database: &HostDb, (namespace, route, key): &(String, String, String)) {
    let Some(shared) = database.shared() else {
        return;
    };
    let done = database
        .execute(
            "DELETE FROM claims WHERE namespace = $1 AND route = $2 AND key = $3 AND owner = $4",
            values![namespace, route, key, &shared.id()],
        )
        .await;
    if let Err(error) = done {
        tracing::warn!(error = %error.chain(), "an Idempotency-Key stays taken for a while");
    }
}

impl HostDb {
    /// Takes a key for a request that is being answered; none where another server has
    /// it. Where there is one server only, nothing is to be done.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn claim(
        &self,
        namespace: &str,
        route: &str,
        key: &str,
    ) -> Result<Option<Claim>, StateError> {
        let mut claim = Claim {
            database: self.clone(),
            key: None,
        };
        let Some(shared) = self.shared() else {
            return Ok(Some(claim));
        };
        let taken = self
            .execute(
                concat!(
                    "INSERT INTO claims (namespace, route, key, owner) VALUES ($1,$2,$3,$4) \
                 ON CONFLICT (namespace, route, key) DO UPDATE SET owner = excluded.owner WHERE ",
                    server_is_gone!("claims.owner")
                ),
                values![namespace, route, key, &shared.id()],
            )
            .await;
        if taken? == 0 {
            return Ok(None);
        }
        claim.key = Some((namespace.to_owned(), route.to_owned(), key.to_owned()));
        Ok(Some(claim))
    }

    /// The answer that this key got before on this route.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn reply(
        &self,
        namespace: &str,
        route: &str,
        key: &str,
    ) -> Result<Option<Reply>, StateError> {
        let row = self
            .row(
                "SELECT request, status, location, body FROM replies \
                 WHERE namespace = $1 AND route = $2 AND key = $3 AND at_us > $4",
                values![
                    namespace,
                    route,
                    key,
                    micros(Timestamp::now()) - KEPT_MICROS
                ],
            )
            .await?;
        row.map(|row| {
            let status = row.int("status")?;
            Ok(Reply {
                request: row.bytes("request")?.to_vec(),
                status: u16::try_from(status)
                    .map_err(|_| StateError::Damaged(format!("status {status}")))?,
                location: row.string_or_none("location")?,
                body: row.bytes("body")?.to_vec(),
            })
        })
        .transpose()
    }

    /// Keeps an answer, and forgets those that are too old.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn keep_reply(
        &self,
        namespace: &str,
        route: &str,
        key: &str,
        reply: &Reply,
    ) -> Result<(), StateError> {
        let now = micros(Timestamp::now());
        let mut tx = self.backend.begin().await?;
        tx.execute(
            "INSERT INTO replies (namespace, route, key, request, status, location, body, at_us) \
             VALUES ($1,$2,$3,$4,$5,$6,$7,$8) \
             ON CONFLICT (namespace, route, key) DO UPDATE SET request = excluded.request, \
             status = excluded.status, location = excluded.location, body = excluded.body, \
             at_us = excluded.at_us",
            values![
                namespace,
                route,
                key,
                &reply.request,
                i64::from(reply.status),
                &reply.location,
                &reply.body,
                now,
            ],
        )
        .await?;
        tx.execute(
            "DELETE FROM replies WHERE at_us <= $1",
            values![now - KEPT_MICROS],
        )
        .await?;
        tx.commit().await
    }
}
