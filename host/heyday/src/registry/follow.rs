//! How memory follows what is stored: all of it at the start, and then what others
//! changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use heyday_durable::payload::Digest;
use uuid::Uuid;

use super::RegistryError;
use super::core::{Core, Memory, Name};
use super::versions::{Entry, Stored};
use crate::state::changes::{Head, Reading, Touched};
use crate::state::versions::{ActivationRow, GrantRow, Kind, UploadRow, VersionRow};

/// What others changed that somebody beside the registry follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Flows: their schedules may be others now.
    pub flows: bool,
    /// Tokens.
    pub tokens: bool,
}

/// All that is stored.
pub(super) struct Whole {
    versions: Vec<VersionRow>,
    activations: Vec<ActivationRow>,
    uploads: Vec<UploadRow>,
    grants: Vec<GrantRow>,
}

impl Whole {
    pub(super) async fn read(reading: &mut Reading) -> Result<Self, RegistryError> {
        Ok(Self {
            versions: reading.versions().await?,
            activations: reading.activations().await?,
            uploads: reading.uploads().await?,
            grants: reading.grants().await?,
        })
    }
}

/// What is stored of one thing.
enum Part {
    Versions(Kind, Name, Entry),
    Grants(Name, Vec<GrantRow>),
    Upload((String, Digest), Option<UploadRow>),
    Tokens,
}

impl Memory {
    /// Takes all that is stored, for what was not there before or is another now.
    pub(super) fn take(&mut self, whole: Whole) -> Result<(), RegistryError> {
        let mut plugins: BTreeMap<Name, Entry> = BTreeMap::new();
        let mut flows: BTreeMap<Name, Entry> = BTreeMap::new();
        let mut read = Vec::new();
        for row in whole.versions {
            let stored = self.stored(row)?;
            let row = &stored.row;
            let of_kind = match row.kind {
                Kind::Plugin => &mut plugins,
                Kind::Flow => &mut flows,
            };
            of_kind
                .entry((row.namespace.clone(), row.name.clone()))
                .or_default()
                .versions
                .insert(row.version.clone(), Arc::clone(&stored));
            read.push(stored);
        }
        for (kind, namespace, name, version) in whole.activations {
            let of_kind = match kind {
                Kind::Plugin => &mut plugins,
                Kind::Flow => &mut flows,
            };
            // An earlier version of this program left equal ones side by side.
            if let Some(entry) = of_kind.get_mut(&(namespace, name))
                && entry.activations.last() != Some(&version)
            {
                entry.activations.push(version);
            }
        }
        *self.of_mut(Kind::Plugin) = plugins;
        *self.of_mut(Kind::Flow) = flows;
        let read = read.into_iter().map(|stored| (stored.row.digest, stored));
        self.by_digest.extend(read);
        let uploads = whole.uploads.into_iter();
        self.uploads = uploads
            .map(|row| ((row.namespace.clone(), row.digest), row))
            .collect();
        let mut grants: HashMap<Name, Vec<GrantRow>> = HashMap::new();
        for row in whole.grants {
            let name = (row.namespace.clone(), row.subject.clone());
            grants.entry(name).or_default().push(row);
        }
        let gone: Vec<Name> = self.grants.subjects().cloned().collect();
        for (namespace, subject) in gone {
            if !grants.contains_key(&(namespace.clone(), subject.clone())) {
                self.grants.replace(&namespace, &subject, Vec::new());
            }
        }
        for ((namespace, subject), rows) in grants {
            self.grants.replace(&namespace, &subject, rows);
        }
        Ok(())
    }

    /// A version, as it is known, or made of its row.
    fn stored(&self, row: VersionRow) -> Result<Arc<Stored>, RegistryError> {
        let name = (row.namespace.clone(), row.name.clone());
        let entry = self.of(row.kind).get(&name);
        let known = entry.and_then(|entry| entry.versions.get(&row.version));
        match known.filter(|known| known.row == row) {
            Some(known) => Ok(Arc::clone(known)),
            None => Stored::read(row).map(Arc::new),
        }
    }

