//! What a guest reads when it is asked to stop, on both engines, and who reads what a
//! person wrote.

use serde_json::{Value, json};

use crate::support::probe;
use crate::support::server::{Client, Options};
use crate::support::worker::{Site, eventually};
use crate::workers::push_probe;

/// The reason that the guest of `probe.wait_for_cancel` read.
async fn reason(client: &Client, id: &str) -> Value {
    eventually(async || {
        // A cluster that is busy may leave one of the many questions for its run unanswered.
        let lines = client.logs(id).await.ok()?;
        let last = lines
            .iter()
            .rev()
            .find(|line| line["message"] == "cleaned up")?;
        Some(last["fields"]["reason"].clone())
    })
    .await
}

/// Cancels a run that waits, with words that are for people.
async fn a_cancel_says_so(client: &Client) {
    let id = client.start_waiting().await.unwrap();
    let words = json!({ "reason": "the wrong file" });
    let path = format!("/workflows/{id}/cancel");
    client.post(&path, &words).await.unwrap();
    assert_eq!(reason(client, &id).await, "cancel-requested");
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Canceled", "{}", outcome.body);
    let failure = &outcome.body["failure"];
    assert_eq!(failure["message"], "the wrong file", "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_why_it_is_asked_to_stop() {
    let options = Options {
        config: Some("drain_grace = '10ms'\n".to_owned()),
        ..Options::default()
    };
    let mut server = probe::server(options).await.unwrap();
    a_cancel_says_so(&server.client).await;

    let id = server.client.start_waiting().await.unwrap();
    server.interrupt();
    let ended = server.wait_for_exit().await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", server.log());
    server.start_again().await.unwrap();
    let client = &server.client;
    assert_eq!(reason(client, &id).await, "worker-shutdown");
    // Its policy allows one attempt.
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    let failure = &outcome.body["failure"]["cause"];
    assert_eq!(failure["kind"], "worker-lost", "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_of_a_worker_reads_why_it_is_asked_to_stop() {
    let Some(site) = Site::start().await else {
        return;
    };
    push_probe(&site).await;
    let mut worker = site.worker(&["--drain-grace", "10ms"]).await;
    let client = &site.server.client;
    a_cancel_says_so(client).await;

    // Both at once: it may take some seconds until the worker hears of them.
    let mut tampered = Vec::new();
    for (what, read) in [("pause", "paused"), ("reset", "reset")] {
        let id = client.start_waiting().await.unwrap();
        let run = client.get(&format!("/workflows/{id}")).await.unwrap();
        let activity = run["pending_activities"][0]["activity_id"].as_str();
        site.temporal(&[
            "activity",
            what,
            "--workflow-id",
            &id,
            "--activity-id",
            activity.unwrap(),
        ]);
        tampered.push((id, read));
    }
    for (id, read) in &tampered {
        assert_eq!(reason(client, id).await, *read);
    }

    let id = client.start_waiting().await.unwrap();
    worker.ask_to_stop();
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
    // What the server did not take in the worker's last seconds is sent by the next one there.
    let _next = if worker.has_spooled("cleaned up") {
        Some(site.worker(&[]).await)
    } else {
        None
    };
    assert_eq!(reason(client, &id).await, "worker-shutdown");
}
