//! Search attributes over the real server: by the API, and by the command line.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::cli::Desk;
use crate::support::probe;
use crate::support::server::{Client, Server};
use crate::support::worker::eventually;

const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: sets, version: 1.0.0}
do:
  - only: {set: {x: 1}}
";

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_found_by_what_they_were_started_with() {
    let server = probe::shared();
    found_by_attributes(&server.client).await;
}

/// Whatever server answers: nobody used the attribute before.
pub(crate) async fn found_by_attributes(client: &Client) {
    let flow = FLOW.replace("sets", "carries");
    let pushed = client.push_flow(&flow).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let start = |id: &str, customer: serde_json::Value| {
        let body = json!({
            "workflow_type": "tests.carries", "workflow_id": id,
            "search_attributes": { "Carries": customer, "Rank": 7 },
        });
        client
            .request(Method::POST, "/workflows")
            .json(&body)
            .send()
    };
    for (id, customer) in [("carries-1", "c-7"), ("carries-2", "c-8")] {
        let started = start(id, json!(customer)).await.unwrap();
        Client::ok(started).await.unwrap();
        let outcome = client.result(id).await.unwrap();
        assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    }
    // A name keeps the type with which it was used first.
    let refused = start("carries-3", json!(8)).await.unwrap();
    let problem = Client::refused(refused, StatusCode::BAD_REQUEST).await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("is Keyword"), "{problem}");
    let run = client.get("/workflows/carries-1").await.unwrap();
    let attributes = &run["search_attributes"];
    assert_eq!(
        attributes["Carries"],
        json!({ "type": "Keyword", "value": "c-7" })
    );
    assert_eq!(attributes["Rank"], json!({ "type": "Int", "value": 7 }));
    for (query, expected) in [
        ("Carries = 'c-7'", vec!["carries-1"]),
        ("Carries = 'nobody'", vec![]),
        (
            "WorkflowType = 'tests.carries' AND Rank > 6",
            vec!["carries-1", "carries-2"],
        ),
    ] {
        // A cluster's lists follow within a moment.
        eventually(async || {
            let path = format!("/workflows?query={query}");
            let list = client.rows(&path, "workflows");
            let mut found: Vec<_> = list
                .await
                .unwrap()
                .iter()
                .map(|run| run["workflow_id"].as_str().unwrap().to_owned())
                .collect();
            found.sort();
            let path = format!("/workflow-count?query={query}");
            let count = client.get(&path).await.unwrap()["count"].as_u64();
            (found == expected && count == Some(found.len() as u64)).then_some(())
        })
        .await;
    }
    let wrong = client.request(Method::GET, "/workflow-count?query=Nobody=1");
    Client::refused(wrong.send().await.unwrap(), StatusCode::BAD_REQUEST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_started_with_found_by_and_counted_by_search_attributes() {
    let server = Server::start().await.unwrap();
    let pushed = server.client.push_flow(FLOW).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    let start = "heyday workflow start tests.sets --search-attribute";
    run(&format!("{start} CustomerId=c-7 --id one --wait"))
        .await
        .ok();
    run(&format!("{start} CustomerId=c-8 --id two --wait"))
        .await
        .ok();
    run(&format!("{start} CustomerId=7 --id three"))
        .await
        .code(2)
        .says("is Keyword: a text");
    run("heyday workflow show one")
        .await
        .ok()
        .says("CustomerId = \"c-7\" (Keyword)");
    let query = "--query \"CustomerId = 'c-7'\"";
    let listed = run(&format!("heyday workflow list {query} -o json"))
        .await
        .ok();
    assert_eq!(listed.json()["workflows"].as_array().unwrap().len(), 1);
    let counted = run(&format!("heyday workflow count {query}")).await.ok();
    assert_eq!(counted.stdout.trim(), "1");
    let counted = run("heyday workflow count -o json").await.ok();
    assert_eq!(counted.json()["count"], 2);
    run("heyday workflow count --query Nobody=1")
        .await
        .code(2)
        .says("a search attribute of a run");
}
