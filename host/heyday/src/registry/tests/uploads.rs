//! Uploads of components: what they become, once, and what is refused.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use heyday_durable::payload::Digest;
use jiff::SignedDuration;

use super::super::types::{PluginVersion, Upload, UploadOptions, VersionState};
use super::super::{Kind, Registry, RegistryError};
use super::versions::activations;
use super::{ACTOR, MINUTE, MockEngine, World, created, entries, greet, open, plugin, push, world};
use crate::files::ContentFiles;
use crate::state::versions::UploadRow;
use crate::state::{HostDb, StateLocation};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_are_the_same_version_and_others_are_refused() {
    let World { registry, .. } = &world().await;
    let version = created(push(registry, greet("1.0.0", "")).await.expect("uploaded"));
    assert_eq!((version.name.as_str(), version.active), ("greet", true));
    assert_eq!(version.state, VersionState::Ready);
    assert_eq!(version.activities[0].queue, "storage-queue");
    assert_eq!(version.digest, Digest::of(&greet("1.0.0", "")));

    let again = push(registry, greet("1.0.0", "")).await.expect("uploaded");
    assert!(matches!(again, Upload::Existing(same) if same == version));
    let other = push(registry, greet("1.0.0", "x"))
        .await
        .expect_err("other bytes");
    assert!(
        matches!(&other, RegistryError::Conflict(text) if text.contains("--dev")),
        "{other}"
    );

    let dev = UploadOptions {
        dev: true,
        ..UploadOptions::default()
    };
    let dev = registry
        .upload_plugin(ACTOR, greet("1.0.0", "x"), dev, MINUTE)
        .await;
    let dev = created(dev.expect("uploaded"));
    assert!(
        dev.version.to_string().starts_with("1.0.0-dev."),
        "{}",
        dev.version
    );
    let shown = registry
        .versions(Kind::Plugin, "default", "greet", None, 10)
        .expect("there");
    assert_eq!((shown.versions.len(), shown.active), (2, Some(dev.version)));
    let bytes = registry
        .bytes(Kind::Plugin, "default", "greet", "1.0.0")
        .await
        .expect("read");
    assert_eq!(bytes, greet("1.0.0", ""));
    assert!(matches!(
        registry.versions(Kind::Plugin, "other", "greet", None, 10),
        Err(RegistryError::NotFound { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_at_once_are_one_version_that_is_new_once() {
    let World { registry, .. } = &world().await;
    let all = (0..16).map(|_| push(registry, greet("1.0.0", "")));
    let mut new = 0;
    for upload in futures::future::join_all(all).await {
        match upload.expect("uploaded") {
            Upload::Created(version) => {
                new += 1;
                assert_eq!(version.version.to_string(), "1.0.0");
            }
            Upload::Existing(version) => assert_eq!(version.version.to_string(), "1.0.0"),
            Upload::Pending(status) => panic!("{status:?}"),
        }
    }
    assert_eq!(new, 1);
    let shown = registry.versions(Kind::Plugin, "default", "greet", None, 10);
    assert_eq!(shown.expect("there").versions.len(), 1);
    let audit = entries(registry).await;
    assert_eq!(audit.len(), 1, "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_an_upload_gets_what_it_asked_for() {
    let World { registry, .. } = &world().await;
    let staged = UploadOptions {
        activate: false,
        ..UploadOptions::default()
    };
    let (staged, active) = tokio::join!(
        registry.upload_plugin(ACTOR, greet("1.0.0", ""), staged, MINUTE),
        push(registry, greet("1.0.0", ""))
    );
    staged.expect("uploaded");
    active.expect("uploaded");
    let shown = registry.versions(Kind::Plugin, "default", "greet", None, 10);
    assert!(shown.expect("there").active.is_some());
    // Nothing is left under way.
    let status = registry.upload_status("default", &Digest::of(&greet("1.0.0", "")));
    assert_eq!(status.expect("known").state, VersionState::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_an_upload_and_does_not_wait_gets_what_it_asked_for() {
    let World { registry, .. } = &world().await;
    let staged = UploadOptions {
        activate: false,
        ..UploadOptions::default()
    };
    let bytes = greet("1.0.0", "");
    for options in [staged, UploadOptions::default(), staged] {
        let sent = registry
            .upload_plugin(ACTOR, bytes.clone(), options, Duration::ZERO)
            .await;
        sent.expect("taken");
    }
    let digest = Digest::of(&bytes);
    let done = registry.await_upload("default", &digest, MINUTE);
    done.await.expect("done");
    let version = registry.version::<PluginVersion>("default", "greet", "1.0.0");
    assert!(version.expect("there").active);
}

#[test]
fn what_one_sender_allows_is_not_allowed_for_another() {
    let options = |activate, allow_missing| UploadOptions {
        activate,
        dev: false,
        allow_missing,
    };
    let (staged, active, all) = (
        options(false, true),
        options(true, false),
        options(true, true),
    );
    for (one, other, stronger) in [
        (staged, active, active),
        (active, all, all),
        (staged, all, all),
    ] {
        assert_eq!(one.stronger(other), stronger);
        assert_eq!(other.stronger(one), stronger);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_no_plugins_say_why() {
    let World { registry, .. } = &world().await;
    let module = Bytes::from_static(b"\0asm\x01\0\0\0");
    let bad = plugin(r#"{"name":"heyday","version":"1","activities":[]}"#, "", "");
    let foreign = plugin("{}", r#"(import "acme:other/thing@1.0.0" (instance))"#, "");
    for (bytes, words) in [
        (Bytes::from_static(b"hello"), "not a WebAssembly component"),
        (module, "core WebAssembly module"),
        (foreign, "acme:other/thing@1.0.0"),
        (bad, "description has 3 errors"),
    ] {
        let error = push(registry, bytes).await.expect_err(words);
        assert!(matches!(error, RegistryError::Unusable { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    // What asked for more than there is is kept in mind, what is only wrong is not.
    let audit = entries(registry).await;
    assert_eq!(audit.len(), 1, "{audit:?}");
    let foreign = plugin("{}", r#"(import "acme:other/thing@1.0.0" (instance))"#, "");
    assert_eq!(audit[0].action, "plugin.refuse");
    assert_eq!(audit[0].resource, Digest::of(&foreign).to_string());
    assert_eq!(audit[0].details["imports"][0], "acme:other/thing@1.0.0");
    let bad = plugin(r#"{"name":"heyday","version":"1","activities":[]}"#, "", "");
    let status = registry
        .upload_status("default", &Digest::of(&bad))
        .expect("known");
    assert_eq!(status.state, VersionState::Failed);
    assert!(status.reason.expect("a reason").contains("/name"));
    assert!(
        registry
            .upload_status("default", &Digest::of(b"hello"))
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_waits_for_goes_on() {
    let World { registry, .. } = &world().await;
    let bytes = greet("1.0.0", "");
    let digest = Digest::of(&bytes);
    let options = UploadOptions::default();
    let pending = registry
        .upload_plugin(ACTOR, bytes, options, Duration::ZERO)
        .await;
    match pending.expect("taken") {
        Upload::Pending(status) => assert_eq!(status.digest, digest),
        // It was that fast.
        Upload::Created(version) => assert_eq!(version.digest, digest),
        other @ Upload::Existing(_) => panic!("{other:?}"),
    }
    let done = registry
        .await_upload("default", &digest, MINUTE)
        .await
        .expect("done");
    assert!(
        matches!(done, Upload::Created(_) | Upload::Existing(_)),
        "{done:?}"
    );
    let status = registry.upload_status("default", &digest).expect("known");
    assert_eq!(status.state, VersionState::Ready);
}

/// The row of an upload that was answered with 202: a crash leaves it, and the bytes.
fn under_way(bytes: &Bytes) -> UploadRow {
    UploadRow {
        namespace: ACTOR.namespace.to_owned(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        state: VersionState::Compiling,
        reason: None,
        capabilities: BTreeSet::new(),
        imports: BTreeSet::new(),
        options: UploadOptions::default(),
        principal: ACTOR.principal.to_owned(),
        created_at: crate::state::now(),
    }
}

/// What a registry keeps in that folder.
async fn stores(folder: &Path) -> (ContentFiles, HostDb) {
    let files = ContentFiles::open(folder.join("components")).expect("files");
    let location = StateLocation::File(folder.join("host.db"));
    (files, HostDb::open(&location).await.expect("a database"))
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_a_crash_interrupted_go_on_in_their_order() {
    let World { folder, .. } = &world().await;
    let (files, database) = stores(folder.path()).await;
    let mut change = database.change().await.expect("a change");
    let sent = ["1.3.0", "1.0.0", "1.2.0", "1.1.0"];
    for (version, second) in sent.into_iter().zip([3, 0, 2, 1]) {
        let bytes = greet(version, "");
        let mut row = under_way(&bytes);
        row.created_at += SignedDuration::from_secs(second);
        files.put_bytes(bytes).await.expect("stored");
        change.put_upload(&row).await.expect("written");
    }
    change.commit().await.expect("committed");
    let again = open(folder.path()).await;
    // What is sent now is sent after all of them.
    created(push(&again, greet("2.0.0", "")).await.expect("uploaded"));
    assert_eq!(
        activations(&again).await,
        ["1.0.0", "1.1.0", "1.2.0", "1.3.0", "2.0.0"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_failed_is_forgotten_a_day_later() {
    let World {
        registry, folder, ..
    } = &world().await;
    let (files, database) = stores(folder.path()).await;
    let [old, young] = ["old", "young"].map(|salt| greet("1.0.0", salt));
    let mut change = database.change().await.expect("a change");
    for (bytes, hours) in [(&old, 25), (&young, 23)] {
        let mut row = UploadRow {
            state: VersionState::Failed,
            reason: Some("it was too large".to_owned()),
            ..under_way(bytes)
        };
        row.created_at -= SignedDuration::from_hours(hours);
        change.put_upload(&row).await.expect("written");
        files.put_bytes(bytes.clone()).await.expect("stored");
        // Nobody needs young bytes less than old ones.
        let hex = row.digest.hex();
        let file = folder.path().join("components").join(&hex[..2]).join(&hex);
        let file = std::fs::File::open(file).expect("there");
        let at = SystemTime::now() - Duration::from_secs(25 * 3_600);
        file.set_modified(at).expect("set");
    }
    change.commit().await.expect("committed");
    registry.catch_up().await.expect("caught up");
    let status = |registry: &Registry, bytes: &Bytes| {
        let status = registry.upload_status("default", &Digest::of(bytes));
        status.map(|status| status.state)
    };
    for bytes in [&old, &young] {
        let known = status(registry, bytes).expect("known");
        assert_eq!(known, VersionState::Failed);
    }
    registry.sweep(&MockEngine(0)).await;
    for registry in [registry, &open(folder.path()).await] {
        let forgotten = status(registry, &old);
        assert!(
            matches!(forgotten, Err(RegistryError::NotFound { .. })),
            "{forgotten:?}"
        );
        let known = status(registry, &young).expect("known");
        assert_eq!(known, VersionState::Failed);
        assert!(registry.content(&Digest::of(&old)).await.is_err());
        let kept = registry.content(&Digest::of(&young)).await;
        assert_eq!(kept.expect("there"), young);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_a_crash_interrupted_goes_on_at_the_next_start() {
    let World { folder, .. } = &world().await;
    let bytes = greet("1.0.0", "");
    let digest = Digest::of(&bytes);
    let mut row = UploadRow {
        options: UploadOptions {
            activate: false,
            ..UploadOptions::default()
        },
        principal: "another".to_owned(),
        ..under_way(&bytes)
    };
    let (files, database) = stores(folder.path()).await;
    files.put_bytes(bytes).await.expect("stored");
    let mut change = database.change().await.expect("a change");
    change.put_upload(&row).await.expect("written");
    // Who sent it again before the crash asked for more.
    row.options = UploadOptions::default();
    row.principal = ACTOR.principal.to_owned();
    change.wish_upload(&row).await.expect("written");
    change.commit().await.expect("committed");

    let again = open(folder.path()).await;
    let done = again.await_upload("default", &digest, MINUTE).await;
    let done = done.expect("done");
    assert!(
        matches!(done, Upload::Created(_) | Upload::Existing(_)),
        "{done:?}"
    );
    let shown = again
        .versions(Kind::Plugin, "default", "greet", None, 10)
        .expect("there");
    assert_eq!(
        shown.active.map(|version| version.to_string()).as_deref(),
        Some("1.0.0")
    );
    // It is told a little after the version is there.
    let told = async {
        loop {
            if let [entry] = &*entries(&again).await {
                return entry.principal.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(MINUTE, told).await;
    assert_eq!(told.expect("an entry of the audit"), ACTOR.principal);
    // It is done for good.
    let third = open(folder.path()).await;
    let status = third.upload_status("default", &digest).expect("known");
    assert_eq!(status.state, VersionState::Ready);
}
