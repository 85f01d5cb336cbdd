//! Rows of plugins, flows, uploads and grants.

use std::collections::BTreeSet;

use crate::registry::types::{UploadOptions, VersionState};
use heyday_durable::payload::Digest;
use jiff::Timestamp;
use serde::Serialize;

use super::backend::{Row, values};
use super::changes::{Change, Reading, Touched};
use super::{StateError, digest, json, micros, signed, timestamp, unsigned};

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

fn version_row(row: &Row) -> Result<VersionRow, StateError> {
    Ok(VersionRow {
        kind: kind(row.text("kind")?)?,
        namespace: row.string("namespace")?,
        name: row.string("name")?,
        version: version(row.text("version")?)?,
        digest: digest(row.bytes("digest")?)?,
        size: unsigned(row.int("size")?),
        description: json(row.text("description")?)?,
        capabilities: json(row.text("capabilities")?)?,
        imports: json(row.text("imports")?)?,
        created_at: timestamp(row.int("created_us")?)?,
    })
}

fn activation_row(row: &Row) -> Result<ActivationRow, StateError> {
    Ok((
        kind(row.text("kind")?)?,
        row.string("namespace")?,
        row.string("name")?,
        version(row.text("version")?)?,
    ))
}

pub(super) fn upload_row(row: &Row) -> Result<UploadRow, StateError> {
    Ok(UploadRow {
        namespace: row.string("namespace")?,
        digest: digest(row.bytes("digest")?)?,
        size: unsigned(row.int("size")?),
        state: match row.text("state")? {
            "verifying" => VersionState::Verifying,
            "compiling" => VersionState::Compiling,
            "failed" => VersionState::Failed,
            other => return Err(StateError::Damaged(format!("upload state {other:?}"))),
        },
        reason: row.string_or_none("reason")?,
        capabilities: json(row.text("capabilities")?)?,
        imports: json(row.text("imports")?)?,
        options: json(row.text("options")?)?,
        principal: row.string("principal")?,
        created_at: timestamp(row.int("created_us")?)?,
    })
}

fn grant_row(row: &Row) -> Result<GrantRow, StateError> {
    Ok(GrantRow {
        namespace: row.string("namespace")?,
        subject: row.string("subject")?,
        capability: row.string("capability")?,
        binding: row.string("binding")?,
        mode: row.string_or_none("mode")?,
        granted_at: timestamp(row.int("granted_us")?)?,
    })
}

impl Reading {
    /// All versions.
    ///
    /// # Errors
    /// As [`StateError`] says; so for all functions here.
    pub async fn versions(&mut self) -> Result<Vec<VersionRow>, StateError> {
        let rows = self.tx.rows("SELECT * FROM versions", &[]).await?;
        rows.iter().map(version_row).collect()
    }

    /// The versions of a name.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn versions_of(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<VersionRow>, StateError> {
        let rows = self
            .tx
            .rows(
                "SELECT * FROM versions WHERE kind = $1 AND namespace = $2 AND name = $3",
                values![kind.word(), namespace, name],
            )
            .await;
        rows?.iter().map(version_row).collect()
    }

    /// All activations, oldest first.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn activations(&mut self) -> Result<Vec<ActivationRow>, StateError> {
        let rows = self
            .tx
            .rows(
                "SELECT kind, namespace, name, version FROM activations ORDER BY id",
                &[],
            )
            .await;
        rows?.iter().map(activation_row).collect()
    }

    /// The activations of a name, oldest first.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn activations_of(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<ActivationRow>, StateError> {
        let rows = self
            .tx
            .rows(
                "SELECT kind, namespace, name, version FROM activations \
             WHERE kind = $1 AND namespace = $2 AND name = $3 ORDER BY id",
                values![kind.word(), namespace, name],
            )
            .await;
        rows?.iter().map(activation_row).collect()
    }

    /// All uploads without a version.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn uploads(&mut self) -> Result<Vec<UploadRow>, StateError> {
        let rows = self.tx.rows("SELECT * FROM uploads", &[]).await?;
        rows.iter().map(upload_row).collect()
    }

    /// An upload, if it has no version.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn upload(
        &mut self,
        namespace: &str,
        digest: &Digest,
    ) -> Result<Option<UploadRow>, StateError> {
        let rows = self
            .tx
            .rows(
                "SELECT * FROM uploads WHERE namespace = $1 AND digest = $2",
                values![namespace, digest],
            )
            .await;
        rows?.first().map(upload_row).transpose()
    }

    /// All grants.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn grants(&mut self) -> Result<Vec<GrantRow>, StateError> {
        let rows = self.tx.rows("SELECT * FROM grants", &[]).await?;
        rows.iter().map(grant_row).collect()
    }

    /// The grants of a subject.
    ///
    /// # Errors
    /// As [`versions`](Self::versions).
    pub async fn grants_of(
        &mut self,
        namespace: &str,
        subject: &str,
    ) -> Result<Vec<GrantRow>, StateError> {
        let rows = self
            .tx
            .rows(
                "SELECT * FROM grants WHERE namespace = $1 AND subject = $2",
                values![namespace, subject],
            )
            .await;
        rows?.iter().map(grant_row).collect()
    }
}

