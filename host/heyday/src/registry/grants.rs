//! Grants: which plugin or flow may use which binding. Deny by default.
//!
//! What a call may use is a snapshot, taken when its attempt begins. Taking something
//! back cancels the old snapshot, which ends host calls in flight; what is only added
//! leaves it alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use heyday_capabilities::http::HttpPolicy;
use heyday_sandbox::{Grant, Grants};

use super::RegistryError;
use super::core::Core;
use crate::names;
use crate::state::versions::GrantRow;

/// What these rows allow.
pub(super) fn snapshot(rows: &[GrantRow]) -> Arc<Grants> {
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
        ..Grants::default()
    })
}

impl Core {
    /// What a plugin or flow may use now.
    #[must_use]
    pub fn grants_of(&self, namespace: &str, subject: &str) -> Arc<Grants> {
        self.memory()
            .grants
            .get(&(namespace.to_owned(), subject.to_owned()))
            .map(|granted| Arc::clone(&granted.grants))
            .unwrap_or_default()
    }

    /// All grants of a namespace, or of one subject, in order.
    #[must_use]
    pub fn list_grants(&self, namespace: &str, subject: Option<&str>) -> Vec<GrantRow> {
        let memory = self.memory();
        let mut rows: Vec<_> = memory
            .grants
            .iter()
            .filter(|((owner, name), _)| {
                owner == namespace && subject.is_none_or(|subject| subject == name)
            })
            .flat_map(|(_, granted)| granted.rows.iter().cloned())
            .collect();
        rows.sort();
        rows
    }

    /// The bindings that may be granted in a namespace: capability and name.
    #[must_use]
    pub fn bindings(&self, namespace: &str) -> Vec<(&'static str, String)> {
        self.bindings.names(namespace)
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
            if !row.subject.contains('.') {
                return invalid(
                    "plugins have no http yet; a flow has: name it NAMESPACE.NAME".to_owned(),
                );
            }
            if row.mode.is_some() {
                return invalid("a grant of http has no mode".to_owned());
            }
            return match HttpPolicy::parse([row.binding.as_str()]) {
                Ok(_) => Ok(()),
                Err(error) => invalid(error.to_string()),
            };
        }
        if let Err(message) = heyday_capabilities::parse_mode(row.mode.as_deref()) {
            return invalid(message);
        }
        let bindings = self.bindings(&row.namespace);
        let of_capability: Vec<&str> = bindings
            .iter()
            .filter(|(capability, _)| *capability == row.capability)
            .map(|(_, name)| name.as_str())
            .collect();
        if of_capability.contains(&row.binding.as_str()) {
            return Ok(());
        }
        invalid(if of_capability.is_empty() {
            let mut known: Vec<&str> = bindings.iter().map(|(capability, _)| *capability).collect();
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

    /// Grants something, or gives a grant another mode.
    ///
    /// # Errors
    /// When there is no such binding, or the grant makes no sense.
    pub async fn grant(&self, row: GrantRow) -> Result<GrantRow, RegistryError> {
        self.check_grant(&row)?;
        let _one = self.changing.lock().await;
        self.database.put_grant(&row).await?;
        let mut memory = self.memory_mut();
        let granted = memory
            .grants
            .entry((row.namespace.clone(), row.subject.clone()))
            .or_default();
        let other_mode = granted
            .rows
            .iter()
            .any(|other| same(other, &row) && other.mode != row.mode);
        granted.rows.retain(|other| !same(other, &row));
        granted.rows.push(row.clone());
        let old = std::mem::replace(&mut granted.grants, snapshot(&granted.rows));
        if other_mode {
            old.revoked.cancel();
        }
        Ok(row)
    }

    /// Takes grants back; calls in flight that use them end as denied.
    ///
    /// # Errors
    /// When there is no such grant.
    pub async fn revoke(
        &self,
        namespace: &str,
        subject: &str,
        capability: &str,
        binding: Option<&str>,
    ) -> Result<Vec<GrantRow>, RegistryError> {
        let _one = self.changing.lock().await;
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
        self.database.remove_grants(&rows).await?;
        let mut memory = self.memory_mut();
        if let Some(granted) = memory
            .grants
            .get_mut(&(namespace.to_owned(), subject.to_owned()))
        {
            granted.rows.retain(|row| !rows.contains(row));
            let old = std::mem::replace(&mut granted.grants, snapshot(&granted.rows));
            old.revoked.cancel();
        }
        Ok(rows)
    }
}

fn same(one: &GrantRow, other: &GrantRow) -> bool {
    one.capability == other.capability && one.binding == other.binding
}
