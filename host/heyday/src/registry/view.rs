//! What is stored, as the API shows it.

use std::cmp::Reverse;

use semver::Version;

use super::RegistryError;
use super::core::Core;
use super::flows::FlowDescription;
use super::types::{
    ActivityDescription, BindingInfo, FlowVersion, GrantInfo, NameSummary, NamesPage,
    PluginVersion, VersionState, VersionSummary, Versions,
};
use super::versions::{Entry, Stored, parse_version};
use crate::state::versions::{GrantRow, Kind};

fn documentation(stored: &Stored) -> String {
    match &stored.description {
        Some(description) => description.documentation.clone(),
        None => {
            let text = stored.row.description.get("documentation");
            text.and_then(|text| text.as_str())
                .unwrap_or_default()
                .to_owned()
        }
    }
}

/// One version, as the API shows those of its kind.
pub trait VersionView {
    /// The kind.
    const KIND: Kind;

    /// The stored version, as it is now.
    fn of(core: &Core, stored: &Stored) -> Self;
}

impl VersionView for PluginVersion {
    const KIND: Kind = Kind::Plugin;

    fn of(core: &Core, stored: &Stored) -> Self {
        let row = &stored.row;
        let activities = stored.description.iter().flat_map(|it| &it.activities);
        Self {
            name: row.name.clone(),
            version: row.version.clone(),
            digest: row.digest,
            size: row.size,
            state: VersionState::Ready,
            active: core.is_active(stored),
            documentation: documentation(stored),
            activities: activities
                .map(|(name, spec)| ActivityDescription {
                    name: name.clone(),
                    documentation: spec.documentation.clone(),
                    input: spec.input.as_ref().map(|(schema, _)| schema.clone()),
                    output: spec.output.as_ref().map(|(schema, _)| schema.clone()),
                    queue: core.queue_of(stored, spec),
                    timeouts: spec.timeouts,
                    retry: spec.retry.clone(),
                })
                .collect(),
            imports: row.imports.iter().cloned().collect(),
            capabilities: row.capabilities.iter().cloned().collect(),
            missing_grants: core.missing_grants(row),
            requires: stored
                .description
                .as_ref()
                .map(|description| description.requires.clone())
                .unwrap_or_default(),
            unfit_grants: core.unfit_grants(stored),
            uploaded_at: row.created_at,
        }
    }
}

impl VersionView for FlowVersion {
    const KIND: Kind = Kind::Flow;

    fn of(core: &Core, stored: &Stored) -> Self {
        let row = &stored.row;
        let flow = FlowDescription::stored(row);
        let mut warnings = core.flow_warnings(&row.namespace, &flow);
        for capability in core.missing_grants(row) {
            warnings.push(format!(
                "it calls {capability} and was not granted any: `heyday grant {} \
                 {capability}=METHOD:HOST`",
                row.name
            ));
        }
        Self {
            name: row.name.clone(),
            version: row.version.clone(),
            digest: row.digest,
            size: row.size,
            state: VersionState::Ready,
            active: core.is_active(stored),
            documentation: flow.documentation,
            activities: flow.activities.into_iter().map(|call| call.name).collect(),
            children: flow.children,
            warnings,
            uploaded_at: row.created_at,
        }
    }
}

/// Where a version stands among those of its name: newest upload first. It says nothing of
/// the other ones, so that those that come and go move none to another page.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// In microseconds, as it is stored.
    uploaded: Reverse<i64>,
    version: Version,
}

impl Place {
    fn of(stored: &Stored) -> Self {
        Self {
            uploaded: Reverse(stored.row.created_at.as_microsecond()),
            version: stored.row.version.clone(),
        }
    }

    fn token(&self) -> String {
        format!("{}_{}", self.uploaded.0, self.version)
    }

