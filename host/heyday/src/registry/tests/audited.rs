//! A change and its entry of the audit are one: where the entry cannot be written, nothing
//! changes, neither in memory nor in the state.

use bytes::Bytes;

use super::super::types::{GrantInfo, GrantRequest, PluginVersion, UploadOptions};
use super::super::{Kind, Registry};
use super::{ACTOR, World, entries, greet, open, push, used, world};
use crate::state::refuse_audit;

fn grant(subject: &str, mode: Option<&str>) -> GrantRequest {
    GrantRequest {
        subject: subject.to_owned(),
        capability: "sql".to_owned(),
        binding: "default".to_owned(),
        mode: mode.map(str::to_owned),
    }
}

/// What there is: versions of `greet`, which one is active, flows, and grants.
fn shown(registry: &Registry) -> (Vec<String>, Option<String>, usize, Vec<GrantInfo>) {
    let greets = registry.versions(Kind::Plugin, "default", "greet", None, 10);
    let greets = greets.expect("there");
    let versions = greets.versions.iter().map(|it| it.version.to_string());
    let flows = registry.list(Kind::Flow, "default", None, 10).rows.len();
    (
        versions.collect(),
        greets.active.map(|version| version.to_string()),
        flows,
        registry.grants("default", None),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changes_without_its_entry_of_the_audit() {
    let World {
        registry, folder, ..
    } = &world().await;
    for version in ["1.0.0", "1.1.0"] {
        push(registry, greet(version, "")).await.expect("uploaded");
    }
    let granted = registry.put_grant(ACTOR, grant("index", None)).await;
    granted.expect("granted");
    let before = shown(registry);
    let held = registry.grants_of("default", "index");
    let noted = entries(registry).await.len();
    refuse_audit(&folder.path().join("host.db")).await;

    for refused in [grant("greet", None), grant("index", Some("ro"))] {
        let put = registry.put_grant(ACTOR, refused).await;
        put.expect_err("no entry, no grant");
    }
    for binding in [Some("default"), None] {
        let deleted = registry.delete_grant(ACTOR, "index", "sql", binding).await;
        deleted.expect_err("still granted");
    }
    let activated = registry
        .activate::<PluginVersion>(ACTOR, "greet", "1.0.0", false)
        .await;
    activated.expect_err("1.1.0 stays active");
    // Its bytes are known; sent again, they would be active.
    let again = push(registry, greet("1.0.0", "")).await;
    again.expect_err("1.1.0 stays active");
    let back = registry
        .rollback::<PluginVersion>(ACTOR, "greet", None)
        .await;
    back.expect_err("1.1.0 stays active");
    let removed = registry
        .remove(Kind::Plugin, ACTOR, "greet", "1.0.0", used(0))
        .await;
    removed.expect_err("it stays");
    let new = push(registry, greet("1.2.0", "")).await;
    new.expect_err("no version");
    let flow = "document: {dsl: 1.0.0, namespace: docs, name: process, version: 1.0.0}\n\
                do:\n  - greet: {call: greet.hello}\n";
    let flow = registry
        .upload_flow(ACTOR, Bytes::from(flow), UploadOptions::default(), false)
        .await;
    flow.expect_err("no flow");

    assert_eq!(shown(registry), before);
    assert!(!held.revoked.is_cancelled(), "nothing was taken back");
    assert_eq!(entries(registry).await.len(), noted);
    assert_eq!(shown(&open(folder.path()).await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_sent_again_are_noted_where_they_become_active() {
    let World { registry, .. } = &world().await;
    for version in ["1.0.0", "1.1.0", "1.0.0", "1.0.0"] {
        push(registry, greet(version, "")).await.expect("uploaded");
    }
    let entries = entries(registry).await;
    let said: Vec<_> = entries
        .iter()
        .map(|entry| (entry.action.as_str(), entry.resource.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("plugin.activate", "greet 1.0.0"),
            ("plugin.upload", "greet 1.1.0"),
            ("plugin.upload", "greet 1.0.0"),
        ]
    );
}
