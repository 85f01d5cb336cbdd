//! Uploads of flows, and what runs are pinned to.

use bytes::Bytes;
use heyday_durable::definition::{Definitions as _, WorkflowReference};
use heyday_durable::failure::kind;

use super::super::types::{FlowUpload, FlowVersion, UploadOptions};
use super::super::{ActivityOptions, Kind, RegistryError};
use super::{ACTOR, World, greet, open, push, used, world};
use crate::definitions::HostDefinitions;

const ACTIVE: UploadOptions = UploadOptions {
    activate: true,
    dev: false,
    allow_missing: false,
};

fn flow(version: &str, body: &str) -> Bytes {
    format!(
        "document:\n  dsl: '1.0.0'\n  namespace: docs\n  name: process\n  version: '{version}'\ndo:\n{body}"
    )
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_checked_stored_and_pinned() {
    let World {
        registry, folder, ..
    } = &world().await;
    let body = "  - greet:\n      call: greet.hello\n";
    let dry = registry
        .upload_flow(ACTOR, flow("1.0.0", body), ACTIVE, true)
        .await;
    assert!(matches!(dry, Ok(FlowUpload::Existing(_))));
    assert!(
        registry
            .versions(Kind::Flow, "default", "docs.process", None, 10)
            .is_err(),
        "a dry run stores nothing"
    );

    let stored = registry
        .upload_flow(ACTOR, flow("1.0.0", body), ACTIVE, false)
        .await;
    let Ok(FlowUpload::Created(version)) = stored else {
        panic!("{stored:?}");
    };
    assert_eq!(
        (version.name.as_str(), version.active),
        ("docs.process", true)
    );
    assert!(
        version.warnings[0].contains("greet.hello"),
        "{:?}",
        version.warnings
    );
    let other = registry.upload_flow(
        ACTOR,
        flow("1.0.0", "  - w:\n      wait: PT1S\n"),
        ACTIVE,
        false,
    );
    assert!(matches!(other.await, Err(RegistryError::Conflict(_))));

    push(registry, greet("1.0.0", "")).await.expect("uploaded");
    let version = registry
        .version::<FlowVersion>("default", "docs.process", "1.0.0")
        .expect("there");
    assert!(version.warnings.is_empty(), "{:?}", version.warnings);
    let reference = |version: Option<&str>| WorkflowReference {
        workflow_type: "docs.process".to_owned(),
        version: version.map(|text| text.parse().expect("a version")),
    };
    for registry in [registry.clone(), open(folder.path()).await] {
        let definitions = HostDefinitions::new(registry);
        let pinned = definitions
            .pin("default", &reference(None))
            .await
            .expect("pinned");
        assert_eq!(pinned.activities["greet.hello"].queue, "storage-queue");
        let flow = definitions
            .load("default", &pinned.digest)
            .await
            .expect("loaded");
        assert_eq!(flow.workflow_type(), "docs.process");
        let none = definitions.pin("default", &reference(Some("9.0.0"))).await;
        assert_eq!(none.expect_err("none").kind, kind::UNKNOWN_WORKFLOW);
        let none = definitions.pin("other", &reference(None)).await;
        assert_eq!(none.expect_err("none").kind, kind::UNKNOWN_WORKFLOW);
        for (name, words) in [
            ("greet.nothing", "it has hello"),
            ("nobody.x", "upload it first"),
            ("greet.hello:3.0.0", "no version 3.0.0"),
            ("greet", "PLUGIN.ACTIVITY"),
        ] {
            let none = definitions
                .pin_activity("default", name, &ActivityOptions::default())
                .await
                .expect_err(name);
            assert_eq!(none.kind, kind::UNKNOWN_ACTIVITY);
            assert!(none.message.contains(words), "{}", none.message);
        }
        let lost = ActivityOptions {
            queue: Some("nowhere".to_owned()),
            ..ActivityOptions::default()
        };
        let none = definitions
            .pin_activity("default", "greet.hello", &lost)
            .await
            .expect_err("no queue");
        assert_eq!(none.kind, kind::UNKNOWN_QUEUE);
        assert!(none.message.contains("storage-queue"), "{}", none.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_that_cannot_run_name_the_line() {
    let World { registry, .. } = &world().await;
    let reserved = String::from_utf8(flow("1.0.0", "  - w:\n      wait: PT1S\n").to_vec())
        .expect("text")
        .replace("namespace: docs", "namespace: heyday");
    for (document, line, words) in [
        (
            flow("1.0.0", "  - a:\n      set: ${ wrong }\n"),
            Some(8),
            "it is wrong",
        ),
        (
            flow("1.0.0", "  - a:\n      call: p.a\n      then: nowhere\n"),
            Some(9),
            "nowhere",
        ),
        (
            flow(
                "1.0.0",
                "  - a:\n      call: p.a\n      metadata: { heyday: { queue: fast } }\n",
            ),
            Some(9),
            "there is no queue",
        ),
        (
            flow(
                "1.0.0",
                "  - a:\n      call: Charge\n      metadata:\n        heyday:\n          foreign: {queue: billing}\n",
            ),
            Some(11),
            "no foreign workers",
        ),
        (Bytes::from(reserved), None, "kept for the host's own flows"),
    ] {
        let error = registry
            .upload_flow(ACTOR, document, ACTIVE, false)
            .await
            .expect_err(words);
        let RegistryError::Unusable { message, problems } = error else {
            panic!("{error:?}");
        };
        assert!(message.contains(words), "{message}");
        assert_eq!(
            problems.first().and_then(|problem| problem.line),
            line,
            "{problems:?}"
        );
    }
    assert!(
        registry
            .list(Kind::Flow, "default", None, 10)
            .rows
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_version_has_its_bytes_in_its_number() {
    let World { registry, .. } = &world().await;
    let upload = async |seconds: u32, dev: bool| {
        let document = flow("1.0.0", &format!("  - w:\n      wait: PT{seconds}S\n"));
        let options = UploadOptions { dev, ..ACTIVE };
        let upload = registry.upload_flow(ACTOR, document, options, false);
        match upload.await.expect("uploaded") {
            FlowUpload::Created(version) => (version, true),
            FlowUpload::Existing(version) => (version, false),
        }
    };
    let (released, _) = upload(1, false).await;
    let (first, created) = upload(2, true).await;
    let expected = format!("1.0.0-dev.{}", &first.digest.hex()[..8]);
    assert_eq!((first.version.to_string(), created), (expected, true));
    let (again, created) = upload(2, true).await;
    assert_eq!((&again.version, created), (&first.version, false));
    let (second, created) = upload(3, true).await;
    assert!(created && second.active && second.version != first.version);
    // The released bytes too may be pushed as what they are not yet.
    let (same, created) = upload(1, true).await;
    assert!(created && same.version != released.version);
    assert_eq!(same.digest, released.digest);
    let shown = registry.versions(Kind::Flow, "default", "docs.process", None, 10);
    let shown = shown.expect("there");
    assert_eq!(
        (shown.versions.len(), shown.active),
        (4, Some(same.version))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_of_a_flow_passes_over_a_version_that_was_removed() {
    let World { registry, .. } = &world().await;
    let body = "  - w:\n      wait: PT1S\n";
    for version in ["1.0.0", "1.1.0", "2.0.0"] {
        let stored = registry.upload_flow(ACTOR, flow(version, body), ACTIVE, false);
        stored.await.expect("uploaded");
    }
    let name = "docs.process";
    let active = registry
        .activate::<FlowVersion>(ACTOR, name, "1.1.0", false)
        .await;
    active.expect("active");
    let removed = registry
        .remove(Kind::Flow, ACTOR, name, "2.0.0", used(0))
        .await;
    removed.expect("removed");
    let back = registry.rollback::<FlowVersion>(ACTOR, name, None).await;
    assert_eq!(back.expect("rolled back").version.to_string(), "1.0.0");
}