    fn parse(token: &str) -> Result<Self, RegistryError> {
        let malformed = || {
            RegistryError::Invalid(
                "`page_token` is no `next_page_token` of a page of versions".to_owned(),
            )
        };
        let (uploaded, version) = token.split_once('_').ok_or_else(malformed)?;
        Ok(Self {
            uploaded: Reverse(uploaded.parse().map_err(|_| malformed())?),
            version: parse_version(version).map_err(|_| malformed())?,
        })
    }
}

/// A name without its versions.
fn summary(name: &str, entry: &Entry) -> NameSummary {
    let uploads = entry.versions.values().map(|stored| stored.row.created_at);
    NameSummary {
        name: name.to_owned(),
        active: entry.active().map(|stored| stored.row.version.clone()),
        documentation: entry
            .shown()
            .map(|stored| documentation(stored))
            .unwrap_or_default(),
        // An entry without versions is not kept.
        uploaded_at: uploads.max().unwrap_or_default(),
        version_count: entry.versions.len(),
    }
}

/// A name with a page of its versions.
///
/// # Errors
/// When the token is none.
pub(super) fn versions(
    name: &str,
    entry: &Entry,
    after: Option<&str>,
    limit: usize,
) -> Result<Versions, RegistryError> {
    let after = after.map(Place::parse).transpose()?;
    let mut rows: Vec<_> = entry
        .versions
        .values()
        .map(|stored| (Place::of(stored), stored))
        .filter(|(place, _)| after.as_ref().is_none_or(|after| place > after))
        .collect();
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    let limit = limit.max(1);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next_page_token = last.map(|(place, _)| place.token());
    let of_name = summary(name, entry);
    let active = of_name.active.as_ref();
    let versions = rows
        .into_iter()
        .map(|(_, stored)| VersionSummary {
            version: stored.row.version.clone(),
            digest: stored.row.digest,
            size: stored.row.size,
            state: VersionState::Ready,
            active: active == Some(&stored.row.version),
            uploaded_at: stored.row.created_at,
        })
        .collect();
    Ok(Versions {
        name: of_name.name,
        documentation: of_name.documentation,
        uploaded_at: of_name.uploaded_at,
        active: of_name.active,
        versions,
        next_page_token,
    })
}

/// A page of names.
pub(super) fn page(
    core: &Core,
    kind: Kind,
    namespace: &str,
    after: Option<&str>,
    limit: usize,
) -> NamesPage {
    let limit = limit.max(1);
    let mut entries = core.list(kind, namespace, after.unwrap_or_default(), limit + 1);
    let more = entries.len() > limit;
    entries.truncate(limit);
    NamesPage {
        next: entries
            .last()
            .filter(|_| more)
            .map(|(name, _)| name.clone()),
        rows: entries
            .iter()
            .map(|(name, entry)| summary(name, entry))
            .collect(),
    }
}

/// A grant.
pub(super) fn grant(row: GrantRow) -> GrantInfo {
    GrantInfo {
        subject: row.subject,
        capability: row.capability,
        binding: row.binding,
        mode: row.mode,
        granted_at: row.granted_at,
    }
}

/// The modes in which what is bound can be granted: none of what nobody writes to.
pub(super) fn modes(capability: &str) -> &'static [&'static str] {
    match capability {
        "config" | "inference" | "secrets" => &[],
        _ => &["ro", "rw"],
    }
}

/// A binding.
pub(crate) fn binding(capability: &str, name: String, backend: &str) -> BindingInfo {
    BindingInfo {
        capability: capability.to_owned(),
        name,
        backend: backend.to_owned(),
        modes: modes(capability).iter().map(|&it| it.to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_reads_can_be_granted_in_no_mode() {
        for (capability, modes) in [
            ("sql", &["ro", "rw"][..]),
            ("blob", &["ro", "rw"]),
            ("kv", &["ro", "rw"]),
            ("graph", &["ro", "rw"]),
            ("vector", &["ro", "rw"]),
            ("config", &[]),
            ("secrets", &[]),
            ("inference", &[]),
        ] {
            let shown = binding(capability, "main".to_owned(), "any");
            assert_eq!(shown.modes, modes, "{capability}");
        }
    }
}
