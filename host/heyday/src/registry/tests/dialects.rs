//! Plugins that need a dialect: which grants they may have, and with which they are active.

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::types::{GrantRequest, PluginVersion, UnfitGrant, UploadOptions};
use super::super::{Registry, RegistryError};
use super::{ACTOR, MINUTE, World, created, entries, plugin, push, world};

/// A plugin of that version that imports `sql` and `graph` and needs these dialects.
fn needing(version: &str, requires: &Value) -> Bytes {
    let description = json!({
        "name": "needy", "version": version, "requires": requires,
        "activities": [{ "name": "add" }],
    });
    let import = r#"(import "heyday:sql/sql@0.1.0" (instance))
        (import "heyday:graph/graph@0.1.0" (instance))"#;
    plugin(&description.to_string(), import, "")
}

async fn grant(registry: &Registry, capability: &str, binding: &str) -> Result<(), RegistryError> {
    let grant = GrantRequest {
        subject: "needy".to_owned(),
        capability: capability.to_owned(),
        binding: binding.to_owned(),
        mode: None,
    };
    registry.put_grant(ACTOR, grant).await.map(|_| ())
}

async fn revoke(registry: &Registry, capability: &str, binding: &str) {
    let revoked = registry.delete_grant(ACTOR, "needy", capability, Some(binding));
    revoked.await.expect("taken back");
}

fn unfit(error: RegistryError) -> Vec<UnfitGrant> {
    match error {
        RegistryError::UnfitGrants { unfit, .. } => unfit,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_another_dialect_is_refused() {
    let World { registry, .. } = &world().await;
    let requires = json!({ "sql": ["postgresql"], "graph": ["kglite"] });
    let version = created(
        push(registry, needing("1.0.0", &requires))
            .await
            .expect("uploaded"),
    );
    assert!(!version.active);
    assert_eq!(json!(version.requires), requires);
    let error = grant(registry, "sql", "default").await.expect_err("sqlite");
    let told = error.to_string();
    assert!(
        told.contains("sql=default is sqlite and it needs postgresql"),
        "{told}"
    );
    let found = unfit(error);
    assert_eq!(
        (found[0].dialect.as_str(), &found[0].needed[..]),
        ("sqlite", &["postgresql".to_owned()][..])
    );
    let error = grant(registry, "graph", "people").await.expect_err("neo4j");
    assert_eq!(unfit(error)[0].dialect, "neo4j");
    assert!(registry.grants("default", Some("needy")).is_empty());
    assert_eq!(entries(registry).await[0].action, "grant.refuse");
    // What fits is granted, and then the plugin can be active.
    grant(registry, "sql", "main").await.expect("granted");
    grant(registry, "graph", "default").await.expect("granted");
    let active = registry
        .activate::<PluginVersion>(ACTOR, "needy", "1.0.0", false)
        .await
        .expect("active");
    assert!(active.active && active.unfit_grants.is_empty());
    // Of a plugin that says nothing, and of another one, any is.
    let any = needing("2.0.0", &json!({}));
    let any = created(push(registry, any).await.expect("uploaded"));
    assert!(any.active);
    grant(registry, "sql", "default").await.expect("granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_with_a_grant_that_does_not_fit_is_staged() {
    let World { registry, .. } = &world().await;
    // Granted before anybody knows what it needs.
    grant(registry, "sql", "default").await.expect("granted");
    grant(registry, "sql", "main").await.expect("granted");
    grant(registry, "graph", "people").await.expect("granted");
    let needs = needing("1.0.0", &json!({ "sql": ["postgresql"] }));
    let staged = created(push(registry, needs.clone()).await.expect("uploaded"));
    assert!(!staged.active && staged.missing_grants.is_empty());
    let lacks = UnfitGrant {
        capability: "sql".to_owned(),
        binding: "default".to_owned(),
        dialect: "sqlite".to_owned(),
        needed: vec!["postgresql".to_owned()],
    };
    assert_eq!(staged.unfit_grants, [lacks]);
    let activate = async |allow| {
        let activated = registry.activate::<PluginVersion>(ACTOR, "needy", "1.0.0", allow);
        activated.await
    };
    let refused = activate(false).await.expect_err("it does not fit");
    assert_eq!(unfit(refused), staged.unfit_grants);
    // The same bytes again are what they were; by force they are active.
    let forced = UploadOptions {
        allow_missing: true,
        ..UploadOptions::default()
    };
    let again = push(registry, needs.clone()).await.expect("uploaded");
    assert!(format!("{again:?}").contains("active: false"), "{again:?}");
    let forced = registry.upload_plugin(ACTOR, needs, forced, MINUTE).await;
    let forced = format!("{:?}", forced.expect("uploaded"));
    assert!(forced.contains("active: true"), "{forced}");
    // One that both fit replaces it.
    let other = needing("1.1.0", &json!({ "sql": ["postgresql", "sqlite"] }));
    assert!(created(push(registry, other).await.expect("uploaded")).active);
    let refused = activate(false).await;
    assert_eq!(unfit(refused.expect_err("still")).len(), 1);
    revoke(registry, "sql", "default").await;
    assert!(activate(false).await.expect("active").active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialect_that_there_is_not_is_refused_at_the_upload() {
    let World { registry, .. } = &world().await;
    for (requires, pointer) in [
        (json!({ "sql": ["oracle"] }), "/requires/sql"),
        (json!({ "kv": ["sqlite"] }), "/requires/kv"),
    ] {
        let error = push(registry, needing("1.0.0", &requires)).await;
        match error.expect_err("refused") {
            RegistryError::Unusable { problems, .. } => {
                assert_eq!(problems[0].pointer, pointer, "{problems:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}
