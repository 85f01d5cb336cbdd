//! Rows of plugins, flows, uploads and grants.

use std::collections::BTreeSet;

use heyday_durable::payload::Digest;
use jiff::Timestamp;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::registry::types::{UploadOptions, VersionState};

use super::{HostDb, StateError, digest, json, micros, timestamp};

/// Plugins or flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Plugins.
    Plugin,
    /// Flows.
    Flow,
}

impl Kind {
    /// What one is called.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Plugin => "plugin",
            Self::Flow => "flow",
        }
    }

    /// The resource that they are in the API.
    #[must_use]
    pub const fn segment(self) -> &'static str {
        match self {
            Self::Plugin => "plugins",
            Self::Flow => "flows",
        }
    }

    /// What a version of one is called.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Plugin => "plugin version",
            Self::Flow => "flow version",
        }
    }
}

/// A stored version.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionRow {
    /// What it is a version of.
    pub kind: Kind,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The version.
    pub version: semver::Version,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The number of its bytes.
    pub size: u64,
    /// What the plugin says of itself; a flow's title or summary as a JSON string.
    pub description: serde_json::Value,
    /// The capabilities that it needs.
    pub capabilities: BTreeSet<String>,
    /// All imports.
    pub imports: BTreeSet<String>,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// A stored upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRow {
    /// The namespace.
    pub namespace: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The number of its bytes.
    pub size: u64,
    /// Where it stands.
    pub state: VersionState,
    /// Why it failed.
    pub reason: Option<String>,
    /// The capabilities that it needs.
    pub capabilities: BTreeSet<String>,
    /// All imports.
    pub imports: BTreeSet<String>,
    /// How it goes on.
    pub options: UploadOptions,
    /// Who uploaded it.
    pub principal: String,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// A stored grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantRow {
    /// The namespace.
    pub namespace: String,
    /// A plugin's or flow's name.
    pub subject: String,
    /// The capability.
    pub capability: String,
    /// The binding.
    pub binding: String,
    /// The mode.
    pub mode: Option<String>,
    /// When it was granted.
    pub granted_at: Timestamp,
}

/// An activation: (kind, namespace, name, version), oldest first.
pub type ActivationRow = (Kind, String, String, semver::Version);

fn kind(text: &str) -> Result<Kind, StateError> {
    match text {
        "plugin" => Ok(Kind::Plugin),
        "flow" => Ok(Kind::Flow),
        other => Err(StateError::Damaged(format!("kind {other:?}"))),
    }
}

fn version(text: &str) -> Result<semver::Version, StateError> {
    semver::Version::parse(text).map_err(|error| StateError::Damaged(error.to_string()))
}

fn text<T: Serialize + ?Sized>(value: &T) -> Result<String, StateError> {
    serde_json::to_string(value).map_err(|error| StateError::Damaged(error.to_string()))
}

/// SQLite has no unsigned integers; nothing stored comes near the limit.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn version_row(row: &SqliteRow) -> Result<VersionRow, StateError> {
    Ok(VersionRow {
        kind: kind(row.try_get("kind")?)?,
        namespace: row.try_get("namespace")?,
        name: row.try_get("name")?,
        version: version(row.try_get("version")?)?,
        digest: digest(row.try_get("digest")?)?,
        size: unsigned(row.try_get("size")?),
        description: json(row.try_get("description")?)?,
        capabilities: json(row.try_get("capabilities")?)?,
        imports: json(row.try_get("imports")?)?,
        created_at: timestamp(row.try_get("created_us")?)?,
    })
}

fn upload_row(row: &SqliteRow) -> Result<UploadRow, StateError> {
    Ok(UploadRow {
        namespace: row.try_get("namespace")?,
        digest: digest(row.try_get("digest")?)?,
        size: unsigned(row.try_get("size")?),
        state: match row.try_get("state")? {
            "verifying" => VersionState::Verifying,
            "compiling" => VersionState::Compiling,
            "failed" => VersionState::Failed,
            other => return Err(StateError::Damaged(format!("upload state {other:?}"))),
        },
        reason: row.try_get("reason")?,
        capabilities: json(row.try_get("capabilities")?)?,
        imports: json(row.try_get("imports")?)?,
        options: json(row.try_get("options")?)?,
        principal: row.try_get("principal")?,
        created_at: timestamp(row.try_get("created_us")?)?,
    })
}

impl HostDb {
    /// All versions.
    ///
    /// # Errors
    /// As [`StateError`] says; so for all functions here.
    pub async fn versions(&self) -> Result<Vec<VersionRow>, StateError> {
        let rows = sqlx::query("SELECT * FROM versions")
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(version_row).collect()
    }