impl VersionRow {
    fn touched(&self) -> Touched {
        Touched::Versions(self.kind, self.namespace.clone(), self.name.clone())
    }
}

impl Change {
    /// Stores a version, makes it the active one where `activate`, and forgets the
    /// upload that it came from.
    ///
    /// # Errors
    /// As [`StateError`] says; so for all functions here.
    pub async fn insert_version(
        &mut self,
        row: &VersionRow,
        activate: bool,
    ) -> Result<(), StateError> {
        let tx = &mut self.reading.tx;
        tx.execute(
            "INSERT INTO versions (kind, namespace, name, version, digest, size, description, \
             capabilities, imports, created_us) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)",
            values![
                row.kind.word(),
                &row.namespace,
                &row.name,
                row.version.to_string(),
                &row.digest,
                signed(row.size),
                text(&row.description)?,
                text(&row.capabilities)?,
                text(&row.imports)?,
                micros(row.created_at),
            ],
        )
        .await?;
        if row.kind == Kind::Plugin {
            self.forget_upload(&row.namespace, &row.digest).await?;
        }
        if activate {
            return self.activate(row).await;
        }
        self.touch(row.touched());
        Ok(())
    }

    /// Forgets an upload: it is a version, or failed long ago.
    ///
    /// # Errors
    /// As [`insert_version`](Self::insert_version).
    pub async fn forget_upload(
        &mut self,
        namespace: &str,
        digest: &Digest,
    ) -> Result<(), StateError> {
        self.touch(Touched::Upload(namespace.to_owned(), *digest));
        let tx = &mut self.reading.tx;
        tx.execute(
            "DELETE FROM uploads WHERE namespace = $1 AND digest = $2",
            values![namespace, digest],
        )
        .await?;
        Ok(())
    }

    /// Makes a version the active one.
    ///
    /// # Errors
    /// As [`insert_version`](Self::insert_version).
    pub async fn activate(&mut self, row: &VersionRow) -> Result<(), StateError> {
        self.touch(row.touched());
        let tx = &mut self.reading.tx;
        tx.execute(
            "INSERT INTO activations (kind, namespace, name, version, at_us) \
             VALUES ($1,$2,$3,$4,$5)",
            values![
                row.kind.word(),
                &row.namespace,
                &row.name,
                row.version.to_string(),
                micros(Timestamp::now()),
            ],
        )
        .await?;
        Ok(())
    }

