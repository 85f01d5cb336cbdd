//! What was refused is in the audit: host calls of plugins and flows, grants, uploads; and
//! grants of a dialect that a plugin cannot use are refused.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::component;
use crate::support::handmade::Handmade;
use crate::support::postgres;
use crate::support::probe;
use crate::support::server::{Client, Options, Server};

/// The refused host calls of a plugin or flow, oldest first.
async fn denied(client: &Client, subject: &str) -> Vec<Value> {
    let path = format!("/audit?action=capability.deny&resource={subject}&page_size=1000");
    let audit = client.get(&path).await.unwrap();
    let mut entries = audit["audit"].as_array().unwrap().clone();
    entries.reverse();
    entries
}

/// Capability, binding and reason of an entry that counts one call.
fn told(entry: &Value) -> (&str, &str, &str) {
    let text = |member: &str| entry["details"][member].as_str().unwrap();
    assert_eq!(entry["details"]["count"], 1, "{entry}");
    (text("capability"), text("binding"), text("reason"))
}

/// Runs an activity that is refused; answers the only entry that this leaves.
async fn refused(client: &Client, activity: &str, input: &Value) -> Value {
    let (plugin, _) = activity.split_once('.').unwrap();
    let before = denied(client, plugin).await.len();
    let id = client.start_activity(activity, input).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    let mut entries = denied(client, plugin).await;
    assert_eq!(entries.len(), before + 1, "{activity}: {entries:?}");
    let entry = entries.pop().unwrap();
    assert_eq!(entry["principal"], format!("plugin {plugin}"));
    assert_eq!(entry["details"]["activity_type"], activity);
    let shown = client.get(&format!("/workflows/{id}")).await.unwrap();
    assert_eq!(entry["details"]["run_id"], shown["run_id"]);
    entry
}

