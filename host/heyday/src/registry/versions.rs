//! Versions of plugins and flows: stored once, never changed, one of each name active.
//!
//! Each change is one transaction of the database ([`Core::change`]), and is shown in
//! memory when it is durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use heyday_durable::engine::{Engine, EngineError};
use heyday_durable::payload::Digest;
use serde_json::json;

use super::RegistryError;
use super::core::{Changing, Core};
use super::plugins;
use super::types::{Actor, UploadOptions};
use crate::description::{Description, default_queue};
use crate::state::versions::{Kind, UploadRow, VersionRow};

/// A version, and what was made of it.
#[derive(Debug)]
pub struct Stored {
    /// As it is stored.
    pub row: VersionRow,
    /// A plugin's description.
    pub description: Option<Description>,
}

impl Stored {
    /// Of a row that was stored before, here or on the server that told of it.
    ///
    /// # Errors
    /// When its description is none.
    pub fn read(row: VersionRow) -> Result<Self, RegistryError> {
        let description = match row.kind {
            Kind::Flow => None,
            Kind::Plugin => {
                // A queue may have gone from the configuration: the plugin stays.
                let named = plugins::named_queues(&row.description).into_iter();
                let default = default_queue(&row.capabilities);
                let queues = named.chain([default.to_owned()]).collect();
                let text = row.description.to_string();
                Some(
                    Description::parse(&text, &queues, default).map_err(|problems| {
                        RegistryError::Internal(format!(
                            "a stored description is wrong: {problems:?}"
                        ))
                    })?,
                )
            }
        };
        Ok(Self { row, description })
    }
}

/// All versions of one name.
#[derive(Debug, Default, Clone)]
pub struct Entry {
    /// By version.
    pub versions: BTreeMap<semver::Version, Arc<Stored>>,
    /// Every version that was activated, oldest first; the last one is active.
    pub activations: Vec<semver::Version>,
}

impl Entry {
    /// The active version.
    #[must_use]
    pub fn active(&self) -> Option<&Arc<Stored>> {
        self.versions.get(self.activations.last()?)
    }

    /// The active version, or the newest.
    #[must_use]
    pub fn shown(&self) -> Option<&Arc<Stored>> {
        self.active().or_else(|| self.versions.values().next_back())
    }

    fn forget(&mut self, version: &semver::Version) {
        self.versions.remove(version);
        leave_out(&mut self.activations, version);
    }

    /// Shows a version that was hidden, as it was before; what else changed meanwhile
    /// stays.
    fn show_again(&mut self, before: &Self, stored: &Arc<Stored>) {
        let version = &stored.row.version;
        if self.versions.contains_key(version) {
            return;
        }
        self.versions.insert(version.clone(), Arc::clone(stored));
        let mut hidden = before.activations.clone();
        leave_out(&mut hidden, version);
        if hidden == self.activations {
            self.activations.clone_from(&before.activations);
        }
    }

    /// Whether a version may be removed.
    ///
    /// # Errors
    /// When it is active beside others.
    fn check_removable(&self, row: &VersionRow) -> Result<(), RegistryError> {
        if self.versions.len() > 1 && self.activations.last() == Some(&row.version) {
            return Err(RegistryError::Conflict(format!(
                "{} {} {} is active; activate another version first",
                row.kind.word(),
                row.name,
                row.version
            )));
        }
        Ok(())
    }
}

/// Takes a version out of activations. Equal ones that meet by that are one: a rollback
/// from one to the other would change nothing.
fn leave_out(activations: &mut Vec<semver::Version>, version: &semver::Version) {
    activations.retain(|other| other != version);
    activations.dedup();
}

/// A finished upload.
#[derive(Debug, Clone)]
pub(super) struct Uploaded {
    /// The version that it became, or was before.
    pub stored: Arc<Stored>,
    /// Whether it is new.
    pub created: bool,
}

impl VersionRow {
    /// What is done with it, in the audit.
    fn action(&self, what: &str) -> String {
        format!("{}.{what}", self.kind.word())
    }

