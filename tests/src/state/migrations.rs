//! `heyday migrate`, and what refuses to start.

use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use heyday::state::{HostDb, StateLocation, newest};
use serde_json::Value;
use sqlx::Connection as _;

use super::Empty;
use crate::support::server::PATIENCE;
use crate::support::{binary, cache};

fn heyday(state: &Empty, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("HEYDAY_STATE", &state.url)
        .env("HEYDAY_CACHE", cache())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end, which must have that code, and must not show the password.
fn ran(state: &Empty, arguments: &[&str], code: i32) -> String {
    let output = heyday(state, arguments).output().expect("it starts");
    ended(state, &output, code)
}

fn ended(state: &Empty, output: &Output, code: i32) -> String {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains(&state.password), "{text}");
    text
}

/// Runs a server that does not start.
fn refused(state: &Empty, arguments: &[&str]) -> String {
    let mut child = heyday(state, arguments).spawn().expect("it starts");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it runs: {arguments:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let code = output.status.code().unwrap();
    assert!([2, 4].contains(&code), "{output:?}");
    ended(state, &output, code)
}

async fn pretend(state: &Empty, statement: &'static str) {
    let mut connection = sqlx::PgConnection::connect(&state.url).await.unwrap();
    sqlx::query(statement)
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_again_or_at_once_changes_nothing_more() {
    let Some(state) = Empty::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let check = ["migrate", "--check", "--data", data];
    let text = ran(&state, &check, 5);
    assert!(text.contains("schema 0"), "{text}");
    let serve = [
        "serve", "--engine", "temporal", "--port", "0", "--data", data,
    ];
    let text = refused(&state, &serve);
    assert!(text.contains("heyday migrate"), "{text}");
    // From four processes at once: one does it.
    let migrate = ["migrate", "-o", "json", "--data", data];
    let all: Vec<Child> = (0..4)
        .map(|_| heyday(&state, &migrate).spawn().expect("it starts"))
        .collect();
    let found: Vec<u64> = all
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            ended(&state, &output, 0);
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(told["schema"], newest());
            told["found"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(
        found.iter().filter(|found| **found == 0).count(),
        1,
        "{found:?}"
    );
    ran(&state, &check, 0);
    let text = ran(&state, &["migrate", "--data", data], 0);
    assert!(text.contains("already"), "{text}");
    assert!(text.contains(":***@"), "{text}");
    HostDb::open(&state.location()).await.unwrap().close().await;
    // What a newer version wrote is left alone.
    pretend(&state, "UPDATE heyday_schema SET version = 999").await;
    for text in [
        ran(&state, &check, 5),
        ran(&state, &["migrate", "--data", data], 5),
        refused(&state, &serve),
    ] {
        assert!(text.contains("999") && text.contains("newer"), "{text}");
    }
    // An older one is named with what to do.
    pretend(&state, "UPDATE heyday_schema SET version = 1").await;
    let text = refused(&state, &serve);
    assert!(
        text.contains("schema 1") && text.contains("heyday migrate"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_share_a_state_is_refused() {
    let Some(state) = Empty::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let text = refused(&state, &["up", "--port", "0", "--data", data]);
    assert!(text.contains("--engine temporal"), "{text}");
    // Everybody on the machine would see it.
    let typed = ["up", "--engine", "temporal", "--port", "0", "--data", data];
    let output = heyday(&state, &typed)
        .env_remove("HEYDAY_STATE")
        .args(["--state", &state.url])
        .output()
        .unwrap();
    let text = ended(&state, &output, 2);
    assert!(text.contains("HEYDAY_STATE"), "{text}");
    // A data folder with another token would open nothing at the other servers.
    let state = state.migrated().await;
    let open = HostDb::open(&state.location()).await.unwrap();
    open.operator_token(&[7; 32]).await.unwrap();
    open.close().await;
    let token = folder.path().join("token");
    std::fs::write(&token, "a-token-of-another-server\n").unwrap();
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let serve = [
        "serve", "--engine", "temporal", "--port", "0", "--data", data,
    ];
    let text = refused(&state, &serve);
    assert!(text.contains("--token-file"), "{text}");
    let file = token.to_str().unwrap();
    ran(
        &state,
        &["migrate", "--token-file", file, "--data", data],
        0,
    );
    let open = HostDb::open(&state.location()).await.unwrap();
    let known = open.known_operator_token().await.unwrap();
    open.close().await;
    assert_eq!(
        known,
        Some(heyday::auth::digest("a-token-of-another-server"))
    );
}

#[test]
fn a_file_is_migrated_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        Command::new(binary())
            .args(arguments)
            .arg("--data")
            .arg(folder.path())
            .env_remove("HEYDAY_STATE")
            .output()
            .unwrap()
    };
    assert_eq!(run(&["migrate", "--check"]).status.code(), Some(5));
    assert_eq!(run(&["migrate"]).status.code(), Some(0));
    assert_eq!(run(&["migrate"]).status.code(), Some(0));
    assert_eq!(run(&["migrate", "--check"]).status.code(), Some(0));
    let location = StateLocation::File(folder.path().join("host.db"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let found = runtime.block_on(HostDb::schema(&location)).unwrap();
    assert_eq!(found, newest());
}