#[tokio::test(flavor = "multi_thread")]
async fn host_calls_that_were_refused_are_in_the_audit_once_each() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    let pushed = client.push(component("probe"), "&allow_missing=true");
    pushed.await.unwrap();
    let run = |statement: &str| json!({ "binding": "default", "statement": statement });
    let binding = json!({ "binding": "default" });
    for (activity, input, capability) in [
        ("probe.sql_run", run("SELECT 1"), "sql"),
        ("probe.blob_put", binding.clone(), "blob"),
        ("probe.kv_count", binding.clone(), "kv"),
        ("probe.graph_run", run("RETURN 1"), "graph"),
        ("probe.vector_put", json!("default"), "vector"),
    ] {
        let entry = refused(client, activity, &input).await;
        let (of, asked, reason) = told(&entry);
        assert_eq!((of, asked), (capability, "default"));
        assert!(reason.contains("no grant of"), "{reason}");
    }

    // What a grant does not allow, and what no statement may do; never the statement.
    for capability in ["sql", "kv", "blob", "vector"] {
        let granted = client.grant("probe", capability, "default", Some("ro"));
        granted.await.unwrap();
    }
    for (activity, input, capability, reason) in [
        (
            "probe.sql_run",
            run("CREATE TABLE t AS SELECT 'tres-secret' AS n"),
            "sql",
            "read-only grant",
        ),
        (
            "probe.sql_run",
            run("ATTACH DATABASE '/tmp/tres-secret.db' AS x"),
            "sql",
            "ATTACH",
        ),
        ("probe.kv_count", binding.clone(), "kv", "read-only grant"),
        ("probe.blob_put", binding.clone(), "blob", "read-only grant"),
        (
            "probe.vector_put",
            json!("default"),
            "vector",
            "read-only grant",
        ),
    ] {
        let entry = refused(client, activity, &input).await;
        let (of, asked, why) = told(&entry);
        assert_eq!((of, asked), (capability, "default"), "{entry}");
        assert!(why.contains(reason), "{activity}: {why}");
        assert!(!entry.to_string().contains("tres-secret"));
    }

    // What was answered leaves nothing.
    let before = denied(client, "probe").await.len();
    let rows = client.succeed("probe.sql_run", &run("SELECT 1")).await;
    assert_eq!(rows.unwrap(), 1);
    let failed = client.fail("probe.sql_run", &run("SELECT FROM")).await;
    assert_ne!(failed.unwrap()["kind"], "capability-denied");
    assert_eq!(denied(client, "probe").await.len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_secrets_and_models_that_were_refused_are_in_the_audit_too() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("settings.toml", "text = 'tres-secret'\n"),
        ("secrets.toml", "password = 'tres-secret'\n"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let config = format!(
        "[bindings.namespaces.default.config]\n\
         main = {{ file = '{root}/settings.toml' }}\n\
         [bindings.namespaces.default.secrets]\n\
         main = {{ file = '{root}/secrets.toml', names = {{ mail = 'password' }} }}\n",
        root = folder.path().display(),
    );
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = Server::with(options).await.unwrap();
    let client = &server.client;
    for plugin in ["visitor", "thinker"] {
        let pushed = client.push(component(plugin), "&allow_missing=true");
        pushed.await.unwrap();
    }
    let named = |name: &str| json!({ "binding": "main", "name": name });
    for (activity, input, capability) in [
        ("visitor.config_get", named("text"), "config"),
        ("visitor.secret_digest", named("mail"), "secrets"),
        (
            "thinker.embed",
            json!({ "model": "main", "texts": ["tres-secret"] }),
            "inference",
        ),
    ] {
        let entry = refused(client, activity, &input).await;
        let (of, asked, reason) = told(&entry);
        assert_eq!((of, asked), (capability, "main"), "{entry}");
        assert!(reason.contains("no grant of"), "{reason}");
        assert!(!entry.to_string().contains("tres-secret"), "{entry}");
    }

    // A secret that the binding does not give out; never its name, which is the plugin's word.
    for capability in ["config", "secrets"] {
        let granted = client.grant("visitor", capability, "main", None);
        granted.await.unwrap();
    }
    let entry = refused(client, "visitor.secret_digest", &named("password")).await;
    let (of, asked, reason) = told(&entry);
    assert_eq!((of, asked), ("secrets", "main"), "{entry}");
    assert!(reason.contains("gives out no secret"), "{reason}");
    assert!(
        !entry["details"].to_string().contains("password"),
        "{entry}"
    );

    // What was answered leaves nothing.
    let before = denied(client, "visitor").await.len();
    let text = client.succeed("visitor.config_get", &named("text")).await;
    assert_eq!(text.unwrap(), "tres-secret");
    let mail = named("mail");
    let read = client.succeed("visitor.secret_digest", &mail);
    read.await.unwrap();
    assert_eq!(denied(client, "visitor").await.len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_were_refused_are_in_the_audit_without_what_was_sent() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    let pushed = client.push(component("visitor"), "&allow_missing=true");
    pushed.await.unwrap();
    let url = "http://127.0.0.1:9/tres-secret?key=tres-secret";
    let ask = json!({ "url": url });
    client.fail("visitor.http_ask", &ask).await.unwrap();
    let entries = denied(client, "visitor").await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    let (capability, binding, reason) = told(&entries[0]);
    assert_eq!((capability, binding), ("http", "GET:127.0.0.1:9"));
    assert!(reason.contains("no grant allows GET"), "{reason}");
    // An address that a rule names by a pattern only is refused as well.
    let granted = client.grant("visitor", "http", "GET:*.example.com", None);
    granted.await.unwrap();
    client.fail("visitor.http_ask", &ask).await.unwrap();
    assert_eq!(denied(client, "visitor").await.len(), 2);

    let flow = format!(
        "document: {{dsl: 1.0.3, namespace: tests, name: asks, version: 1.0.0}}\ndo:\n  \
         - ask: {{call: http, with: {{method: post, endpoint: '{url}', body: tres-secret}}}}\n"
    );
    let pushed = client.push_flow(&flow).await.unwrap();
    assert_eq!(pushed.status(), StatusCode::CREATED);
    let outcome = client.run("tests.asks", &json!({})).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    let entries = denied(client, "tests.asks").await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    let (capability, binding, _) = told(&entries[0]);
    assert_eq!((capability, binding), ("http", "POST:127.0.0.1:9"));
    assert_eq!(entries[0]["principal"], "flow tests.asks");
    let audit = client.get("/audit?action=capability.*").await.unwrap();
    assert!(!audit.to_string().contains("tres-secret"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_and_uploads_that_were_refused_are_listed_by_the_command_line() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    for (capability, binding) in [
        ("sql", "nope"),
        ("http", "GET:somebody:tres-secret@example.com"),
    ] {
        let body = json!({ "subject": "probe", "capability": capability, "binding": binding });
        let put = client.request(Method::PUT, "/grants").json(&body);
        Client::refused(put.send().await.unwrap(), StatusCode::BAD_REQUEST).await;
    }
    let foreign = Handmade {
        imports: r#"(import "acme:other/thing@1.0.0" (instance))"#,
        ..Handmade::default()
    };
    let refused = client.refused_upload(foreign.build(), StatusCode::UNPROCESSABLE_ENTITY);
    refused.await;
    client.grant("probe", "sql", "default", None).await.unwrap();

    let desk = Desk::new(&server).unwrap();
    // A `*` stands at the end.
    let wrong = desk.run("", "heyday audit list --action '*.refuse'");
    wrong
        .await
        .unwrap()
        .code(2)
        .says("an action is one such as");
    let listed = desk.run("", "heyday audit list --action grant.refuse --output json");
    let listed = listed.await.unwrap().ok().json();
    let entries = listed["audit"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{listed}");
    assert_eq!(entries[1]["details"]["binding"], "nope");
    assert!(!listed.to_string().contains("tres-secret"), "{listed}");
    let all = desk.run("", "heyday audit list --limit 2 --all");
    all.await
        .unwrap()
        .ok()
        .says("grant.put")
        .says("plugin.refuse")
        .says("acme:other/thing@1.0.0")
        .says("sql=nope: there is no binding sql=nope");
    let of = desk.run(
        "",
        "heyday audit list --resource probe --action 'grant.*' --limit 1",
    );
    of.await
        .unwrap()
        .ok()
        .says("grant.put")
        .says("--page-token");
    let none = desk.run("", "heyday audit list --resource nobody");
    none.await.unwrap().ok().says("no such entry");
}

/// A plugin that asks for `sql` in these dialects.
fn needing(version: &str, dialects: &Value) -> Vec<u8> {
    let description = json!({
        "name": "needy", "version": version, "requires": { "sql": dialects },
        "activities": [{ "name": "answer", "input": {}, "output": {} }],
    })
    .to_string();
    Handmade {
        description: &description,
        imports: r#"(import "heyday:sql/sql@0.1.0" (instance))"#,
        ..Handmade::default()
    }
    .build()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_granted_the_dialect_that_it_needs() {
    // Not kept: whoever has the server lets all others wait.
    let role = postgres::shared().map(|server| server.role(&server.database()).toml());
    let postgresql = role.is_some();
    let mut config = "[bindings.namespaces.default.sql.default]\npath = 'sql.db'\n".to_owned();
    if let Some(role) = role {
        config += &format!("[bindings.namespaces.default.sql.postgresql]\n{role}");
    }
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    // The probe says nothing of dialects, and runs on each.
    let server = probe_with(options, postgresql).await;
    let client = &server.client;

    let unknown = needing("0.1.0", &json!(["oracle"]));
    let problem = client.refused_upload(unknown, StatusCode::UNPROCESSABLE_ENTITY);
    let problem = problem.await;
    assert_eq!(
        problem["errors"][0]["pointer"], "/requires/sql",
        "{problem}"
    );

    let needs = needing("1.0.0", &json!(["postgresql"]));
    let pushed = client.push(needs.clone(), "").await.unwrap();
    assert_eq!(pushed["missing_grants"], json!(["sql"]));
    assert_eq!(pushed["requires"], json!({ "sql": ["postgresql"] }));
    let body = json!({ "subject": "needy", "capability": "sql", "binding": "default" });
    let put = client.request(Method::PUT, "/grants").json(&body);
    let problem = Client::refused(put.send().await.unwrap(), StatusCode::CONFLICT).await;
    assert_eq!(problem["type"], "urn:heyday:problems:unfit-grants");
    let unfit = json!([{
        "capability": "sql", "binding": "default", "dialect": "sqlite", "needed": ["postgresql"],
    }]);
    assert_eq!(problem["unfit_grants"], unfit);
    let audit = client
        .get("/audit?action=grant.refuse&resource=needy")
        .await;
    assert_eq!(audit.unwrap()["audit"].as_array().unwrap().len(), 1);
    if postgresql {
        let granted = client.grant("needy", "sql", "postgresql", None).await;
        granted.unwrap();
        let again = client.push(needs, "").await.unwrap();
        assert_eq!(again["active"], true, "{again}");
        let answer = client.succeed("needy.answer", &json!({})).await.unwrap();
        assert_eq!(answer, 42);
        let path = "/grants?subject=needy&capability=sql";
        let revoked = client.request(Method::DELETE, path).send().await.unwrap();
        assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    }

    // With a grant that does not fit an upload is stored, and not active.
    let both = needing("2.0.0", &json!(["sqlite", "postgresql"]));
    client.push(both, "&allow_missing=true").await.unwrap();
    client.grant("needy", "sql", "default", None).await.unwrap();
    let staged = client.push(needing("3.0.0", &json!(["postgresql"])), "");
    let staged = staged.await.unwrap();
    assert_eq!(staged["active"], false, "{staged}");
    assert_eq!(staged["missing_grants"], json!([]));
    assert_eq!(staged["unfit_grants"], unfit);
    let activate = json!({ "version": "3.0.0" });
    let activate = client
        .request(Method::POST, "/plugins/needy/activate")
        .json(&activate);
    let problem = Client::refused(activate.send().await.unwrap(), StatusCode::CONFLICT).await;
    assert_eq!(problem["type"], "urn:heyday:problems:unfit-grants");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("sql=default is sqlite"),
        "{problem}"
    );
    let answer = client.succeed("needy.answer", &json!({})).await.unwrap();
    assert_eq!(answer, 42, "the version before is active");
}

/// A server with the probe, which works on each `sql` binding.
async fn probe_with(options: Options, postgresql: bool) -> Server {
    let server = probe::server(options).await.unwrap();
    let mut bindings = vec!["default"];
    if postgresql {
        let granted = server.client.grant("probe", "sql", "postgresql", None);
        granted.await.unwrap();
        bindings.push("postgresql");
    }
    for binding in bindings {
        let select = json!({ "binding": binding, "statement": "SELECT 1" });
        let rows = server.client.succeed("probe.sql_run", &select).await;
        assert_eq!(rows.unwrap(), 1, "{binding}");
    }
    server
}
