//! What plugins say, shown by the real command line: it belongs to its attempt, and it
//! cannot drive a terminal or forge lines of others.

use std::process::Stdio;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::probe;
use crate::support::server::{Client, Options, PATIENCE};
use crate::support::worker::eventually;

/// Clears a screen, retitles a window, hides a text, and begins a line of its own.
const HOSTILE: &str = "a\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\r\n12:00:00.000 INFO  other.plugin forged\u{202e}\u{8}\u{7f}\0";

/// A command of the built `heyday` that asks what the client does.
fn heyday(client: &Client, words: &[&str]) -> Command {
    let mut command = Command::new(crate::support::binary());
    command
        .args(words)
        .env("HEYDAY_SERVER", client.url())
        .env("HEYDAY_TOKEN", client.token())
        .env_remove("HEYDAY_TOKEN_FILE")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Both outputs of a command together.
async fn shown(client: &Client, words: &[&str]) -> String {
    let output = heyday(client, words).output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .expect("it ends")
        .unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push_str(&String::from_utf8(output.stderr).unwrap());
    text
}

pub(crate) fn assert_harmless(text: &str) {
    let harmful = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
    assert!(!text.contains(harmful), "{text:?}");
}

async fn hostile_run(client: &Client) -> String {
    let input = json!({
        "lines": [HOSTILE, "x".repeat(200_000)],
        "progress": HOSTILE,
        "failure": [HOSTILE, HOSTILE],
    });
    let id = client.start_activity("probe.say", &input).await.unwrap();
    assert_eq!(client.result(&id).await.unwrap().status, "Failed");
    // What one server wrote down, another one may find a little later.
    eventually(async || {
        let lines = client.logs(&id).await.unwrap();
        (lines.len() >= 2).then_some(())
    })
    .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_texts_are_shown_safely() {
    let server = probe::server(Options::default()).await.unwrap();
    let message = hostile_texts(&server.client).await;
    assert_eq!(message, HOSTILE, "nothing is lost");
    assert_harmless(&server.log());
}

/// Of the probe; answers the first line as it was kept.
pub(crate) async fn hostile_texts(client: &Client) -> Value {
    let id = hostile_run(client).await;
    let logs = shown(client, &["workflow", "logs", &id]).await;
    assert_harmless(&logs);
    assert!(logs.contains("a\\u{1b}[2J"), "{logs}");
    // A line of the message's own is set in: it does not begin as a line of the log does.
    for line in logs.lines().filter(|line| line.contains("forged")) {
        let own = line.contains("probe.say") || line.starts_with("      ");
        assert!(own, "{line:?}");
    }
    assert!(logs.len() < 100_000, "a huge line is cut: {}", logs.len());
    for command in ["show", "result", "history", "events", "receipts"] {
        assert_harmless(&shown(client, &["workflow", command, &id]).await);
    }
    let as_json = shown(client, &["workflow", "logs", &id, "-o", "json"]).await;
    assert_harmless(&as_json);
    let page: Value = serde_json::from_str(&as_json).unwrap();
    assert_eq!(page["logs"][0]["fields"]["line"], HOSTILE);
    assert_eq!(page["logs"][1]["message"].as_str().unwrap().len(), 200_000);
    let message = page["logs"][0]["message"].clone();
    // All but what no text of PostgreSQL has.
    let kept = HOSTILE.trim_end_matches('\0');
    assert!(message.as_str().unwrap().starts_with(kept), "{message}");
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_shown_safely() {
    let server = probe::server(Options::default()).await.unwrap();
    hostile_names(&server.client).await;
    assert_harmless(&server.log());
}

/// Ends the run that it begins.
pub(crate) async fn hostile_names(client: &Client) {
    let flow = "
document: {dsl: 1.0.3, namespace: tests, name: idle, version: 1.0.0}
do: [{pause: {wait: PT1H}}]
";
    let pushed = client.push_flow(flow).await.unwrap();
    assert!(pushed.status().is_success());
    let name = HOSTILE.trim_end_matches('\0');
    let body = json!({"workflow_type": "tests.idle", "workflow_id": name, "memo": {name: name}});
    client.post("/workflows", &body).await.unwrap();
    for words in [
        &["workflow", "list"][..],
        &["workflow", "show", name],
        &["workflow", "events", name],
        &["workflow", "result", name, "--wait=1ms"],
        &["workflow", "terminate", name, "--reason", name],
        &["workflow", "result", name],
        &["workflow", "list", "--query", name],
        &["workflow", "show", &format!("{name}?")],
    ] {
        assert_harmless(&shown(client, words).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_followed_while_they_are_written() {
    let server = probe::shared();
    followed_lines(&server.client).await;
}

/// Of the probe.
pub(crate) async fn followed_lines(client: &Client) {
    let id = client
        .start_activity("probe.wait_for_cancel", &Value::Null)
        .await
        .unwrap();
    let mut child = heyday(client, &["workflow", "logs", &id, "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let read = async {
        let first = lines.next_line().await?.context("a line")?;
        // It is there before the run has ended.
        client.cancel(&id).await?;
        let second = lines.next_line().await?.context("another line")?;
        let rest = lines.next_line().await?;
        anyhow::Ok((first, second, rest, child.wait().await?))
    };
    let read = tokio::time::timeout(PATIENCE, read).await.expect("it ends");
    let (first, second, rest, status) = read.unwrap();
    assert!(
        first.ends_with("INFO  probe.wait_for_cancel waiting"),
        "{first}"
    );
    assert!(
        second.ends_with("probe.wait_for_cancel cleaned up reason=\"cancel-requested\""),
        "{second}"
    );
    assert_eq!(rest, None);
    assert!(status.success());
}
