//! Workers and their cluster: away at the start, away later, and there again; behind TLS that asks
//! for certificates and an API key; refusing to be polled. And a server, or a namespace of the
//! cluster, that is not there at the start.

use std::process::Command;

use reqwest::StatusCode;
use serde_json::json;

use crate::division::start_gated;
use crate::plugins::all_receipts;
use crate::support::certificates::{Authority, Files};
use crate::support::front::Front;
use crate::support::handmade::Handmade;
use crate::support::ports::free_port;
use crate::support::temporal::{DevServer, binary};
use crate::support::worker::{Site, eventually};
use crate::workers::{push_flow, start_two_steps};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_ready_while_its_cluster_is_there() {
    if binary().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("temporal.db");
    let port = free_port();
    let site = Site::at(format!("127.0.0.1:{port}"), "default".to_owned(), &[], "").await;
    let token = site.token(&[]).await;
    let mut worker = site.begin(&token, &[]);
    for path in ["/health/startup", "/health/ready"] {
        let told = async || {
            let (status, text) = worker.get(path).await?;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {text}");
            text.contains("the Temporal cluster was not reached yet")
                .then_some(())
        };
        eventually(told).await;
    }
    worker.until("/health/live", StatusCode::OK).await.unwrap();

    let cluster = DevServer::start(port, &[], Some(&file));
    worker.until_ready().await.unwrap();
    drop(cluster);
    let problem = worker.until("/health/ready", StatusCode::SERVICE_UNAVAILABLE);
    let problem = problem.await.unwrap();
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("the Temporal cluster does not answer"),
        "{problem}"
    );
    // No reason for a restart, and it has started once and for all.
    for path in ["/health/live", "/health/startup"] {
        worker.until(path, StatusCode::OK).await.unwrap();
    }

    let _cluster = DevServer::start(port, &[], Some(&file));
    worker.until_ready().await.unwrap();
    site.server.wait_for_engine().await.unwrap();
    push_flow(&site, "small", "  - only: {set: {x: 1}}\n").await;
    let outcome = site.server.client.run("tests.small", &json!({})).await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_begins_before_its_server_is_alive_and_not_ready() {
    let Some(mut site) = Site::start().await else {
        return;
    };
    let token = site.token(&[]).await;
    site.server.kill();
    let mut worker = site.begin(&token, &[]);
    for path in ["/health/startup", "/health/ready"] {
        let told = async || {
            let (status, text) = worker.get(path).await?;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {text}");
            text.contains("Heyday's server was not reached yet: ")
                .then_some(())
        };
        eventually(told).await;
    }
    // No reason for a restart.
    worker.until("/health/live", StatusCode::OK).await.unwrap();
    let (status, text) = worker.get("/metrics").await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
    site.server.start_again().await.unwrap();
    worker.until_ready().await.unwrap();
    for path in ["/health/live", "/health/startup"] {
        worker.until(path, StatusCode::OK).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_the_cluster_lacks_is_waited_for_while_others_are_served() {
    let Some(site) = Site::start().await else {
        return;
    };
    let late = format!("late-{}", site.namespace);
    let worker = site
        .worker(&["--namespace", "default", "--namespace", &late])
        .await;
    let warned = async || worker.log().contains("cannot be served").then_some(());
    eventually(warned).await;
    push_flow(&site, "small", "  - only: {set: {x: 1}}\n").await;
    let outcome = site.server.client.run("tests.small", &json!({})).await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);

    // One that was made although that was not answered in time is refused the next time.
    let make = async || {
        let arguments = ["operator", "namespace", "create", "--namespace", &late];
        let made = Command::new(binary().unwrap())
            .args(arguments)
            .args(["--address", &site.address])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&made.stderr);
        (made.status.success() || error.contains("already exists")).then_some(())
    };
    eventually(make).await;
    let served = async || worker.log().contains("is served now").then_some(());
    eventually(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reaches_its_cluster_by_certificates_and_an_api_key_that_change() {
    let Some(mut site) = Site::start().await else {
        return;
    };
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let front = Front::start(&site.address, &old.issue("front"), Some(&old)).await;
    front.require_api_key("first-key");
    // The server reaches it without.
    site.address = front.address();
    let files = Files::new(&old);
    let (first, second) = (old.issue("first"), new.issue("second"));
    files.identify(&first);
    files.authorize("first-key\n");
    let paths = [files.cert(), files.key(), files.ca(), files.api_key()];
    let paths = paths.map(|path| path.to_str().unwrap().to_owned());
    let [cert, key, ca, api_key] = &paths;
    let arguments: [&str; 8] = [
        "--temporal-tls-client-cert-path",
        cert,
        "--temporal-tls-client-key-path",
        key,
        "--temporal-tls-server-ca-cert-path",
        ca,
        "--temporal-api-key-file",
        api_key,
    ];
    let mut worker = site.worker(&arguments).await;
    assert!(front.last_client_is(&first));
    let client = &site.server.client;
    let pushed = client.push(Handmade::default().build(), "").await.unwrap();
    assert_eq!(pushed["active"], true);
    let id = start_two_steps(&site).await;

    // From here on the old ones are refused, and nobody is connected any more.
    front.require_api_key("second-key");
    front.replace_tls(&new.issue("front"), Some(&new));
    files.authorize("second-key\n");
    files.trust(&new);
    files.identify(&second);
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(outcome.body["result"], json!(42), "{}", outcome.body);
    // Where the change took longer than the pause between the steps, the run says nothing of it.
    eventually(async || front.last_client_is(&second).then_some(())).await;
    worker.until_ready().await.unwrap();
    for key in ["first-key", "second-key"] {
        assert!(!worker.log().contains(key), "{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_core_gave_up_is_replaced_while_its_task_goes_on() {
    let Some(mut site) = Site::with(&["--workflows"], "").await else {
        return;
    };
    let authority = Authority::new("authority");
    let certificate = authority.issue("front");
    let front = Front::start(&site.address, &certificate, None).await;
    // The server reaches it without.
    site.address = front.address();
    let files = Files::new(&authority);
    let ca = files.ca();
    let mut worker = site
        .worker(&[
            "--activities-only",
            "--queue",
            "general-queue",
            "--temporal-tls-server-ca-cert-path",
            ca.to_str().unwrap(),
        ])
        .await;
    let client = &site.server.client;
    client.push(Handmade::default().build(), "").await.unwrap();
    push_flow(
        &site,
        "small",
        "  - only: {call: handmade.answer, with: {}}\n",
    )
    .await;
    let (id, gate) = start_gated(&site).await;

    // The polls that are open are cut, and those that follow refused for good (7, which is
    // permission-denied). Core takes that for something that passes, for a minute.
    front.refuse("PollActivityTaskQueue", "7");
    front.replace_tls(&certificate, None);
    let said = "activity tasks are no longer polled";
    eventually(async || worker.log().contains(said).then_some(())).await;
    front.pass("PollActivityTaskQueue");

    let outcome = client.run("tests.small", &json!({})).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let shown = client.get(&format!("/workflows/{id}")).await.unwrap();
    let pending = &shown["pending_activities"][0];
    assert_eq!(pending["state"], "Started", "{shown}");
    assert_eq!(pending["attempt"], 1, "{shown}");
    gate.add_permits(1);
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.body["result"], true, "{}", outcome.body);
    let receipts = all_receipts(client, &id, 1).await;
    assert_eq!(receipts[0]["attempt"], 1, "{receipts:?}");
    assert_eq!(receipts[0]["outcome"], "completed", "{receipts:?}");

    worker.ask_to_stop();
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
    let log = worker.log();
    assert!(!log.contains("did not end in time"), "{log}");
}
