//! Grants: which plugin or flow may use which binding. Deny by default.
//!
//! What a call may use is a snapshot, taken when its attempt begins. Taking something
//! back cancels the old snapshot, which ends host calls in flight; what is only added
//! leaves it alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use heyday_capabilities::http::HttpPolicy;
use heyday_sandbox::{Grant, Grants};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::RegistryError;
use super::core::Core;
use super::plugins::unfit;
use super::types::Actor;
use super::view;
use crate::names;
use crate::state::versions::{GrantRow, Kind};

/// What these rows allow, until `revoked` is cancelled.
fn snapshot(rows: &[GrantRow], revoked: CancellationToken) -> Arc<Grants> {
    let mut by_capability: BTreeMap<String, Vec<Grant>> = BTreeMap::new();
    for row in rows {
        by_capability
            .entry(row.capability.clone())
            .or_default()
            .push(Grant {
                binding: row.binding.clone(),
                mode: row.mode.clone(),
            });
    }
    Arc::new(Grants {
        by_capability,
        revoked,
    })
}

/// What one subject was granted.
#[derive(Debug, Clone, Default)]
struct Granted {
    rows: Vec<GrantRow>,
    grants: Arc<Grants>,
}

/// All that was granted, by namespace and subject: what the server stored, or what a
/// worker was told.
#[derive(Debug, Default)]
pub struct GrantTable(HashMap<(String, String), Granted>);

impl GrantTable {
    /// Of these rows.
    #[must_use]
    pub fn new(rows: impl IntoIterator<Item = GrantRow>) -> Self {
        let mut table: HashMap<(String, String), Granted> = HashMap::new();
        for row in rows {
            let key = (row.namespace.clone(), row.subject.clone());
            table.entry(key).or_default().rows.push(row);
        }
        for granted in table.values_mut() {
            granted.grants = snapshot(&granted.rows, CancellationToken::new());
        }
        Self(table)
    }

    /// What a subject may use now.
    #[must_use]
    pub fn of(&self, namespace: &str, subject: &str) -> Arc<Grants> {
        self.0
            .get(&(namespace.to_owned(), subject.to_owned()))
            .map(|granted| Arc::clone(&granted.grants))
            .unwrap_or_default()
    }

    /// A subject's rows.
    #[must_use]
    pub fn rows(&self, namespace: &str, subject: &str) -> &[GrantRow] {
        self.0
            .get(&(namespace.to_owned(), subject.to_owned()))
            .map_or(&[], |granted| granted.rows.as_slice())
    }

    /// All rows.
    pub fn all(&self) -> impl Iterator<Item = &GrantRow> {
        self.0.values().flat_map(|granted| &granted.rows)
    }

    /// Every subject that has grants, with its namespace.
    pub fn subjects(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.keys()
    }

    /// From now on a subject has these. Where something that it had is not among them,
    /// calls in flight end as denied.
    pub fn replace(&mut self, namespace: &str, subject: &str, rows: Vec<GrantRow>) {
        let key = (namespace.to_owned(), subject.to_owned());
        let old = self.0.remove(&key).unwrap_or_default();
        let mode = |row: &GrantRow| heyday_capabilities::parse_mode(row.mode.as_deref());
        let kept = |old: &GrantRow| {
            rows.iter()
                .any(|new| same(old, new) && mode(old) == mode(new))
        };
        // Who began before something was only added is told too when it is taken back.
        let revoked = if old.rows.iter().all(kept) {
            old.grants.revoked.clone()
        } else {
            old.grants.revoked.cancel();
            CancellationToken::new()
        };
        if !rows.is_empty() {
            let grants = snapshot(&rows, revoked);
            self.0.insert(key, Granted { rows, grants });
        }
    }
}

impl Core {
    /// What a plugin or flow may use now.
    #[must_use]
    pub fn grants_of(&self, namespace: &str, subject: &str) -> Arc<Grants> {
        self.memory().grants.of(namespace, subject)
    }

