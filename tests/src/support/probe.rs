//! The guest `probe` on a server, and what its runs leave behind.

use std::path::PathBuf;

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use super::keeper::Keeper;
use super::server::{Client, Options, Outcome, PATIENCE, Server, log_in};

/// The version that the component says it is.
pub const VERSION: &str = "7.1.1";

/// The component, with another version in it.
pub fn version(version: &str) -> Vec<u8> {
    assert_eq!(version.len(), VERSION.len(), "lengths stand in the binary");
    let mut bytes = super::component("probe");
    let places: Vec<usize> = bytes
        .windows(VERSION.len())
        .enumerate()
        .filter(|(_, window)| *window == VERSION.as_bytes())
        .map(|(place, _)| place)
        .collect();
    assert_eq!(places.len(), 1, "the version stands once in the component");
    bytes[places[0]..places[0] + VERSION.len()].copy_from_slice(version.as_bytes());
    bytes
}

/// The component with a custom section more: other bytes, nothing else.
pub fn other_bytes() -> Vec<u8> {
    let mut bytes = super::component("probe");
    bytes.extend(b"\x00\x05\x04note");
    bytes
}

/// A server with the probe, active, with all that it asks for.
pub async fn server(options: Options) -> anyhow::Result<Server> {
    let server = Server::with(options).await?;
    for capability in ["sql", "blob", "kv", "graph", "vector"] {
        server
            .client
            .grant("probe", capability, "default", None)
            .await?;
    }
    let version = server.client.push(super::component("probe"), "").await?;
    anyhow::ensure!(version["active"] == true, "{version}");
    Ok(server)
}

/// The server that tests share.
static SHARED: Keeper<Server> = Keeper::new();

extern "C" fn stop_shared() {
    SHARED.stop();
}

fn start_shared() -> Option<Server> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    Some(runtime.block_on(server(Options::default())).unwrap())
}

/// As [`server`], without any options, one for all tests that ask for it: for those that keep out
/// of the others' way, as `state::through` runs them side by side too.
pub fn shared() -> Shared {
    let server = SHARED.get(start_shared, stop_shared).expect("it starts");
    Shared {
        // Its connections are of the test's own runtime.
        client: Client::new(&server.url, server.client.token()),
        data: server.data().to_owned(),
    }
}

/// A way to the shared server.
pub struct Shared {
    /// The client, with the token.
    pub client: Client,
    data: PathBuf,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the shared heyday printed:\n{}", log_in(&self.data));
        }
    }
}

impl Client {
    /// Starts one activity and answers its workflow's id.
    pub async fn start_activity(&self, activity: &str, input: &Value) -> anyhow::Result<String> {
        let started = self.post(&format!("/activities/{activity}"), input).await?;
        Ok(started["workflow_id"]
            .as_str()
            .context("no workflow_id")?
            .to_owned())
    }

    /// Runs one activity to its end.
    pub async fn activity(&self, activity: &str, input: &Value) -> anyhow::Result<Outcome> {
        let id = self.start_activity(activity, input).await?;
        self.result(&id).await
    }

    /// Runs one activity that must succeed; answers its output.
    pub async fn succeed(&self, activity: &str, input: &Value) -> anyhow::Result<Value> {
        let outcome = self.activity(activity, input).await?;
        anyhow::ensure!(outcome.status == "Completed", "{}", outcome.body);
        Ok(outcome.body["result"].clone())
    }

    /// Runs one activity that must fail; answers the attempt's failure.
    pub async fn fail(&self, activity: &str, input: &Value) -> anyhow::Result<Value> {
        let outcome = self.activity(activity, input).await?;
        anyhow::ensure!(outcome.status == "Failed", "{}", outcome.body);
        Ok(outcome.body["failure"]["cause"].clone())
    }

    /// Panics unless the server still runs the probe's activities.
    pub async fn works(&self) {
        let sum = self.succeed("probe.add", &json!({ "a": 1, "b": 2 })).await;
        assert_eq!(sum.expect("a sum")["sum"], 3);
    }

    /// The run's receipts.
    pub async fn receipts(&self, id: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("/workflows/{id}/receipts?page_size=1000");
        self.rows(&path, "receipts").await
    }

    /// The run's log lines.
    pub async fn logs(&self, id: &str) -> anyhow::Result<Vec<Value>> {
        let body = self
            .get(&format!("/workflows/{id}/logs?page_size=1000"))
            .await?;
        Ok(body["logs"].as_array().context("no logs")?.clone())
    }

    /// Starts the activity that ends only by a cancel, and waits until its guest runs.
    pub async fn start_waiting(&self) -> anyhow::Result<String> {
        let id = self
            .start_activity("probe.wait_for_cancel", &Value::Null)
            .await?;
        self.wait_for_line(&id, "waiting").await?;
        Ok(id)
    }

    /// Waits until the guest says that line.
    pub async fn wait_for_line(&self, id: &str, line: &str) -> anyhow::Result<()> {
        let response = self
            .request(Method::GET, &format!("/workflows/{id}/logs?follow=true"))
            .send()
            .await?;
        let mut response = response.error_for_status()?;
        let wait = async {
            let mut seen = String::new();
            while let Some(chunk) = response.chunk().await? {
                seen.push_str(&String::from_utf8_lossy(&chunk));
                if seen.contains(line) {
                    return Ok(());
                }
            }
            anyhow::bail!("the run ended without the line {line:?}: {seen}")
        };
        tokio::time::timeout(PATIENCE, wait).await?
    }

    /// Asks the run to stop.
    pub async fn cancel(&self, id: &str) -> anyhow::Result<()> {
        self.post(&format!("/workflows/{id}/cancel"), &json!({}))
            .await?;
        Ok(())
    }
}