    /// Forgets the newest activation of a name.
    ///
    /// # Errors
    /// As [`insert_version`](Self::insert_version).
    pub async fn rollback(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(), StateError> {
        self.touch(Touched::Versions(
            kind,
            namespace.to_owned(),
            name.to_owned(),
        ));
        self.join_activations(kind, namespace, name).await?;
        let tx = &mut self.reading.tx;
        tx.execute(
            "DELETE FROM activations WHERE id = (SELECT max(id) FROM activations \
             WHERE kind = $1 AND namespace = $2 AND name = $3)",
            values![kind.word(), namespace, name],
        )
        .await?;
        Ok(())
    }

    /// Makes one of activations of a version that follow each other, the oldest: a rollback
    /// between them would change nothing.
    async fn join_activations(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(), StateError> {
        let tx = &mut self.reading.tx;
        tx.execute(
            "DELETE FROM activations WHERE id IN (SELECT id FROM (SELECT id, version, \
             lag(version) OVER (ORDER BY id) AS earlier FROM activations \
             WHERE kind = $1 AND namespace = $2 AND name = $3) AS steps \
             WHERE version = earlier)",
            values![kind.word(), namespace, name],
        )
        .await?;
        Ok(())
    }

    /// Removes a version and its activations; those that meet by that and are of one version
    /// are one then.
    ///
    /// # Errors
    /// As [`insert_version`](Self::insert_version).
    pub async fn remove_version(&mut self, row: &VersionRow) -> Result<(), StateError> {
        self.touch(row.touched());
        let tx = &mut self.reading.tx;
        for statement in [
            "DELETE FROM versions WHERE kind = $1 AND namespace = $2 AND name = $3 AND version = $4",
            "DELETE FROM activations WHERE kind = $1 AND namespace = $2 AND name = $3 AND version = $4",
        ] {
            tx.execute(
                statement,
                values![
                    row.kind.word(),
                    &row.namespace,
                    &row.name,
                    row.version.to_string()
                ],
            )
            .await?;
        }
        self.join_activations(row.kind, &row.namespace, &row.name)
            .await?;
        super::content::touch_component(&mut self.reading.tx, &row.digest).await
    }

    /// Stores an upload, or where it stands now; it is this server's.
    ///
    /// # Errors
    /// As [`insert_version`](Self::insert_version).
    pub async fn put_upload(&mut self, row: &UploadRow) -> Result<(), StateError> {
        self.touch(Touched::Upload(row.namespace.clone(), row.digest));
        let server = self.server;
        let tx = &mut self.reading.tx;
        tx.execute(
            "INSERT INTO uploads (namespace, digest, size, state, reason, capabilities, imports, \
             options, principal, created_us, owner) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11) \
             ON CONFLICT (namespace, digest) DO UPDATE SET size = excluded.size, \
             state = excluded.state, reason = excluded.reason, \
             capabilities = excluded.capabilities, imports = excluded.imports, \
             options = excluded.options, principal = excluded.principal, \
             created_us = excluded.created_us, owner = excluded.owner",
            values![
                &row.namespace,
                &row.digest,
                signed(row.size),
                row.state.as_str(),
                &row.reason,
                text(&row.capabilities)?,
                text(&row.imports)?,
                text(&row.options)?,
                &row.principal,
                micros(row.created_at),
                &server,
            ],
        )
        .await?;
        Ok(())
    }

    /// Stores what is asked of an upload that is under way, and who asks; whose it is
    /// stays.
    ///
    /// # Errors
    /// As [`insert_version`](Self::insert_version).
    pub async fn wish_upload(&mut self, row: &UploadRow) -> Result<(), StateError> {
        self.touch(Touched::Upload(row.namespace.clone(), row.digest));
        let tx = &mut self.reading.tx;
        tx.execute(
            "UPDATE uploads SET options = $1, principal = $2 \
             WHERE namespace = $3 AND digest = $4",
            values![
                text(&row.options)?,
                &row.principal,
                &row.namespace,
                &row.digest,
            ],
        )
        .await?;
        Ok(())
    }

    /// Stores a grant, or its new mode.
    ///
    /// # Errors
    /// As [`insert_version`](Self::insert_version).
    pub async fn put_grant(&mut self, row: &GrantRow) -> Result<(), StateError> {
        self.touch(Touched::Grants(row.namespace.clone(), row.subject.clone()));
        let tx = &mut self.reading.tx;
        tx.execute(
            "INSERT INTO grants (namespace, subject, capability, binding, mode, granted_us) \
             VALUES ($1,$2,$3,$4,$5,$6) \
             ON CONFLICT (namespace, subject, capability, binding) DO UPDATE SET \
             mode = excluded.mode, granted_us = excluded.granted_us",
            values![
                &row.namespace,
                &row.subject,
                &row.capability,
                &row.binding,
                &row.mode,
                micros(row.granted_at),
            ],
        )
        .await?;
        Ok(())
    }

    /// Removes grants.
    ///
    /// # Errors
    /// As [`insert_version`](Self::insert_version).
    pub async fn remove_grants(&mut self, rows: &[GrantRow]) -> Result<(), StateError> {
        for row in rows {
            self.touch(Touched::Grants(row.namespace.clone(), row.subject.clone()));
            let tx = &mut self.reading.tx;
            tx.execute(
                "DELETE FROM grants WHERE namespace = $1 AND subject = $2 AND capability = $3 \
                 AND binding = $4",
                values![&row.namespace, &row.subject, &row.capability, &row.binding],
            )
            .await?;
        }
        Ok(())
    }
}