    /// Which it is, in the audit.
    fn words(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

impl Core {
    /// The version of that name and number, if it is there with the same bytes.
    ///
    /// # Errors
    /// When it is there with other bytes.
    pub(super) fn check_new(&self, stored: &Stored) -> Result<Option<Arc<Stored>>, RegistryError> {
        let row = &stored.row;
        let key = (row.namespace.clone(), row.name.clone());
        let existing = {
            let memory = self.memory();
            let entry = memory.of(row.kind).get(&key);
            entry
                .and_then(|entry| entry.versions.get(&row.version))
                .cloned()
        };
        if let Some(existing) = &existing
            && existing.row.digest != row.digest
        {
            return Err(RegistryError::Conflict(format!(
                "{} {} {} exists with other bytes ({}); versions never change: raise the version, \
                 or upload a development version (`push --dev`)",
                row.kind.word(),
                row.name,
                row.version,
                existing.row.digest
            )));
        }
        Ok(existing)
    }

    /// Whether an upload with these options makes its version the active one.
    pub(super) fn becomes_active(&self, stored: &Stored, options: UploadOptions) -> bool {
        options.activate && self.may_be_active(stored, options.allow_missing).is_ok()
    }

    /// Whether a version may be the active one.
    ///
    /// # Errors
    /// When grants are missing, or are of dialects that it cannot use, and that is not allowed.
    fn may_be_active(&self, stored: &Stored, allow_missing: bool) -> Result<(), RegistryError> {
        let row = &stored.row;
        // Without its grants a flow's requests are denied, each by name.
        if row.kind == Kind::Flow || allow_missing {
            return Ok(());
        }
        let (name, version) = (row.name.clone(), row.version.to_string());
        let missing = self.missing_grants(row);
        if !missing.is_empty() {
            return Err(RegistryError::MissingGrants {
                name,
                version,
                missing,
            });
        }
        let unfit = self.unfit_grants(stored);
        if unfit.is_empty() {
            return Ok(());
        }
        Err(RegistryError::UnfitGrants {
            name,
            version,
            unfit,
        })
    }

    /// The upload of what becomes a version now, where who sent it again asked for more than
    /// these options. Call it within a change.
    fn stronger_wish(&self, row: &VersionRow, options: UploadOptions) -> Option<UploadRow> {
        let upload = self.upload_row(&row.namespace, &row.digest)?;
        let same = row.kind == Kind::Plugin && upload.options.dev == options.dev;
        (same && options.stronger(upload.options) != options).then_some(upload)
    }

    /// Adds a version, or answers the same one where it is there.
    pub(super) async fn insert(
        &self,
        principal: &str,
        stored: Arc<Stored>,
        options: UploadOptions,
    ) -> Result<Uploaded, RegistryError> {
        let mut changing = self.change().await?;
        let row = &stored.row;
        let wish = self.stronger_wish(row, options);
        let (principal, options) = match &wish {
            Some(wish) => (wish.principal.as_str(), wish.options),
            None => (principal, options),
        };
        let actor = Actor {
            namespace: &row.namespace,
            principal,
        };
        let key = (row.namespace.clone(), row.name.clone());
        let existing = self.check_new(&stored)?;
        let activate = self.becomes_active(&stored, options);
        if let Some(existing) = existing {
            if activate {
                self.activate_stored(changing, actor, &existing).await?;
            }
            return Ok(Uploaded {
                stored: existing,
                created: false,
            });
        }
        let active = self
            .memory()
            .of(row.kind)
            .get(&key)
            .and_then(|entry| entry.activations.last().cloned());
        let is_active = active.as_ref() == Some(&row.version);
        let activate = activate && !is_active;
        changing.change.insert_version(row, activate).await?;
        let details = json!({ "digest": row.digest, "active": activate || is_active });
        let (action, resource) = (row.action("upload"), row.words());
        let noted = changing.commit_noted(actor, &action, &resource, &details);
        let done = noted.await?;
        let mut memory = self.memory_mut();
        memory.step(done.head);
        memory.by_digest.insert(row.digest, Arc::clone(&stored));
        memory.uploads.remove(&(row.namespace.clone(), row.digest));
        let entry = memory.of_mut(row.kind).entry(key).or_default();
        entry
            .versions
            .insert(row.version.clone(), Arc::clone(&stored));
        if activate {
            entry.activations.push(row.version.clone());
            memory.tell_active(row.kind, &row.namespace, &row.name);
        }
        drop(memory);
        Ok(Uploaded {
            stored,
            created: true,
        })
    }

    /// Makes a version the active one. New runs use it from now on.
    ///
    /// # Errors
    /// When there is none, or grants are missing and that was not allowed.
    pub async fn activate(
        &self,
        kind: Kind,
        actor: Actor<'_>,
        name: &str,
        version: &str,
        allow_missing: bool,
    ) -> Result<Arc<Stored>, RegistryError> {
        let changing = self.change().await?;
        let stored = self.version(kind, actor.namespace, name, version)?;
        self.may_be_active(&stored, allow_missing)?;
        if !self.is_active(&stored) {
            self.activate_stored(changing, actor, &stored).await?;
            return Ok(stored);
        }
        drop(changing);
        // Nothing changes, and it was asked for all the same.
        let row = &stored.row;
        let (action, resource) = (row.action("activate"), row.words());
        self.note(actor, &action, &resource, &json!({})).await;
        Ok(stored)
    }

    /// Makes a version the active one, as a change that has begun.
    pub(super) async fn activate_stored(
        &self,
        mut changing: Changing<'_>,
        actor: Actor<'_>,
        stored: &Arc<Stored>,
    ) -> Result<(), RegistryError> {
        if self.is_active(stored) {
            return Ok(());
        }
        let row = &stored.row;
        changing.change.activate(row).await?;
        let key = (row.namespace.clone(), row.name.clone());
        let (action, resource) = (row.action("activate"), row.words());
        let details = json!({});
        let noted = changing.commit_noted(actor, &action, &resource, &details);
        let done = noted.await?;
        let mut memory = self.memory_mut();
        memory.step(done.head);
        if let Some(entry) = memory.of_mut(row.kind).get_mut(&key) {
            entry.activations.push(row.version.clone());
        }
        memory.tell_active(row.kind, &row.namespace, &row.name);
        Ok(())
    }

    /// The version that was active before the active one.
    ///
    /// # Errors
    /// When there is no such name, or none was active before.
    pub(super) fn version_before(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Stored>, RegistryError> {
        let entry = self.entry(kind, namespace, name)?;
        let before = entry
            .activations
            .len()
            .checked_sub(2)
            .map(|at| &entry.activations[at]);
        let stored = before.and_then(|version| entry.versions.get(version));
        stored.cloned().ok_or_else(|| {
            RegistryError::Conflict(format!(
                "{} {name} had no other version active before; activate one by name",
                kind.word()
            ))
        })
    }

    /// Refuses what is to leave another version than the active one.
    ///
    /// # Errors
    /// When there is no such name, or the active one is another.
    fn check_active(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        from: Option<&semver::Version>,
    ) -> Result<(), RegistryError> {
        let Some(from) = from else {
            return Ok(());
        };
        let entry = self.entry(kind, namespace, name)?;
        let active = entry.activations.last();
        if active == Some(from) {
            return Ok(());
        }
        let active = active.map_or_else(|| "none".to_owned(), ToString::to_string);
        Err(RegistryError::Conflict(format!(
            "the active version of {} {name} is {active}, not {from}: it may have gone back already",
            kind.word()
        )))
    }

    /// Makes the version that was active before the active one again, whatever its grants
    /// are now: a call of a capability that is not granted any more is denied. Where `from` is
    /// named, only if that is the active one.
    ///
    /// # Errors
    /// When there is no such name, none was active before, or the active one is another.
    pub async fn rollback(
        &self,
        kind: Kind,
        actor: Actor<'_>,
        name: &str,
        from: Option<&semver::Version>,
    ) -> Result<Arc<Stored>, RegistryError> {
        let namespace = actor.namespace;
        let mut changing = self.change().await?;
        self.check_active(kind, namespace, name, from)?;
        let stored = self.version_before(kind, namespace, name)?;
        changing.change.rollback(kind, namespace, name).await?;
        let key = (namespace.to_owned(), name.to_owned());
        let (action, resource) = (stored.row.action("rollback"), stored.row.words());
        let details = json!({});
        let noted = changing.commit_noted(actor, &action, &resource, &details);
        let done = noted.await?;
        let mut memory = self.memory_mut();
        memory.step(done.head);
        if let Some(entry) = memory.of_mut(kind).get_mut(&key) {
            entry.activations.pop();
        }
        memory.tell_active(kind, namespace, name);
        drop(memory);
        Ok(stored)
    }

    /// Removes a version that no open run needs.
    ///
    /// # Errors
    /// When there is none, an open run needs it, or it is active beside others.
    pub async fn remove(
        &self,
        engine: &dyn Engine,
        kind: Kind,
        actor: Actor<'_>,
        name: &str,
        version: &str,
    ) -> Result<(), RegistryError> {
        let namespace = actor.namespace;
        let one = self.changing.lock().await;
        let stored = self.version(kind, namespace, name, version)?;
        let entry = self.entry(kind, namespace, name)?;
        let row = &stored.row;
        entry.check_removable(row)?;
        let key = (namespace.to_owned(), name.to_owned());
        // Hidden first: a run that starts from now on cannot be pinned to it any more.
        self.memory_mut()
            .of_mut(kind)
            .entry(key.clone())
            .and_modify(|entry| entry.forget(&row.version));
        let removed = match self.still_used(engine, row).await {
            Ok(0) => self.remove_unused(one, actor, row).await,
            Ok(runs) => Err(RegistryError::Conflict(format!(
                "{runs} open runs need {} {name} {}; it can be removed when they have ended",
                kind.word(),
                row.version
            ))),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            let mut memory = self.memory_mut();
            let now = memory.of_mut(kind).entry(key).or_default();
            now.show_again(&entry, &stored);
            return Err(error);
        }
        Ok(())
    }

    async fn remove_unused(
        &self,
        one: tokio::sync::MutexGuard<'_, ()>,
        actor: Actor<'_>,
        row: &VersionRow,
    ) -> Result<(), RegistryError> {
        let mut changing = self.change_after(one).await?;
        let key = (row.namespace.clone(), row.name.clone());
        // Another server may have made it the active one meanwhile.
        if let Some(entry) = self.memory().of(row.kind).get(&key) {
            entry.check_removable(row)?;
        }
        changing.change.remove_version(row).await?;
        let (action, resource) = (row.action("remove"), row.words());
        let details = json!({});
        let noted = changing.commit_noted(actor, &action, &resource, &details);
        let done = noted.await?;
        let mut memory = self.memory_mut();
        memory.step(done.head);
        let entry = memory.of_mut(row.kind).get_mut(&key);
        let empty = entry.is_some_and(|entry| {
            entry.forget(&row.version);
            entry.versions.is_empty()
        });
        if empty {
            memory.of_mut(row.kind).remove(&key);
        }
        memory.tell_active(row.kind, &row.namespace, &row.name);
        Ok(())
    }

    async fn still_used(
        &self,
        engine: &dyn Engine,
        row: &VersionRow,
    ) -> Result<u64, RegistryError> {
        let others = {
            let memory = self.memory();
            let mut of_kind = memory
                .of(row.kind)
                .values()
                .flat_map(|entry| entry.versions.values());
            of_kind.any(|other| other.row.digest == row.digest)
        };
        // Another version has the same bytes: runs that name the digest keep those.
        if others {
            return Ok(0);
        }
        engine
            .open_runs_using(&row.digest)
            .await
            .map_err(|error| match error {
                EngineError::Internal(cause) => RegistryError::Internal(cause),
                error => RegistryError::Unavailable(error.to_string()),
            })
    }
}

/// Reads a version.
///
/// # Errors
/// When the text is none.
pub fn parse_version(text: &str) -> Result<semver::Version, RegistryError> {
    semver::Version::parse(text).map_err(|error| {
        RegistryError::Invalid(format!(
            "{:?} is no semantic version such as 1.2.0: {error}",
            text.chars().take(100).collect::<String>()
        ))
    })
}

/// `VERSION-dev.DIGEST8`: the version under which a development upload is kept.
#[must_use]
pub fn dev_version(version: &semver::Version, digest: &Digest) -> semver::Version {
    let mut short = digest.hex();
    short.truncate(8);
    if short.bytes().all(|byte| byte.is_ascii_digit()) {
        // Semantic versions compare such a part as a number, and forbid a leading zero.
        short.insert(0, 'x');
    }
    let text = if version.pre.is_empty() {
        format!("dev.{short}")
    } else {
        format!("{}.dev.{short}", version.pre)
    };
    let mut version = version.clone();
    // Letters, digits and dots only: always valid.
    version.pre = semver::Prerelease::new(&text).unwrap_or_default();
    version
}

/// Whether a version is one of [`dev_version`].
#[must_use]
pub fn is_dev(version: &semver::Version) -> bool {
    let parts: Vec<&str> = version.pre.split('.').collect();
    parts.len() >= 2 && parts[parts.len() - 2] == "dev"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn development_versions_sort_before_the_release() {
        let version = semver::Version::new(1, 2, 0);
        let dev = dev_version(&version, &Digest::of(b"a"));
        assert!(dev.to_string().starts_with("1.2.0-dev."));
        assert!(is_dev(&dev) && !is_dev(&version) && dev < version);
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&[0x01, 0x23, 0x45, 0x67]);
        let digits = dev_version(&version, &Digest::from_bytes(bytes));
        assert_eq!(digits.to_string(), "1.2.0-dev.x01234567");
        let candidate = semver::Version::parse("1.2.0-rc.1").expect("a version");
        let dev = dev_version(&candidate, &Digest::of(b"a"));
        assert!(is_dev(&dev) && dev.to_string().starts_with("1.2.0-rc.1.dev."));
    }
}
