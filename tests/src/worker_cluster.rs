//! Workers and their cluster: away at the start, away later, and there again.

use reqwest::StatusCode;
use serde_json::json;

use crate::support::ports::free_port;
use crate::support::temporal::{DevServer, binary};
use crate::support::worker::{Site, eventually};
use crate::workers::push_flow;

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
