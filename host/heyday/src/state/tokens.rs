//! Rows of workers' tokens. The token itself is not kept.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sqlx::Row as _;
use uuid::Uuid;

use super::{HostDb, StateError, json, micros, timestamp};

/// A stored token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id, a UUIDv7.
    pub id: Uuid,
    /// The sha-256 digest of the token.
    pub digest: [u8; 32],
    /// For a person.
    pub name: String,
    /// The namespaces that it opens; empty where it opens all.
    pub namespaces: BTreeSet<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl HostDb {
    /// All tokens.
    ///
    /// # Errors
    /// As [`StateError`] says; so for all functions here.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StateError> {
        let rows = sqlx::query("SELECT * FROM tokens")
            .fetch_all(self.pool())
            .await?;
        rows.iter()
            .map(|row| {
                let id: &[u8] = row.try_get("id")?;
                let digest: &[u8] = row.try_get("digest")?;
                Ok(TokenRow {
                    id: Uuid::from_slice(id)
                        .map_err(|error| StateError::Damaged(error.to_string()))?,
                    digest: digest.try_into().map_err(|_| {
                        StateError::Damaged("a token's digest has not 32 bytes".to_owned())
                    })?,
                    name: row.try_get("name")?,
                    namespaces: json(row.try_get("namespaces")?)?,
                    created_at: timestamp(row.try_get("created_us")?)?,
                })
            })
            .collect()
    }

    /// Adds a token.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub async fn insert_token(&self, row: &TokenRow) -> Result<(), StateError> {
        let namespaces = serde_json::to_string(&row.namespaces)
            .map_err(|error| StateError::Damaged(error.to_string()))?;
        sqlx::query(
            "INSERT INTO tokens (id, digest, name, namespaces, created_us) VALUES (?1,?2,?3,?4,?5)",
        )
        .bind(&row.id.as_bytes()[..])
        .bind(&row.digest[..])
        .bind(&row.name)
        .bind(namespaces)
        .bind(micros(row.created_at))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Removes a token; answers whether it was there.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub async fn remove_token(&self, id: Uuid) -> Result<bool, StateError> {
        let done = sqlx::query("DELETE FROM tokens WHERE id = ?1")
            .bind(&id.as_bytes()[..])
            .execute(self.pool())
            .await?;
        Ok(done.rows_affected() > 0)
    }
}
