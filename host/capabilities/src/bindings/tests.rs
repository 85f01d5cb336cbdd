//! Bindings, opened or refused.

use super::*;

fn parse(json: serde_json::Value) -> Result<BindingsConfig, serde_json::Error> {
    serde_json::from_value(json)
}

fn open(json: serde_json::Value) -> Result<Bindings, BindingError> {
    let config = parse(json).expect("a configuration");
    Bindings::open(&config, &Handle::current())
}

#[tokio::test]
async fn a_name_means_something_else_in_each_namespace() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let bindings = open(serde_json::json!({ "namespaces": {
        "default": {
            "sql": { "default": { "path": path("a.db") } },
            "blob": { "default": { "path": path("a") } },
        },
        "other": { "sql": { "default": { "path": path("b.db") } } },
    }}))
    .expect("opened");
    assert!(bindings.database("default", "default").is_some());
    assert!(bindings.database("other", "default").is_some());
    assert!(bindings.database("default", "b").is_none());
    assert!(bindings.container("default", "default").is_some());
    assert!(bindings.container("other", "default").is_none());
    assert_eq!(
        bindings.list("default"),
        [
            ("blob", "default".to_owned(), "files"),
            ("sql", "default".to_owned(), "sqlite")
        ]
    );
    bindings.close().await;
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let error = open(serde_json::json!({ "namespaces": { "default": {
        "sql": { "Upper": { "path": path("a.db") } } } }}))
    .expect_err("a bad name");
    assert!(error.to_string().contains("`Upper`"), "{error}");
    let error = open(serde_json::json!({ "namespaces": {
        "a": { "sql": { "x": { "path": path("f/x.db") } } },
        "b": { "blob": { "y": { "path": path("f") } } } }}))
    .expect_err("one within the other");
    assert!(
        error.to_string().contains("a/sql/x and b/blob/y"),
        "{error}"
    );
    let error = open(
        serde_json::json!({ "namespaces": { "default": { "sql": { "x": {
        "path": path("z.db"), "limits": { "result_rows": 0 } } } } }}),
    )
    .expect_err("a useless limit");
    assert!(error.to_string().contains("result_rows"), "{error}");
    let error = open(
        serde_json::json!({ "namespaces": { "default": { "blob": { "x": {
        "path": path("missing"), "read_only": true } } } }}),
    )
    .expect_err("nothing there");
    assert!(error.to_string().contains("default/blob/x"), "{error}");
    parse(
        serde_json::json!({ "namespaces": { "default": { "sql": { "x": {
        "path": "a", "readonly": true } } } }}),
    )
    .expect_err("an unknown field");
}

#[tokio::test]
async fn a_neo4j_server_is_one_bindings_own_by_whatever_name() {
    let graphs = |urls: [&str; 2], read_only: bool| {
        let [a, b] = urls.map(|url| {
            serde_json::json!({ "read_only": read_only,
                "neo4j": { "url": url, "password_env": "P" } })
        });
        open(serde_json::json!({ "namespaces": { "default": { "graph": { "a": a, "b": b } } } }))
    };
    graphs(["neo4j://n@localhost", "neo4j://n@localhost:7688"], false).expect("two servers");
    for urls in [
        ["neo4j://n@localhost", "bolt://m@127.0.0.1:7687"],
        ["neo4j://n@[::1]", "neo4j://n@localhost"],
        ["neo4j://n@127.0.0.1/", "neo4j://n@127.0.0.1:7687"],
    ] {
        let error = graphs(urls, false).expect_err("one server");
        assert!(error.to_string().contains("graph/a"), "{error}");
        graphs(urls, true).expect("neither writes");
    }
}

#[tokio::test]
async fn a_role_is_one_bindings_own() {
    let sql = |bindings: serde_json::Value| {
        open(serde_json::json!({ "namespaces": { "default": { "sql": bindings } } }))
    };
    let url = |url: &str| serde_json::json!({ "postgres": { "url": url } });
    sql(serde_json::json!({ "a": url("postgres://a@localhost/main"),
        "b": url("postgres://b@localhost/main") }))
    .expect("opened");
    let error = sql(serde_json::json!({ "a": url("postgres://r@localhost/a"),
        "b": url("postgres://r@localhost/b") }))
    .expect_err("one role");
    let told = error.to_string();
    assert!(told.contains("default/sql/a and default/sql/b"), "{told}");
    sql(serde_json::json!({ "a": url("postgres://r@localhost/a"),
        "b": url("postgres://r@127.0.0.1/b"), "c": url("postgres://r@[::1]:5433/b") }))
    .expect_err("one role, by two names of this machine");
    for (binding, told) in [
        (serde_json::json!({}), "no backend"),
        (
            serde_json::json!({ "path": "a.db", "postgres": { "url": "postgres://r@localhost/a" } }),
            "two backends",
        ),
        (
            serde_json::json!({ "postgres": { "url": "postgres://r@localhost/a" },
                "limits": { "database_bytes": 1 } }),
            "database_bytes",
        ),
        (url("postgres://r:secret@localhost/a"), "default/sql/x"),
    ] {
        let error = sql(serde_json::json!({ "x": binding })).expect_err(told);
        assert!(error.to_string().contains(told), "{error}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_store_of_no_connections_or_time_is_refused() {
    let kv = |limits: serde_json::Value| {
        open(
            serde_json::json!({ "namespaces": { "default": { "kv": { "x": {
            "postgres": { "url": "postgres://r@localhost/a" }, "limits": limits } } } } }),
        )
    };
    let limits = serde_json::json!({ "connections": 2, "statement_timeout_ms": 500 });
    let bindings = kv(limits).expect("opened");
    let store = bindings.store("default", "x").expect("a store");
    assert_eq!(store.limits().connections, 2);
    for limit in ["connections", "statement_timeout_ms"] {
        let error = kv(serde_json::json!({ limit: 0 })).expect_err(limit);
        let told = format!("default/kv/x has {limit} = 0");
        assert!(error.to_string().contains(&told), "{error}");
    }
}

#[tokio::test]
async fn readers_may_share_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    open(serde_json::json!({ "namespaces": {
        "a": { "blob": { "x": { "path": folder.path(), "read_only": true } } },
        "b": { "blob": { "y": { "path": folder.path(), "read_only": true } } } }}))
    .expect("opened");
}