    /// All grants of a namespace, or of one subject, in order.
    #[must_use]
    pub fn list_grants(&self, namespace: &str, subject: Option<&str>) -> Vec<GrantRow> {
        let memory = self.memory();
        let mut rows: Vec<_> = memory
            .grants
            .all()
            .filter(|row| {
                row.namespace == namespace && subject.is_none_or(|subject| subject == row.subject)
            })
            .cloned()
            .collect();
        rows.sort();
        rows
    }

    /// The bindings that may be granted in a namespace: capability, name and backend.
    #[must_use]
    pub fn bindings(&self, namespace: &str) -> Vec<(&'static str, String, &'static str)> {
        self.bindings.list(namespace)
    }

    fn check_grant(&self, row: &GrantRow) -> Result<(), RegistryError> {
        let invalid = |message: String| Err(RegistryError::Invalid(message));
        if row.subject.contains('.') {
            names::check_flow(&row.subject)
                .map_err(|error| RegistryError::Invalid(error.to_string()))?;
            if row.capability != "http" {
                return invalid(format!(
                    "{} is a flow; flows can be granted `http` only: grant {} to the plugins that \
                     it calls",
                    row.subject, row.capability
                ));
            }
        } else {
            names::check_name("the plugin", &row.subject)
                .map_err(|error| RegistryError::Invalid(error.to_string()))?;
        }
        if row.capability == "http" {
            if row.mode.is_some() {
                return invalid("a grant of http has no mode".to_owned());
            }
            return match HttpPolicy::parse([row.binding.as_str()]) {
                Ok(_) => Ok(()),
                Err(error) => invalid(error.to_string()),
            };
        }
        if view::modes(&row.capability).is_empty() && row.mode.is_some() {
            return invalid(format!("a grant of {} has no mode", row.capability));
        }
        if let Err(message) = heyday_capabilities::parse_mode(row.mode.as_deref()) {
            return invalid(message);
        }
        let bindings = self.bindings(&row.namespace);
        let of_capability: Vec<&str> = bindings
            .iter()
            .filter(|(capability, ..)| *capability == row.capability)
            .map(|(_, name, _)| name.as_str())
            .collect();
        if of_capability.contains(&row.binding.as_str()) {
            return Ok(());
        }
        if row.capability == heyday_capabilities::inference::NAME {
            // Workers have models of their own, and may come, or get them, later.
            if self.foreign_workers {
                return names::check_name("the model", &row.binding)
                    .map_err(|error| RegistryError::Invalid(error.to_string()));
            }
            return invalid(format!(
                "there is no model {} here; {}. `heyday model import` or `heyday model pull` makes \
                 one",
                row.binding,
                if of_capability.is_empty() {
                    "there are none".to_owned()
                } else {
                    format!("there are: {}", of_capability.join(", "))
                }
            ));
        }
        invalid(if of_capability.is_empty() {
            let mut known: Vec<&str> = bindings
                .iter()
                .map(|(capability, ..)| *capability)
                .collect();
            known.dedup();
            format!(
                "nothing of the capability {} can be granted in the namespace {}; there are \
                 bindings of {}",
                row.capability,
                row.namespace,
                if known.is_empty() {
                    "nothing".to_owned()
                } else {
                    known.join(", ")
                }
            )
        } else {
            format!(
                "there is no binding {}={} in the namespace {}; its bindings of {} are: {}. Further \
                 ones are made in the server's configuration",
                row.capability,
                row.binding,
                row.namespace,
                row.capability,
                of_capability.join(", ")
            )
        })
    }

    /// Refuses a grant of a dialect that the plugin cannot use: its active version, or the
    /// newest where none is.
    fn check_dialect(&self, row: &GrantRow) -> Result<(), RegistryError> {
        // A plugin may be granted before it is uploaded.
        let Ok(entry) = self.entry(Kind::Plugin, &row.namespace, &row.subject) else {
            return Ok(());
        };
        let Some(stored) = entry.shown() else {
            return Ok(());
        };
        let description = stored.description.as_ref();
        let bindings = self.bindings(&row.namespace);
        match description.and_then(|it| unfit(&it.requires, row, &bindings)) {
            None => Ok(()),
            Some(unfit) => Err(RegistryError::UnfitGrants {
                name: stored.row.name.clone(),
                version: stored.row.version.to_string(),
                unfit: vec![unfit],
            }),
        }
    }

