//! Rows of workers' tokens. The token itself is not kept.

use std::collections::BTreeSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::backend::{Row, values};
use super::changes::{Change, Touched};
use super::{HostDb, StateError, digest, json, micros, timestamp};

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

fn token_row(row: &Row) -> Result<TokenRow, StateError> {
    Ok(TokenRow {
        id: row.uuid("id")?,
        digest: *digest(row.bytes("digest")?)?.as_bytes(),
        name: row.string("name")?,
        namespaces: json(row.text("namespaces")?)?,
        created_at: timestamp(row.int("created_us")?)?,
    })
}

impl HostDb {
    /// All tokens.
    ///
    /// # Errors
    /// As [`StateError`] says; so for all functions here.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StateError> {
        let rows = self.rows("SELECT * FROM tokens", &[]).await?;
        rows.iter().map(token_row).collect()
    }
}

impl Change {
    /// Adds a token.
    ///
    /// # Errors
    /// As [`HostDb::tokens`].
    pub async fn insert_token(&mut self, row: &TokenRow) -> Result<(), StateError> {
        let namespaces = serde_json::to_string(&row.namespaces)
            .map_err(|error| StateError::Damaged(error.to_string()))?;
        self.touch(Touched::Tokens);
        let tx = &mut self.reading.tx;
        tx.execute(
            "INSERT INTO tokens (id, digest, name, namespaces, created_us) VALUES ($1,$2,$3,$4,$5)",
            values![
                &row.id,
                &row.digest,
                &row.name,
                namespaces,
                micros(row.created_at)
            ],
        )
        .await?;
        Ok(())
    }

    /// Removes a token; answers it, if it was there.
    ///
    /// # Errors
    /// As [`HostDb::tokens`].
    pub async fn remove_token(&mut self, id: Uuid) -> Result<Option<TokenRow>, StateError> {
        self.touch(Touched::Tokens);
        let tx = &mut self.reading.tx;
        let removed = tx
            .rows("DELETE FROM tokens WHERE id = $1 RETURNING *", values![&id])
            .await;
        removed?.first().map(token_row).transpose()
    }
}
