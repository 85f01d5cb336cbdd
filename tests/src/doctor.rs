//! `heyday doctor` on real backends: what it finds, what it advises, and what it never
//! prints.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::inference::{import, small_model};
use crate::support::google_storage::GoogleStorage;
use crate::support::ports::free_port;
use crate::support::s3::Gateway;
use crate::support::secret_manager_stand_in::SecretManagerStandIn;
use crate::support::server::{Options, Server};
use crate::support::{binary, neo4j, postgres, temporal, weaviate};

/// A configuration in a folder, and `heyday doctor` on it.
fn doctor(folder: &Path, config: &str, arguments: &[&str]) -> Output {
    let file = folder.join("heyday.toml");
    std::fs::write(&file, config).unwrap();
    Command::new(binary())
        .arg("doctor")
        .arg("--config")
        .arg(&file)
        .arg("--data")
        .arg(folder.join("data"))
        .args(arguments)
        .output()
        .expect("it starts")
}

/// What was found of a binding, by check.
fn found<'a>(report: &'a Value, capability: &str, name: &str, check: &str) -> &'a Value {
    let diagnoses = report["diagnoses"].as_array().unwrap();
    let of_binding = diagnoses
        .iter()
        .find(|it| it["capability"] == capability && it["name"] == name)
        .unwrap_or_else(|| panic!("no {capability} {name} in {report}"));
    let findings = of_binding["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|it| it["check"] == check)
        .unwrap_or_else(|| panic!("no {check} in {of_binding}"))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn what_can_be_used_is_ok() {
    let folder = tempfile::tempdir().unwrap();
    let (Some(gateway), Some(google), Some(server)) =
        (Gateway::start(), GoogleStorage::start(), postgres::shared())
    else {
        return;
    };
    let database = server.database();
    let (sql, kv) = (server.role(&database), server.role(&database));
    drop(server);
    let config = format!(
        "[bindings.namespaces.default.sql.main]\n{}[bindings.namespaces.default.kv.main]\n{}\
         [bindings.namespaces.default.blob.bucket]\n{}\
         [bindings.namespaces.default.blob.google]\n{}",
        sql.toml(),
        kv.toml(),
        gateway.toml("doctor"),
        google.toml("doctor"),
    );
    let output = doctor(folder.path(), &config, &["-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    for (capability, names) in [
        ("sql", &["default", "main"][..]),
        ("kv", &["default", "main"]),
        ("blob", &["default", "bucket", "google"]),
    ] {
        for name in names {
            for check in ["reach", "latency", "rights"] {
                let found = found(&report, capability, name, check);
                assert_ne!(found["status"], "failed", "{found}");
            }
        }
    }
    for check in ["version", "clock", "connections"] {
        assert_eq!(found(&report, "sql", "main", check)["status"], "ok");
    }
    for (capability, name, version) in [
        ("sql", "default", "SQLite 3."),
        ("kv", "default", "SQLite 3."),
        ("vector", "default", "SQLite 3."),
        ("graph", "default", "kglite 0."),
        ("sql", "main", "PostgreSQL "),
        ("kv", "main", "PostgreSQL "),
        ("blob", "bucket", "VERSITYGW"),
    ] {
        let version_of = found(&report, capability, name, "version");
        assert_eq!(version_of["status"], "ok", "{version_of}");
        let told = version_of["found"].as_str().unwrap();
        assert!(told.starts_with(version), "{capability} {name}: {told}");
    }
    // Both are in one database, which the later one says.
    let sharing = found(&report, "kv", "main", "sharing");
    assert_eq!(sharing["status"], "warning", "{sharing}");
    assert!(
        sharing.to_string().contains("default/sql/main"),
        "{sharing}"
    );
    let advice = sharing["advice"].as_str().unwrap();
    assert!(advice.contains("databases of their own"), "{sharing}");
    for name in ["bucket", "google"] {
        assert_eq!(found(&report, "blob", name, "clock")["status"], "ok");
        let rights = found(&report, "blob", name, "rights")["found"].as_str();
        assert!(rights.unwrap().contains("write under a condition"));
    }
    // What it wrote to see whether it may is gone.
    let left = std::fs::read_dir(gateway.bucket().join("doctor"));
    assert_eq!(left.map_or(0, Iterator::count), 0);
    let asked = google.google.requests();
    let count = |what: &str| asked.iter().filter(|line| line.starts_with(what)).count();
    assert_eq!(count("DELETE "), 1, "{asked:?}");
    // For people, the same.
    let output = doctor(folder.path(), &config, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("sql main of default (postgresql)"), "{text}");
    assert!(text.contains("write under a condition"), "{text}");
}

#[test]
fn what_cannot_be_used_is_told_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let (Some(gateway), Some(google), Some(server)) =
        (Gateway::start(), GoogleStorage::start(), postgres::shared())
    else {
        return;
    };
    std::fs::write(gateway.secret_file(), "no-secret-of-theirs").unwrap();
    std::fs::write(google.credentials_file(), "no-key-of-theirs").unwrap();
    let database = server.database();
    let role = server.role(&database);
    server.psql(&database, &format!("ALTER ROLE {} CREATEDB", role.name));
    drop(server);
    std::fs::write(folder.path().join("text.db"), "this is no database").unwrap();
    let config = format!(
        "[bindings.namespaces.default.sql.surplus]\n{}\
         [bindings.namespaces.default.sql.away]\n\
         postgres = {{ url = 'postgres://nobody@127.0.0.1:{}/none' }}\n\
         [bindings.namespaces.default.sql.text]\npath = 'text.db'\n\
         [bindings.namespaces.default.blob.bucket]\n{}\
         [bindings.namespaces.default.blob.google]\n{}",
        role.toml(),
        free_port(),
        gateway.toml(""),
        google.toml(""),
    );
    let output = doctor(folder.path(), &config, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let report = json(&output);
    for (capability, name, check, told, advice) in [
        (
            "sql",
            "surplus",
            "rights",
            "it may make databases",
            "binding setup",
        ),
        ("sql", "away", "reach", "refused", "postgres.url"),
        ("sql", "text", "reach", "", "whether the file is a database"),
        ("blob", "bucket", "reach", "credentials", "clocks"),
        ("blob", "google", "reach", "credentials", "may list it"),
    ] {
        let found = found(&report, capability, name, check);
        assert_eq!(found["status"], "failed", "{found}");
        let says = |member: &str| found[member].as_str().unwrap_or_default().to_owned();
        assert!(says("found").contains(told), "{found}");
        assert!(says("advice").contains(advice), "{found}");
    }
    // One that cannot be used hides none of the others.
    assert_eq!(found(&report, "kv", "default", "rights")["status"], "ok");
    let all = format!("{output:?}");
    for secret in ["no-secret-of-theirs", "no-key-of-theirs", &role.password] {
        assert!(!all.contains(secret), "{all}");
    }
}

#[test]
fn a_role_that_may_make_no_tables_is_told() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let [whole, bare, homeless, guests] = [(); 4].map(|()| server.role(&database));
    for name in [&bare.name, &guests.name] {
        let revoke = format!("REVOKE CREATE ON SCHEMA {name} FROM {name}");
        server.psql(&database, &revoke);
    }
    server.psql(&database, &format!("DROP SCHEMA {}", homeless.name));
    drop(server);
    let config = format!(
        "[bindings.namespaces.default.kv.whole]\n{}\
         [bindings.namespaces.default.kv.bare]\n{}\
         [bindings.namespaces.default.kv.homeless]\n{}\
         [bindings.namespaces.default.sql.bare]\n{}",
        whole.toml(),
        bare.toml(),
        homeless.toml(),
        guests.toml(),
    );
    let folder = tempfile::tempdir().unwrap();
    let output = doctor(folder.path(), &config, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let report = json(&output);
    for (capability, name, status, told) in [
        ("kv", "whole", "ok", "own statements"),
        ("kv", "bare", "failed", "may make no tables"),
        ("kv", "homeless", "failed", "no schema"),
        ("sql", "bare", "warning", "may make no tables"),
    ] {
        let found = found(&report, capability, name, "rights");
        assert_eq!(found["status"], status, "{found}");
        assert!(found["found"].as_str().unwrap().contains(told), "{found}");
        assert_eq!(found["advice"].is_null(), status == "ok", "{found}");
    }
}

#[test]
fn too_few_connections_are_told() {
    // PostgreSQL keeps three of them for superusers; the doctor itself needs some.
    let Some(server) = postgres::Postgres::start(&["max_connections=30"]) else {
        return;
    };
    let database = server.database();
    let limited = server.role(&database);
    let limit = format!("ALTER ROLE {} CONNECTION LIMIT 6", limited.name);
    server.psql(&database, &limit);
    let mut config = String::new();
    for (name, role, connections) in [
        ("enough", server.role(&database), 27),
        ("server", server.role(&database), 28),
        ("role", limited, 7),
    ] {
        config += &format!(
            "[bindings.namespaces.default.sql.{name}]\n{}limits = {{ connections = {connections} }}\n",
            role.toml()
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let output = doctor(folder.path(), &config, &["-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    for (name, status, told) in [
        ("enough", "ok", "27 allowed, 27 wanted"),
        ("server", "warning", "27 allowed, 28 wanted"),
        ("role", "warning", "6 allowed, 7 wanted"),
    ] {
        let found = found(&report, "sql", name, "connections");
        assert_eq!(found["status"], status, "{found}");
        assert!(
            found["found"].as_str().unwrap().starts_with(told),
            "{found}"
        );
        if status == "warning" {
            let advice = found["advice"].as_str().unwrap();
            assert!(advice.contains("max_connections"), "{found}");
        }
    }
}

#[test]
fn the_rights_of_the_states_role_are_told_either_way() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let roles = [server.role(&database), server.role(&database)];
    let (plugins, apart) = (server.role(&database), server.role(&server.database()));
    // The second one's tables would be where it may make none.
    let elsewhere = format!("ALTER ROLE {} SET search_path = public", roles[1].name);
    server.psql(&database, &elsewhere);
    drop(server);
    let cluster = format!("127.0.0.1:{}", free_port());
    for (role, status, told) in [
        (&roles[0], "ok", "may make tables"),
        (&roles[1], "failed", "may make no tables"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        // By the name that the state has for it, it would be refused.
        let beside = plugins.toml().replace("@127.0.0.1:", "@127.1:");
        let beside = beside.replace(" }", ", tls = false }");
        let config = format!(
            "[state]\nurl = '{}'\npassword_file = '{}'\n\
             [bindings.namespaces.default.sql.apart]\n{}\
             [bindings.namespaces.default.sql.beside]\n{}",
            role.url,
            role.password_file.display(),
            apart.toml(),
            beside,
        );
        let output = doctor(
            folder.path(),
            &config,
            &[
                "-o",
                "json",
                "--engine",
                "temporal",
                "--temporal-address",
                cluster.as_str(),
            ],
        );
        let report = json(&output);
        let state = &report["diagnoses"][0];
        assert_eq!(state["backend"], "postgres", "{report}");
        let findings = state["findings"].as_array().unwrap();
        let of = |check: &str| findings.iter().find(|it| it["check"] == check);
        assert_eq!(of("version").unwrap()["status"], "ok", "{state}");
        let rights = of("rights").unwrap_or_else(|| panic!("no rights in {state}"));
        assert_eq!(rights["status"], status, "{rights}");
        assert!(rights["found"].as_str().unwrap().contains(told), "{rights}");
        assert_eq!(rights["advice"].is_null(), status == "ok", "{rights}");
        // A binding in the state's own database says so, and one in another does not.
        let sharing = found(&report, "sql", "beside", "sharing");
        assert_eq!(sharing["status"], "warning", "{sharing}");
        let words = sharing["found"].as_str().unwrap();
        assert!(words.contains("the server's own state"), "{sharing}");
        assert_eq!(found(&report, "sql", "apart", "rights")["status"], "ok");
        assert_eq!(report.to_string().matches("\"sharing\"").count(), 1);
        let all = format!("{output:?}");
        assert!(!all.contains(&role.password), "{all}");
    }
}

#[test]
fn what_neo4j_lacks_and_that_two_names_are_one_server_is_told() {
    let open = "dbms.security.allow_csv_import_from_file_urls";
    let setting = format!("{open}=true");
    let Some(neo4j) = neo4j::Neo4j::start(&[setting.as_str()]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let ask = |read_only: bool| {
        let binding = |name: &str, host: &str| {
            format!(
                "[bindings.namespaces.default.graph.{name}]\nread_only = {read_only}\n\
                 neo4j = {{ url = 'neo4j://neo4j@{host}:{}', password_file = '{}', tls = false }}\n",
                neo4j.port,
                neo4j.password_file.display()
            )
        };
        // Nothing in the configuration says that they are one.
        let config = binding("first", "127.0.0.1") + &binding("second", "127.1");
        let output = doctor(folder.path(), &config, &["-o", "json"]);
        (output.status.code(), json(&output))
    };
    let (code, report) = ask(false);
    assert_eq!(code, Some(5), "{report}");
    let sharing = found(&report, "graph", "second", "sharing");
    assert_eq!(sharing["status"], "failed", "{sharing}");
    assert!(
        sharing.to_string().contains("default/graph/first"),
        "{sharing}"
    );
    for name in ["first", "second"] {
        let settings = found(&report, "graph", name, "settings");
        assert_eq!(settings["status"], "warning", "{settings}");
        let advice = settings["advice"].as_str().unwrap();
        assert!(advice.ends_with(&format!(": {open}=false")), "{settings}");
    }
    // Who only reads tells the other nothing.
    let (code, report) = ask(true);
    assert_eq!(code, Some(0), "{report}");
    assert!(!report.to_string().contains("sharing"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_graphs_and_vectors_are_asked() {
    let (Some(neo4j), Some((weaviate, config))) = (
        neo4j::shared().await,
        weaviate::shared().map(|server| (server.toml(), server.config())),
    ) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let good = format!(
        "[bindings.namespaces.default.graph.neo4j]\n{}\
         [bindings.namespaces.default.vector.weaviate]\n{weaviate}",
        neo4j.toml()
    );
    let output = doctor(folder.path(), &good, &["-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    for (capability, name, version) in [
        ("graph", "neo4j", "Neo4j 5."),
        ("vector", "weaviate", "Weaviate 1."),
    ] {
        for check in ["reach", "latency", "version", "rights", "clock"] {
            let found = found(&report, capability, name, check);
            assert_ne!(found["status"], "failed", "{found}");
        }
        let told = found(&report, capability, name, "version")["found"].clone();
        assert!(told.as_str().unwrap().starts_with(version), "{told}");
    }
    assert_eq!(
        found(&report, "graph", "neo4j", "settings")["status"],
        "ok",
        "{report}"
    );
    let rights = found(&report, "graph", "neo4j", "rights");
    assert!(
        rights.to_string().contains("this binding's alone"),
        "{rights}"
    );

    std::fs::write(folder.path().join("wrong"), "not-the-one").unwrap();
    let closed = free_port();
    let (rest, grpc) = (&config.url, config.grpc_url.as_ref().unwrap());
    let key = config.api_key_file.as_ref().unwrap().display();
    let bad = format!(
        "[bindings.namespaces.default.graph.stranger]\n\
         neo4j = {{ url = 'neo4j://neo4j@127.0.0.1:{}', password_file = 'wrong' }}\n\
         [bindings.namespaces.default.graph.away]\n\
         neo4j = {{ url = 'neo4j://neo4j@127.0.0.1:{closed}', password_file = 'wrong' }}\n\
         [bindings.namespaces.default.vector.stranger]\n\
         weaviate = {{ url = '{rest}', grpc_url = '{grpc}', api_key_file = 'wrong' }}\n\
         [bindings.namespaces.default.vector.deaf]\n\
         weaviate = {{ url = '{rest}', grpc_url = 'http://127.0.0.1:{closed}', \
         api_key_file = '{key}' }}\n\
         [bindings.namespaces.default.vector.keyless]\n\
         weaviate = {{ url = '{rest}', grpc_url = '{grpc}', api_key_file = 'none' }}\n\
         [bindings.namespaces.default.vector.away]\n\
         weaviate = {{ url = 'http://127.0.0.1:{closed}' }}\n",
        neo4j.port
    );
    let output = doctor(folder.path(), &bad, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let report = json(&output);
    for (capability, name, check, advice) in [
        ("graph", "stranger", "rights", "password"),
        ("graph", "away", "reach", "start the server"),
        ("vector", "stranger", "rights", "API key"),
        ("vector", "deaf", "reach", "gRPC port"),
        ("vector", "keyless", "rights", "api_key_file"),
        ("vector", "away", "reach", "start the server"),
    ] {
        let found = found(&report, capability, name, check);
        assert_eq!(found["status"], "failed", "{found}");
        let told = found["advice"].as_str().unwrap_or_default();
        assert!(told.contains(advice), "{name}: {found}");
    }
    let all = format!("{output:?}");
    for secret in ["not-the-one", &neo4j.password] {
        assert!(!all.contains(secret), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_secrets_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let manager = SecretManagerStandIn::start().await.unwrap();
    manager.set("billing", "no-one-reads-this-value");
    std::fs::write(folder.path().join("mail.toml"), "from = 'a@example.com'\n").unwrap();
    std::fs::create_dir(folder.path().join("secrets")).unwrap();
    std::fs::write(folder.path().join("secrets/smtp"), "nor-this-one").unwrap();
    let config = format!(
        "[bindings.namespaces.default.config.mail]\nfile = 'mail.toml'\n\
         [bindings.namespaces.default.secrets.files]\nfolder = 'secrets'\n\
         names = {{ password = 'smtp' }}\n\
         [bindings.namespaces.default.secrets.cloud]\ngcp = {}\n\
         names = {{ api-key = 'billing' }}\n",
        manager.toml()
    );
    let ask = async |config: String| {
        let folder = folder.path().to_owned();
        let asked = move || doctor(&folder, &config, &["-o", "json"]);
        tokio::task::spawn_blocking(asked).await.unwrap()
    };
    let output = ask(config.clone()).await;
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    for (capability, name) in [
        ("config", "mail"),
        ("secrets", "files"),
        ("secrets", "cloud"),
    ] {
        let reach = found(&report, capability, name, "reach");
        assert_eq!(reach["status"], "ok", "{reach}");
        // On a busy machine it is slow, and that is told.
        let latency = found(&report, capability, name, "latency");
        assert_ne!(latency["status"], "failed", "{latency}");
    }
    for name in ["files", "cloud"] {
        let found = found(&report, "secrets", name, "rights");
        assert!(
            found["found"].as_str().unwrap().ends_with("can be read"),
            "{found}"
        );
    }
    assert_eq!(found(&report, "secrets", "cloud", "clock")["status"], "ok");
    let all = format!("{output:?}");
    assert!(
        !all.contains("no-one-reads") && !all.contains("nor-this"),
        "{all}"
    );

    // One is not there any more, and Secret Manager is away.
    std::fs::remove_file(folder.path().join("secrets/smtp")).unwrap();
    manager.go_away();
    let output = ask(config).await;
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let report = json(&output);
    for name in ["files", "cloud"] {
        let found = found(&report, "secrets", name, "rights");
        assert_eq!(found["status"], "failed", "{found}");
        assert!(
            found["advice"].as_str().unwrap().contains("put the secret"),
            "{found}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let config = "[inference]\ndevice = 'cpu'\n";
    let options = Options {
        config: Some(config.to_owned()),
        ..Options::default()
    };
    let server = Server::on(&data, options).await.unwrap();
    import(&server.client, "small", &small_model()).await;
    drop(server);
    let output = doctor(folder.path(), config, &["-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    assert_eq!(
        found(&report, "inference", "device", "reach")["found"],
        "cpu"
    );
    let whole = found(&report, "inference", "small", "reach");
    assert!(
        whole["found"].as_str().unwrap().starts_with("whole"),
        "{whole}"
    );
    // A bit of it is turned.
    let blobs = std::fs::read_dir(data.join("models/blobs")).unwrap();
    let blob = blobs.map(|it| it.unwrap().path()).next().expect("a file");
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[0] ^= 1;
    let mut permissions = std::fs::metadata(&blob).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&blob, permissions).unwrap();
    std::fs::write(&blob, bytes).unwrap();
    let output = doctor(folder.path(), config, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let report = json(&output);
    let damaged = found(&report, "inference", "small", "reach");
    assert_eq!(damaged["status"], "failed", "{damaged}");
    let advice = damaged["advice"].as_str().unwrap();
    assert!(advice.contains("heyday model remove small"), "{damaged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_asked() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let ask = |address: &str, namespace: &str| {
        let arguments = [
            "-o",
            "json",
            "--engine",
            "temporal",
            "--temporal-address",
            address,
            "--temporal-namespace",
            namespace,
        ];
        let output = doctor(folder.path(), "", &arguments);
        let report = json(&output);
        let diagnoses = report["diagnoses"].as_array().unwrap();
        let engine = diagnoses.iter().find(|it| it["capability"] == "engine");
        let engine = engine.expect("the engine is among them").clone();
        assert_eq!(engine["backend"], "temporal", "{report}");
        (output.status.code(), engine.to_string())
    };
    let (code, engine) = ask(&address, &namespace);
    assert_eq!(code, Some(0), "{engine}");
    assert!(engine.contains(&namespace), "{engine}");
    let (code, engine) = ask(&address, "nobodys-namespace");
    assert_eq!(code, Some(5), "{engine}");
    assert!(engine.contains("nobodys-namespace"), "{engine}");
    let (code, engine) = ask(&format!("127.0.0.1:{}", free_port()), &namespace);
    assert_eq!(code, Some(5), "{engine}");
    assert!(engine.contains("--temporal-address"), "{engine}");
}