    /// All activations, oldest first.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn activations(&self) -> Result<Vec<ActivationRow>, StateError> {
        let rows =
            sqlx::query("SELECT kind, namespace, name, version FROM activations ORDER BY id")
                .fetch_all(self.pool())
                .await?;
        rows.iter()
            .map(|row| {
                Ok((
                    kind(row.try_get("kind")?)?,
                    row.try_get("namespace")?,
                    row.try_get("name")?,
                    version(row.try_get("version")?)?,
                ))
            })
            .collect()
    }

    /// All uploads without a version.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn uploads(&self) -> Result<Vec<UploadRow>, StateError> {
        let rows = sqlx::query("SELECT * FROM uploads")
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(upload_row).collect()
    }

    /// All grants.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn grants(&self) -> Result<Vec<GrantRow>, StateError> {
        let rows = sqlx::query("SELECT * FROM grants")
            .fetch_all(self.pool())
            .await?;
        rows.iter()
            .map(|row| {
                Ok(GrantRow {
                    namespace: row.try_get("namespace")?,
                    subject: row.try_get("subject")?,
                    capability: row.try_get("capability")?,
                    binding: row.try_get("binding")?,
                    mode: row.try_get("mode")?,
                    granted_at: timestamp(row.try_get("granted_us")?)?,
                })
            })
            .collect()
    }

    /// Stores a version, makes it the active one where `activate`, and forgets the
    /// upload that it came from, in one transaction.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn insert_version(&self, row: &VersionRow, activate: bool) -> Result<(), StateError> {
        let mut transaction = self.pool().begin().await?;
        sqlx::query(
            "INSERT INTO versions (kind, namespace, name, version, digest, size, description, \
             capabilities, imports, created_us) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)",
        )
        .bind(row.kind.word())
        .bind(&row.namespace)
        .bind(&row.name)
        .bind(row.version.to_string())
        .bind(&row.digest.as_bytes()[..])
        .bind(signed(row.size))
        .bind(text(&row.description)?)
        .bind(text(&row.capabilities)?)
        .bind(text(&row.imports)?)
        .bind(micros(row.created_at))
        .execute(&mut *transaction)
        .await?;
        if activate {
            insert_activation(&mut transaction, row).await?;
        }
        if row.kind == Kind::Plugin {
            sqlx::query("DELETE FROM uploads WHERE namespace = ?1 AND digest = ?2")
                .bind(&row.namespace)
                .bind(&row.digest.as_bytes()[..])
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Makes a version the active one.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn activate(&self, row: &VersionRow) -> Result<(), StateError> {
        let mut transaction = self.pool().begin().await?;
        insert_activation(&mut transaction, row).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets the newest activation of a name.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn rollback(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(), StateError> {
        sqlx::query(
            "DELETE FROM activations WHERE id = (SELECT max(id) FROM activations \
             WHERE kind = ?1 AND namespace = ?2 AND name = ?3)",
        )
        .bind(kind.word())
        .bind(namespace)
        .bind(name)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Removes a version and its activations.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn remove_version(&self, row: &VersionRow) -> Result<(), StateError> {
        let mut transaction = self.pool().begin().await?;
        for statement in [
            "DELETE FROM versions WHERE kind = ?1 AND namespace = ?2 AND name = ?3 AND version = ?4",
            "DELETE FROM activations WHERE kind = ?1 AND namespace = ?2 AND name = ?3 AND version = ?4",
        ] {
            sqlx::query(statement)
                .bind(row.kind.word())
                .bind(&row.namespace)
                .bind(&row.name)
                .bind(row.version.to_string())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Stores an upload, or where it stands now.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn put_upload(&self, row: &UploadRow) -> Result<(), StateError> {
        sqlx::query(
            "INSERT OR REPLACE INTO uploads (namespace, digest, size, state, reason, capabilities, \
             imports, options, principal, created_us) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)",
        )
        .bind(&row.namespace)
        .bind(&row.digest.as_bytes()[..])
        .bind(signed(row.size))
        .bind(row.state.as_str())
        .bind(&row.reason)
        .bind(text(&row.capabilities)?)
        .bind(text(&row.imports)?)
        .bind(text(&row.options)?)
        .bind(&row.principal)
        .bind(micros(row.created_at))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Stores a grant, or its new mode.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn put_grant(&self, row: &GrantRow) -> Result<(), StateError> {
        sqlx::query(
            "INSERT OR REPLACE INTO grants (namespace, subject, capability, binding, mode, \
             granted_us) VALUES (?1,?2,?3,?4,?5,?6)",
        )
        .bind(&row.namespace)
        .bind(&row.subject)
        .bind(&row.capability)
        .bind(&row.binding)
        .bind(&row.mode)
        .bind(micros(row.granted_at))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Removes a grant.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn remove_grants(&self, rows: &[GrantRow]) -> Result<(), StateError> {
        let mut transaction = self.pool().begin().await?;
        for row in rows {
            sqlx::query(
                "DELETE FROM grants WHERE namespace = ?1 AND subject = ?2 AND capability = ?3 \
                 AND binding = ?4",
            )
            .bind(&row.namespace)
            .bind(&row.subject)
            .bind(&row.capability)
            .bind(&row.binding)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

async fn insert_activation(
    transaction: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
    row: &VersionRow,
) -> Result<(), StateError> {
    sqlx::query(
        "INSERT INTO activations (kind, namespace, name, version, at_us) VALUES (?1,?2,?3,?4,?5)",
    )
    .bind(row.kind.word())
    .bind(&row.namespace)
    .bind(&row.name)
    .bind(row.version.to_string())
    .bind(micros(Timestamp::now()))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
