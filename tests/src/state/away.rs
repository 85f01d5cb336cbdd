//! The state's database goes away and comes back; and it is reached by TLS.

use std::process::Command;

use heyday::state::HostDb;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::Empty;
use crate::support::binary;
use crate::support::certificates::Authority;
use crate::support::postgres::{Postgres, own};
use crate::support::server::{Client, Options, Server};
use crate::support::temporal;
use crate::support::worker::eventually;

/// A server of PostgreSQL with TLS; and what its certificate descends from, as a file.
fn with_tls() -> Option<(Postgres, String, tempfile::TempDir)> {
    crate::support::postgres::programs()?;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("a database's authority");
    let certificate = authority.issue("server");
    let file = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        own(&path);
        path.to_str().unwrap().to_owned()
    };
    let pem = format!("ssl_cert_file={}", file("server.pem", &certificate.pem));
    let key = format!("ssl_key_file={}", file("server.key", &certificate.key));
    own(folder.path());
    let server = Postgres::start(&["ssl=on", &pem, &key])?;
    // Read by the test itself, which is not who PostgreSQL runs as.
    let ca = server.folder().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    Some((server, ca.to_str().unwrap().to_owned(), folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_away_costs_nothing_that_was_acknowledged() {
    let Some(cluster) = temporal::namespace() else {
        return;
    };
    let Some((mut database, ca, _files)) = with_tls() else {
        return;
    };
    let mut state = Empty::on(&database);
    // Only a certificate that is known will do.
    let plain = state.url.clone();
    state.url = format!("{plain}?sslmode=verify-full");
    assert!(HostDb::migrate(&state.location()).await.is_err());
    state.url = format!("{plain}?sslmode=verify-full&sslrootcert={ca}");
    let state = state.migrated().await;
    let mut options = Options::on_temporal(&cluster.0, &cluster.1);
    options.serve = Some(Vec::new());
    options.environment = vec![("HEYDAY_STATE".to_owned(), state.url.clone())];
    let server = Server::with(options).await.unwrap();
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'heyday'";
    assert_eq!(database.psql("postgres", encrypted), "t");
    let client = &server.client;
    client
        .grant("tests.one", "http", "GET:one.example", None)
        .await
        .unwrap();
    let made = client
        .post("/tokens", &json!({ "kind": "worker" }))
        .await
        .unwrap();
    let token = made["token"].as_str().unwrap();
    let send = async |sequence: u32| {
        let worker = "01890000-0000-7000-8000-000000000001";
        let batch = json!({ "worker": worker, "sequence": sequence, "records": [{
            "attempt": {
                "namespace": "default", "run_id": worker, "activity_id": "1",
                "activity_type": "probe.say", "queue": "general-queue", "attempt": 1,
            },
            "said": { "log": {
                "at": "2026-01-01T00:00:00Z", "level": "info",
                "message": format!("batch {sequence}"), "fields": {},
            } },
        }]});
        let request = client
            .http
            .post(format!("{}/api/v1/worker/records", server.url))
            .bearer_auth(token)
            .json(&batch);
        request.send().await.unwrap()
    };
    assert_eq!(send(1).await.status(), StatusCode::NO_CONTENT);

    database.kill();
    // What memory knows is answered, all else is to be asked again.
    let listed = client.get("/grants?subject=tests.one").await.unwrap();
    assert_eq!(listed["grants"].as_array().unwrap().len(), 1);
    let put = || {
        let grant = json!({ "subject": "tests.two", "capability": "http",
            "binding": "GET:two.example" });
        client.request(Method::PUT, "/grants").json(&grant).send()
    };
    for answer in [put().await.unwrap(), send(2).await] {
        assert!(answer.headers().contains_key("retry-after"));
        let problem = Client::refused(answer, StatusCode::SERVICE_UNAVAILABLE).await;
        assert_eq!(problem["type"], "urn:heyday:problems:storage-unavailable");
    }

    database.launch();
    eventually(async || (put().await.unwrap().status() == StatusCode::OK).then_some(())).await;
    // A batch that was not taken is sent again, and one whose answer was lost too.
    for sequence in [2, 2, 1] {
        assert_eq!(send(sequence).await.status(), StatusCode::NO_CONTENT);
    }
    let open = HostDb::open(&state.location()).await.unwrap();
    let run = "01890000-0000-7000-8000-000000000001".parse().unwrap();
    let lines = open.logs("default", run, 0, 9).await.unwrap();
    let lines: Vec<_> = lines.into_iter().map(|line| line.message).collect();
    assert_eq!(lines, ["batch 1", "batch 2"]);
    open.close().await;
    // Changes are followed again.
    let listed = client.get("/grants").await.unwrap();
    assert_eq!(listed["grants"].as_array().unwrap().len(), 2);
    assert!(!server.log().contains(&state.password), "{}", server.log());

    let doctor = || {
        let output = Command::new(binary())
            .args(["doctor", "--engine", "temporal", "-o", "json"])
            .args(["--temporal-address", &cluster.0])
            .args(["--temporal-namespace", &cluster.1])
            .arg("--data")
            .arg(server.data().with_file_name("doctor"))
            .env("HEYDAY_STATE", &state.url)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains(&state.password), "{text}");
        let report: Value = serde_json::from_str(&text).unwrap();
        (output.status.code(), report["diagnoses"][0].clone())
    };
    let (code, found) = doctor();
    assert_eq!(code, Some(0), "{found}");
    let checks: Vec<_> = found["findings"].as_array().unwrap().iter().collect();
    for check in ["reach", "latency", "version", "schema", "rights", "clock"] {
        let of_check = checks.iter().find(|it| it["check"] == check);
        let status = &of_check.unwrap()["status"];
        // On a busy machine it is slow, and that is told.
        let slow = check == "latency" && status == "warning";
        assert!(slow || status == "ok", "{check}: {found}");
    }
    database.kill();
    let (code, found) = doctor();
    assert_eq!(code, Some(5), "{found}");
    assert_eq!(found["findings"][0]["status"], "failed", "{found}");
}
