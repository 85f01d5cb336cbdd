//! Answers by idempotency key: the same request again gets the same answer for 24
//! hours.

use jiff::Timestamp;
use sqlx::Row as _;

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

impl HostDb {
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
        let row = sqlx::query(
            "SELECT request, status, location, body FROM replies \
             WHERE namespace = ?1 AND route = ?2 AND key = ?3 AND at_us > ?4",
        )
        .bind(namespace)
        .bind(route)
        .bind(key)
        .bind(micros(Timestamp::now()) - KEPT_MICROS)
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| {
            Ok(Reply {
                request: row.try_get("request")?,
                status: row.try_get("status")?,
                location: row.try_get("location")?,
                body: row.try_get("body")?,
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
        let mut transaction = self.pool().begin().await?;
        sqlx::query(
            "INSERT OR REPLACE INTO replies \
             (namespace, route, key, request, status, location, body, at_us) \
             VALUES (?1,?2,?3,?4,?5,?6,?7,?8)",
        )
        .bind(namespace)
        .bind(route)
        .bind(key)
        .bind(&reply.request)
        .bind(i64::from(reply.status))
        .bind(&reply.location)
        .bind(&reply.body)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM replies WHERE at_us <= ?1")
            .bind(now - KEPT_MICROS)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}
