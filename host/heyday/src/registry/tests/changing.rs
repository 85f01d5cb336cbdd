//! Changes that nobody waits for any more: they end all the same.

use super::super::types::{GrantRequest, PluginVersion};
use super::super::{Kind, Registry};
use super::{ACTOR, MINUTE, World, entries, greet, open, push, used, world};

/// Asks for something and goes as soon as that has begun, as a client whose connection ends.
async fn ask_and_go<T>(asked: impl Future<Output = T>) {
    let mut asked = std::pin::pin!(asked);
    // That it is done at once would be no harm.
    let _ = futures::poll!(asked.as_mut());
}

/// Waits until something is done, and memory shows it.
async fn until(registry: &Registry, action: &str) {
    let done = async {
        while entries(registry).await[0].action != action {
            tokio::task::yield_now().await;
        }
        drop(registry.core.changing.lock().await);
    };
    tokio::time::timeout(MINUTE, done).await.expect(action);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_asker_left_is_done_in_memory_and_in_the_state() {
    let World {
        registry, folder, ..
    } = &world().await;
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        push(registry, greet(version, "")).await.expect("uploaded");
    }
    let grant = GrantRequest {
        subject: "index".to_owned(),
        capability: "sql".to_owned(),
        binding: "default".to_owned(),
        mode: None,
    };
    ask_and_go(registry.put_grant(ACTOR, grant)).await;
    until(registry, "grant.put").await;
    let held = registry.grants_of("default", "index");
    assert!(held.find("sql", "default").is_some());
    ask_and_go(registry.delete_grant(ACTOR, "index", "sql", None)).await;
    until(registry, "grant.delete").await;
    assert!(held.revoked.is_cancelled());
    ask_and_go(registry.remove(Kind::Plugin, ACTOR, "greet", "1.0.0", used(0))).await;
    until(registry, "plugin.remove").await;
    ask_and_go(registry.rollback::<PluginVersion>(ACTOR, "greet", None)).await;
    until(registry, "plugin.rollback").await;

    for registry in [registry, &open(folder.path()).await] {
        assert!(registry.grants("default", None).is_empty());
        let shown = registry.versions(Kind::Plugin, "default", "greet", None, 10);
        let shown = shown.expect("there");
        let active = shown.active.map(|version| version.to_string());
        assert_eq!(
            (shown.versions.len(), active.as_deref()),
            (2, Some("1.1.0"))
        );
    }
}