    /// Grants something, or gives a grant another mode.
    ///
    /// # Errors
    /// When there is no such binding, it is of a dialect that the plugin cannot use, or the
    /// grant makes no sense. A model need not be there where the engine has workers.
    pub async fn grant(&self, principal: &str, row: &GrantRow) -> Result<(), RegistryError> {
        self.check_grant(row)?;
        let mut changing = self.change().await?;
        // As a change: no version becomes active meanwhile that it does not fit.
        self.check_dialect(row)?;
        changing.change.put_grant(row).await?;
        let actor = Actor {
            namespace: &row.namespace,
            principal,
        };
        let details = json!({
            "capability": row.capability, "binding": row.binding, "mode": row.mode,
        });
        let noted = changing.commit_noted(actor, "grant.put", &row.subject, &details);
        let done = noted.await?;
        let mut memory = self.memory_mut();
        memory.step(done.head);
        let mut rows = memory.grants.rows(&row.namespace, &row.subject).to_vec();
        rows.retain(|other| !same(other, row));
        rows.push(row.clone());
        memory.grants.replace(&row.namespace, &row.subject, rows);
        memory.tell_granted(&row.namespace, &row.subject);
        Ok(())
    }

    /// Takes grants back; all calls of the subject that are in flight end as denied.
    ///
    /// # Errors
    /// When there is no such grant.
    pub async fn revoke(
        &self,
        actor: Actor<'_>,
        subject: &str,
        capability: &str,
        binding: Option<&str>,
    ) -> Result<(), RegistryError> {
        let namespace = actor.namespace;
        let mut changing = self.change().await?;
        let rows: Vec<GrantRow> = self
            .list_grants(namespace, Some(subject))
            .into_iter()
            .filter(|row| row.capability == capability)
            .filter(|row| binding.is_none_or(|binding| binding == row.binding))
            .collect();
        if rows.is_empty() {
            return Err(RegistryError::not_found(
                "grant",
                format!("{subject} {capability}={}", binding.unwrap_or("*")),
                namespace,
            ));
        }
        changing.change.remove_grants(&rows).await?;
        let bindings: Vec<&str> = rows.iter().map(|row| row.binding.as_str()).collect();
        let details = json!({ "capability": capability, "bindings": bindings });
        let noted = changing.commit_noted(actor, "grant.delete", subject, &details);
        let done = noted.await?;
        let mut memory = self.memory_mut();
        memory.step(done.head);
        let mut left = memory.grants.rows(namespace, subject).to_vec();
        left.retain(|row| !rows.contains(row));
        memory.grants.replace(namespace, subject, left);
        memory.tell_granted(namespace, subject);
        Ok(())
    }
}

fn same(one: &GrantRow, other: &GrantRow) -> bool {
    one.capability == other.capability && one.binding == other.binding
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(binding: &str, mode: Option<&str>) -> GrantRow {
        GrantRow {
            namespace: "default".to_owned(),
            subject: "index".to_owned(),
            capability: "sql".to_owned(),
            binding: binding.to_owned(),
            mode: mode.map(str::to_owned),
            granted_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_is_taken_back_ends_calls_and_what_is_added_does_not() {
        let mut table = GrantTable::new([row("a", None)]);
        let begun = table.of("default", "index");
        table.replace("default", "index", vec![row("b", None), row("a", None)]);
        assert!(!begun.revoked.is_cancelled());
        // The same in other words is what it was.
        table.replace(
            "default",
            "index",
            vec![row("a", Some("rw")), row("b", None)],
        );
        assert!(!begun.revoked.is_cancelled(), "the same mode");
        // Also for who began before the addition.
        table.replace(
            "default",
            "index",
            vec![row("a", Some("ro")), row("b", None)],
        );
        assert!(begun.revoked.is_cancelled(), "another mode");
        let begun = table.of("default", "index");
        table.replace("default", "index", Vec::new());
        assert!(begun.revoked.is_cancelled(), "all of it");
        assert_eq!(table.all().count(), 0);
        assert!(table.of("default", "index").by_capability.is_empty());
    }
}
