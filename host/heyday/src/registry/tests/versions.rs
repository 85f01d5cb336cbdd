//! Which version is active, what it was granted, and when it may go.

use heyday_durable::payload::Digest;

use super::super::types::{GrantRequest, PluginVersion, UploadOptions};
use super::super::{ActivityOptions, Kind, Registry, RegistryError};
use super::{
    ACTOR, MINUTE, MockEngine, World, created, entries, greet, indexer, open, push, used, world,
};
use crate::definitions::HostDefinitions;

#[tokio::test(flavor = "multi_thread")]
async fn activation_needs_grants_and_can_be_taken_back() {
    let World { registry, .. } = &world().await;
    let index = created(push(registry, indexer()).await.expect("uploaded"));
    assert_eq!(
        (index.active, index.missing_grants),
        (false, vec!["sql".to_owned()])
    );
    let refused = registry
        .activate::<PluginVersion>(ACTOR, "index", "1.0.0", false)
        .await;
    assert!(
        matches!(refused, Err(RegistryError::MissingGrants { missing, .. }) if missing == ["sql"])
    );
    let grant = |binding: &str, mode: Option<&str>| GrantRequest {
        subject: "index".to_owned(),
        capability: "sql".to_owned(),
        binding: binding.to_owned(),
        mode: mode.map(str::to_owned),
    };
    for (binding, mode, words) in [
        ("nothing", None, "are: default"),
        ("default", Some("w"), "`ro`"),
    ] {
        let refused = registry
            .put_grant(ACTOR, grant(binding, mode))
            .await
            .expect_err("refused");
        assert!(refused.to_string().contains(words), "{refused}");
    }
    registry
        .put_grant(ACTOR, grant("default", Some("rw")))
        .await
        .expect("granted");
    let before = registry.grants_of("default", "index");
    assert!(before.find("sql", "default").is_some());
    let active = registry
        .activate::<PluginVersion>(ACTOR, "index", "1.0.0", false)
        .await;
    assert!(active.expect("active").active);

    // Less than before ends what goes on with the old grant.
    registry
        .put_grant(ACTOR, grant("default", Some("ro")))
        .await
        .expect("granted");
    assert!(before.revoked.is_cancelled());
    let before = registry.grants_of("default", "index");
    registry
        .delete_grant(ACTOR, "index", "sql", Some("default"))
        .await
        .expect("taken back");
    assert!(before.revoked.is_cancelled());
    assert!(registry.grants("default", None).is_empty());
    let missing = registry.delete_grant(ACTOR, "index", "sql", None).await;
    assert!(matches!(
        missing,
        Err(RegistryError::NotFound { what: "grant", .. })
    ));

    let audit = entries(registry).await;
    let actions: Vec<&str> = audit.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "grant.delete",
            "grant.put",
            "plugin.activate",
            "grant.put",
            "grant.refuse",
            "grant.refuse",
            "plugin.upload"
        ]
    );
    assert_eq!(audit[0].principal, "tester");
    let refused = &audit[5];
    assert_eq!(refused.resource, "index");
    assert_eq!(refused.details["binding"], "nothing");
    let reason = refused.details["reason"].as_str().expect("a reason");
    assert!(reason.contains("no binding sql=nothing"), "{reason}");
    // Whatever was sent: a password least of all.
    let secret = GrantRequest {
        capability: "http".to_owned(),
        ..grant("GET:user:tres-secret@example.com", None)
    };
    let refused = registry.put_grant(ACTOR, secret).await;
    refused.expect_err("it has a user");
    let long = GrantRequest {
        subject: "x".repeat(10_000),
        ..grant("default", None)
    };
    let refused = registry.put_grant(ACTOR, long).await;
    refused.expect_err("no name");
    let audit = entries(registry).await;
    assert_eq!(audit[1].action, "grant.refuse");
    assert!(
        !audit[1].details.to_string().contains("secret"),
        "{audit:?}"
    );
    assert!(audit[0].resource.len() < 1_000, "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_goes_one_version_back_and_survives_a_restart() {
    let World {
        registry, folder, ..
    } = &world().await;
    push(registry, greet("1.0.0", "")).await.expect("uploaded");
    let nothing = registry
        .rollback::<PluginVersion>(ACTOR, "greet", None)
        .await;
    assert!(matches!(nothing, Err(RegistryError::Conflict(_))));
    push(registry, greet("1.1.0", "")).await.expect("uploaded");
    let staged = UploadOptions {
        activate: false,
        ..UploadOptions::default()
    };
    let staged = registry
        .upload_plugin(ACTOR, greet("2.0.0", ""), staged, MINUTE)
        .await;
    assert!(!created(staged.expect("uploaded")).active);
    let back = registry
        .rollback::<PluginVersion>(ACTOR, "greet", None)
        .await
        .expect("rolled back");
    assert_eq!(back.version.to_string(), "1.0.0");
    let definitions = HostDefinitions::new(registry.clone());
    let pinned = definitions
        .pin_activity("default", "greet.hello", &ActivityOptions::default())
        .await
        .expect("pinned");
    assert_eq!(pinned.activities["greet.hello"].digest, Some(back.digest));

    let again = open(folder.path()).await;
    let shown = again
        .versions(Kind::Plugin, "default", "greet", None, 10)
        .expect("there");
    assert_eq!(shown.active, Some(back.version));
    assert_eq!(shown.versions.len(), 3);
    let page = again.list(Kind::Plugin, "default", None, 10);
    assert_eq!((page.rows.len(), page.next), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_is_asked_for_twice_goes_back_once() {
    let World { registry, .. } = &world().await;
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        push(registry, greet(version, "")).await.expect("uploaded");
    }
    let back = async |from| {
        let back = registry.rollback::<PluginVersion>(ACTOR, "greet", Some(from));
        back.await.map(|version| version.version.to_string())
    };
    assert_eq!(back("1.2.0").await.expect("rolled back"), "1.1.0");
    let again = back("1.2.0").await;
    assert!(
        matches!(&again, Err(RegistryError::Conflict(text)) if text.contains("is 1.1.0, not 1.2.0")),
        "{again:?}"
    );
    assert_eq!(activations(registry).await, ["1.0.0", "1.1.0"]);
    let none = back("latest").await;
    assert!(matches!(none, Err(RegistryError::Invalid(_))), "{none:?}");
    assert_eq!(back("1.1.0").await.expect("rolled back"), "1.0.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_removed_only_when_nothing_needs_it() {
    let World { registry, .. } = &world().await;
    let old = created(push(registry, greet("1.0.0", "")).await.expect("uploaded"));
    push(registry, greet("1.1.0", "")).await.expect("uploaded");
    let active = registry
        .remove(Kind::Plugin, ACTOR, "greet", "1.1.0", used(0))
        .await;
    assert!(matches!(active, Err(RegistryError::Conflict(text)) if text.contains("is active")));
    let in_use = registry
        .remove(Kind::Plugin, ACTOR, "greet", "1.0.0", used(2))
        .await;
    assert!(matches!(in_use, Err(RegistryError::Conflict(text)) if text.contains("2 open runs")));
    assert!(
        registry
            .version::<PluginVersion>("default", "greet", "1.0.0")
            .is_ok(),
        "it is still there"
    );
    let removed = registry
        .remove(Kind::Plugin, ACTOR, "greet", "1.0.0", used(0))
        .await;
    removed.expect("removed");
    assert!(
        registry
            .version::<PluginVersion>("default", "greet", "1.0.0")
            .is_err()
    );
    let nothing = registry
        .rollback::<PluginVersion>(ACTOR, "greet", None)
        .await;
    assert!(nothing.is_err(), "what was removed is not rolled back to");
    // An attempt that was about to begin still finds it.
    assert!(registry.stored(&old.digest).is_some());
}

/// The stored activations, oldest first.
pub(super) async fn activations(registry: &Registry) -> Vec<String> {
    let reading = registry.core.database().read().await;
    let rows = reading.expect("a reading").activations().await;
    let rows = rows.expect("read").into_iter();
    rows.map(|row| row.3.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_passes_over_a_version_that_was_removed() {
    for reopened in [false, true] {
        let World {
            registry, folder, ..
        } = &world().await;
        for version in ["1.0.0", "1.1.0", "2.0.0"] {
            push(registry, greet(version, "")).await.expect("uploaded");
        }
        let active = registry
            .activate::<PluginVersion>(ACTOR, "greet", "1.1.0", false)
            .await;
        active.expect("active");
        // What is refused changes nothing.
        let in_use = registry
            .remove(Kind::Plugin, ACTOR, "greet", "2.0.0", used(1))
            .await;
        in_use.expect_err("an open run needs it");
        let all = ["1.0.0", "1.1.0", "2.0.0", "1.1.0"];
        assert_eq!(activations(registry).await, all);
        let before = registry.version_before(Kind::Plugin, "default", "greet");
        assert_eq!(before.expect("one").to_string(), "2.0.0");
        let removed = registry
            .remove(Kind::Plugin, ACTOR, "greet", "2.0.0", used(0))
            .await;
        removed.expect("removed");
        assert_eq!(activations(registry).await, ["1.0.0", "1.1.0"]);
        let registry = match reopened {
            true => open(folder.path()).await,
            false => registry.clone(),
        };
        let back = registry
            .rollback::<PluginVersion>(ACTOR, "greet", None)
            .await;
        assert_eq!(back.expect("rolled back").version.to_string(), "1.0.0");
        assert_eq!(activations(&registry).await, ["1.0.0"]);
        let version = registry.version::<PluginVersion>("default", "greet", "1.0.0");
        assert!(version.expect("there").active);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_to_the_same_version_is_a_conflict() {
    let World { registry, .. } = &world().await;
    for version in ["1.0.0", "1.1.0"] {
        push(registry, greet(version, "")).await.expect("uploaded");
    }
    let active = registry
        .activate::<PluginVersion>(ACTOR, "greet", "1.0.0", false)
        .await;
    active.expect("active");
    let removed = registry
        .remove(Kind::Plugin, ACTOR, "greet", "1.1.0", used(0))
        .await;
    removed.expect("removed");
    let nothing = registry
        .rollback::<PluginVersion>(ACTOR, "greet", None)
        .await;
    assert!(
        matches!(&nothing, Err(RegistryError::Conflict(text)) if text.contains("no other version")),
        "{nothing:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_activations_that_are_stored_side_by_side_are_one() {
    let World {
        registry, folder, ..
    } = &world().await;
    for version in ["1.0.0", "1.1.0"] {
        push(registry, greet(version, "")).await.expect("uploaded");
    }
    // As an earlier version of this program left them.
    let core = &registry.core;
    let stored = core.version(Kind::Plugin, "default", "greet", "1.1.0");
    let mut change = core.database().change().await.expect("a change");
    let again = change.activate(&stored.expect("there").row).await;
    again.expect("written");
    change.commit().await.expect("committed");
    let again = open(folder.path()).await;
    for registry in [registry, &again] {
        registry.catch_up().await.expect("caught up");
        let before = registry.version_before(Kind::Plugin, "default", "greet");
        assert_eq!(before.expect("one").to_string(), "1.0.0");
    }
    let back = again.rollback::<PluginVersion>(ACTOR, "greet", None).await;
    assert_eq!(back.expect("rolled back").version.to_string(), "1.0.0");
    assert_eq!(activations(&again).await, ["1.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_crossed_a_start_is_revived_from_its_bytes() {
    let World {
        registry, folder, ..
    } = &world().await;
    let old = created(push(registry, greet("1.0.0", "")).await.expect("uploaded"));
    push(registry, greet("1.1.0", "")).await.expect("uploaded");
    let removed = registry
        .remove(Kind::Plugin, ACTOR, "greet", "1.0.0", used(0))
        .await;
    removed.expect("removed");
    let again = open(folder.path()).await;
    assert!(again.stored(&old.digest).is_none());
    again.sweep(&MockEngine(1)).await;
    let revived = again
        .stored_or_revived("default", &old.digest)
        .await
        .expect("revived");
    assert_eq!(revived.row.name, "greet");
    let unknown = again
        .stored_or_revived("default", &Digest::of(b"never"))
        .await;
    assert!(unknown.is_err());
}