    /// Shows what is stored of one thing, and tells it.
    fn take_part(&mut self, part: Part) {
        match part {
            Part::Versions(kind, name, entry) => {
                let versions = entry.versions.values();
                let known = versions.map(|stored| (stored.row.digest, Arc::clone(stored)));
                self.by_digest.extend(known);
                let of_kind = self.of_mut(kind);
                if entry.versions.is_empty() {
                    of_kind.remove(&name);
                } else {
                    of_kind.insert(name.clone(), entry);
                }
                self.tell_active(kind, &name.0, &name.1);
            }
            Part::Grants((namespace, subject), rows) => {
                self.grants.replace(&namespace, &subject, rows);
                self.tell_granted(&namespace, &subject);
            }
            Part::Upload(key, Some(row)) => {
                self.uploads.insert(key, row);
            }
            Part::Upload(key, None) => {
                self.uploads.remove(&key);
            }
            Part::Tokens => {}
        }
    }
}

impl Core {
    /// Brings memory to what is stored, where others changed it.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn catch_up(&self) -> Result<(), RegistryError> {
        if self.database.head().await? == self.memory().head {
            return Ok(());
        }
        let step = self.stepping.lock().await;
        let mut reading = self.database.read().await?;
        let head = reading.head().await?;
        let known = self.memory().head;
        let went_on = self.read_on(&mut reading, head).await?;
        drop((reading, step));
        if !went_on && known.lineage == head.lineage && known.revision >= head.revision {
            tracing::error!(
                known = known.revision,
                found = head.revision,
                "the state lost changes that were durable once: a standby took over, or it was \
                 restored"
            );
            self.database.break_lineage(head).await?;
        }
        Ok(())
    }

    /// What others changed since this was asked last.
    pub fn take_moved(&self) -> Moved {
        std::mem::take(&mut self.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings memory to that head; answers whether it went on from where it was, and did
    /// not have to read everything again. Call it with `stepping` held.
    pub(super) async fn read_on(
        &self,
        reading: &mut Reading,
        head: Head,
    ) -> Result<bool, RegistryError> {
        let known = self.memory().head;
        if known == head {
            return Ok(true);
        }
        let Some(touched) = reading.since(known, head).await? else {
            let whole = Whole::read(reading).await?;
            let mut memory = self.memory_mut();
            memory.take(whole)?;
            memory.head = head;
            let process = match self.database.is_shared() {
                true => head.lineage,
                false => Uuid::new_v4(),
            };
            memory.feed.restart(process, head.revision);
            drop(memory);
            self.note_moved(Moved {
                flows: true,
                tokens: true,
            });
            return Ok(false);
        };
        // Each thing once, as it is now, at its last change.
        let mut last: BTreeMap<Touched, u64> = BTreeMap::new();
        for (revision, touched) in touched {
            last.insert(touched, revision);
        }
        let mut last: Vec<_> = last.into_iter().collect();
        last.sort_by_key(|(_, revision)| *revision);
        let mut moved = Moved::default();
        let mut parts = Vec::new();
        for (touched, revision) in last {
            moved.flows |= matches!(touched, Touched::Versions(Kind::Flow, ..));
            moved.tokens |= touched == Touched::Tokens;
            parts.push((revision, self.part(reading, touched).await?));
        }
        let mut memory = self.memory_mut();
        for (revision, part) in parts {
            memory.feed.reach(revision);
            memory.take_part(part);
        }
        memory.step(head);
        drop(memory);
        self.note_moved(moved);
        Ok(true)
    }

    pub(super) fn note_moved(&self, moved: Moved) {
        let mut all = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        all.flows |= moved.flows;
        all.tokens |= moved.tokens;
    }

    async fn part(&self, reading: &mut Reading, touched: Touched) -> Result<Part, RegistryError> {
        Ok(match touched {
            Touched::Versions(kind, namespace, name) => {
                let mut entry = Entry::default();
                for row in reading.versions_of(kind, &namespace, &name).await? {
                    let version = row.version.clone();
                    let stored = self.memory().stored(row)?;
                    entry.versions.insert(version, stored);
                }
                let activations = reading.activations_of(kind, &namespace, &name).await?;
                entry.activations = activations.into_iter().map(|row| row.3).collect();
                entry.activations.dedup();
                Part::Versions(kind, (namespace, name), entry)
            }
            Touched::Grants(namespace, subject) => {
                let rows = reading.grants_of(&namespace, &subject).await?;
                Part::Grants((namespace, subject), rows)
            }
            Touched::Upload(namespace, digest) => {
                let row = reading.upload(&namespace, &digest).await?;
                Part::Upload((namespace, digest), row)
            }
            Touched::Tokens => Part::Tokens,
        })
    }
}
