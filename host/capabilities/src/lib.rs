//! What plugins may reach outside themselves: databases, objects, models, HTTP.
//!
//! Each capability is a folder: its trait and error codes in `mod.rs`, one file per
//! backend, and `host.rs`, which implements the interface of its WIT package.
//!
//! The way of a call: the guest calls an import; `host.rs` counts it, finds what the
//! guest's handle stands for in the call's resource table (handles come from `open`,
//! which is where grants are checked: none, no handle; it is the same for all, in `call`)
//! and runs the backend's future under [`heyday_sandbox::HostCall`], which drops it at the
//! deadline, at a cancel, or when the grants are taken back. Backends stop their work when
//! they are dropped, and do what blocks on threads of the host's runtime, never on the
//! guests'.
//!
//! [`Bindings`] says which database or folder stands behind a name, per namespace;
//! [`capabilities`] makes of them what the sandbox links. [`http`] has no bindings: what is
//! granted of it are rules, to plugins (`wasi:http`) and to flows (`call: http`).
//!
//! Start reading at [`sql`].

use std::sync::Arc;

use heyday_sandbox::{Capability, Grants};

pub mod bindings;
pub mod blob;
mod call;
pub mod config;
pub mod credential;
pub mod diagnosis;
pub mod error;
mod google;
pub mod graph;
pub mod http;
pub mod inference;
pub mod kv;
mod places;
pub mod postgres;
pub mod secrets;
pub mod source;
pub mod sql;
pub mod sqlite_file;
pub mod sqlite_memory;
mod sqlite_threads;
mod task;
mod tls;
pub mod vector;

pub use bindings::{BindingError, Bindings, BindingsConfig, NamespaceBindings};
pub use diagnosis::{Diagnosis, Finding, Health};
pub use error::{CapabilityError, ErrorCode};

/// All capabilities of this build, over these bindings; [`http`] has grants alone.
#[must_use]
pub fn capabilities(
    bindings: &Arc<Bindings>,
    http: http::HttpCapability,
) -> Vec<Arc<dyn Capability>> {
    vec![
        Arc::new(sql::SqlCapability::new(Arc::clone(bindings))),
        Arc::new(blob::BlobCapability::new(Arc::clone(bindings))),
        Arc::new(kv::KvCapability::new(Arc::clone(bindings))),
        Arc::new(config::ConfigCapability::new(Arc::clone(bindings))),
        Arc::new(secrets::SecretsCapability::new(Arc::clone(bindings))),
        Arc::new(graph::GraphCapability::new(Arc::clone(bindings))),
        Arc::new(vector::VectorCapability::new(Arc::clone(bindings))),
        Arc::new(inference::InferenceCapability::new(Arc::clone(bindings))),
        Arc::new(http),
    ]
}

/// The dialects of a capability that passes statements through, as its `dialect()` answers
/// them; none of any other.
#[must_use]
pub fn dialects(capability: &str) -> &'static [&'static str] {
    match capability {
        "sql" => &["sqlite", "postgresql"],
        "graph" => &["kglite", "neo4j"],
        _ => &[],
    }
}

/// What a grant's mode allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `ro`.
    ReadOnly,
    /// `rw`, or none said.
    ReadWrite,
}

/// Reads the mode of a grant: `ro`, `rw`, or none (which is `rw`).
///
/// # Errors
/// Any other text, with the two that there are; for use when a grant is made.
pub fn parse_mode(mode: Option<&str>) -> Result<Mode, String> {
    match mode {
        None | Some("rw") => Ok(Mode::ReadWrite),
        Some("ro") => Ok(Mode::ReadOnly),
        Some(other) => Err(format!("the mode {other} is unknown: use `ro` or `rw`")),
    }
}

/// The mode of the grant of a binding, or the words of a denial.
fn grant_mode(grants: &Grants, capability: &str, binding: &str) -> Result<Mode, String> {
    let grant = grants.find(capability, binding).ok_or_else(|| {
        // The plugin chose the binding's name, so no command to be pasted has it.
        format!(
            "this plugin has no grant of {capability}={binding}: the operator gives one with \
             `heyday grant`"
        )
    })?;
    // An unknown mode allows nothing rather than everything.
    parse_mode(grant.mode.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_capabilities_link_into_one_linker() {
        let engine = wasmtime::Engine::default();
        let mut linker = wasmtime::component::Linker::new(&engine);
        let http = http::HttpCapability::new(
            http::PluginHttpLimits::default(),
            tokio::runtime::Handle::current(),
        );
        let all = capabilities(&Arc::new(Bindings::default()), http);
        for capability in &all {
            capability.link(&mut linker).expect("links");
            assert!(!capability.interfaces().is_empty());
        }
        let names: Vec<_> = all.iter().map(|capability| capability.name()).collect();
        assert_eq!(
            names,
            [
                "sql",
                "blob",
                "kv",
                "config",
                "secrets",
                "graph",
                "vector",
                "inference",
                "http"
            ]
        );
        // The same functions twice are a fault of the host that linking tells.
        all[0].link(&mut linker).expect_err("linked twice");
    }

    #[test]
    fn an_unknown_mode_allows_nothing() {
        let grant = |mode: Option<&str>| heyday_sandbox::Grant {
            binding: "default".into(),
            mode: mode.map(str::to_owned),
        };
        let grants = |mode| Grants {
            by_capability: [("sql".to_owned(), vec![grant(mode)])].into(),
            ..Grants::default()
        };
        assert_eq!(
            grant_mode(&grants(None), "sql", "default"),
            Ok(Mode::ReadWrite)
        );
        assert_eq!(
            grant_mode(&grants(Some("ro")), "sql", "default"),
            Ok(Mode::ReadOnly)
        );
        assert!(grant_mode(&grants(Some("all")), "sql", "default").is_err());
        let denied = grant_mode(&grants(None), "sql", "other").expect_err("no grant");
        assert!(
            denied.contains("sql=other") && denied.contains("`heyday grant`"),
            "{denied}"
        );
        assert!(grant_mode(&grants(None), "blob", "default").is_err());
        let revoked = grants(None);
        revoked.revoked.cancel();
        assert!(grant_mode(&revoked, "sql", "default").is_err());
    }
}
