//! Receipts: of many attempts page by page; and those that a crash takes are there again
//! after the next start, once.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use crate::support::cli::Desk;
use crate::support::probe;
use crate::support::server::{Client, Options, PATIENCE};

const MANY: &str = "
document: {dsl: 1.0.3, namespace: tests, name: many, version: 1.0.0}
do:
  - each:
      for: {each: n, in: '[range(60)]'}
      do: [{echo: {call: probe.echo, with: {n: '${ $n }'}}}]
";

#[tokio::test(flavor = "multi_thread")]
async fn many_receipts_come_page_by_page() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    Client::ok(client.push_flow(MANY).await.unwrap())
        .await
        .unwrap();
    let id = client.start("tests.many", &Value::Null).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);

    let path = format!("/workflows/{id}/receipts");
    let first = client.get(&path).await.unwrap();
    assert_eq!(first["receipts"].as_array().unwrap().len(), 50);
    assert!(first["next_page_token"].is_string(), "{first}");
    let all = client
        .rows(&format!("{path}?page_size=7"), "receipts")
        .await
        .unwrap();
    let ids: BTreeSet<_> = all
        .iter()
        .map(|it| it["activity_id"].as_str().unwrap())
        .collect();
    assert_eq!((all.len(), ids.len()), (60, 60));
    assert!(
        all.is_sorted_by_key(|it| it["started_at"].as_str().map(|at| {
            let at: jiff::Timestamp = at.parse().unwrap();
            at
        }))
    );
    assert_eq!(all[..50], first["receipts"].as_array().unwrap()[..]);
    for wrong in ["page_size=0", "page_size=1001", "page_token=nothing"] {
        let request = client.request(Method::GET, &format!("{path}?{wrong}"));
        let problem = request.send().await.unwrap();
        Client::refused(problem, StatusCode::BAD_REQUEST).await;
    }

    // On the command line all of them, in either form.
    let desk = Desk::new(&server).unwrap();
    let command = format!("heyday workflow receipts {id}");
    let shown = desk.run("", &command).await.unwrap().ok();
    assert_eq!(shown.stdout.matches("probe.echo").count(), 60, "{shown}");
    let pages = desk.run("", &format!("{command} -o json")).await.unwrap();
    let pages = pages.ok();
    assert_eq!(
        pages.stdout.matches("\"probe.echo\"").count(),
        60,
        "{pages}"
    );
}

/// Waits until the run has so many receipts: they are rebuilt in the background.
async fn receipts(client: &Client, id: &str, count: usize) -> Vec<Value> {
    let look = async {
        loop {
            let receipts = client.receipts(id).await.unwrap();
            if receipts.len() >= count {
                return receipts;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .expect("the receipts come")
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_that_a_crash_took_are_rebuilt() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let before = client
        .start_activity("probe.echo", &json!(1))
        .await
        .unwrap();
    client.result(&before).await.unwrap();
    assert_eq!(client.receipts(&before).await.unwrap().len(), 1);

    // Nothing more can be written to host.db, and so no receipt; the history goes on.
    let url = format!("sqlite://{}", server.data().join("host.db").display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut database)
        .await
        .unwrap();
    let ended = client
        .start_activity("probe.echo", &json!(2))
        .await
        .unwrap();
    let outcome = client.result(&ended).await.unwrap();
    assert_eq!(outcome.status, "Completed");
    let failed = client
        .start_activity("probe.fail", &json!({"kind": "k", "retryable": true}))
        .await
        .unwrap();
    assert_eq!(client.result(&failed).await.unwrap().status, "Failed");
    let cut_off = client
        .start_activity("probe.wait_for_cancel", &Value::Null)
        .await
        .unwrap();
    let run = client.get(&format!("/workflows/{cut_off}")).await.unwrap();
    assert_eq!(run["status"], "Running");

    let server = {
        let dead = server.kill_and_restart(Options::default());
        // The new one needs its database.
        let free = async {
            sqlx::query("ROLLBACK")
                .execute(&mut database)
                .await
                .unwrap();
        };
        tokio::join!(dead, free).0.unwrap()
    };
    database.close().await.unwrap();
    let client = &server.client;
    let of_ended = receipts(client, &ended, 1).await;
    assert_eq!(of_ended.len(), 1);
    assert_eq!(of_ended[0]["outcome"], "completed");
    assert_eq!(of_ended[0]["activity_type"], "probe.echo");
    assert_eq!(of_ended[0]["queue"], "general-queue");
    assert!(of_ended[0]["counters"]["wall_us"].as_u64() > Some(0));
    let of_failed = receipts(client, &failed, 3).await;
    let attempts: Vec<u64> = of_failed
        .iter()
        .filter_map(|r| r["attempt"].as_u64())
        .collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert!(of_failed.iter().all(|receipt| receipt["outcome"] == "k"));
    let lost = receipts(client, &cut_off, 1).await;
    assert_eq!(lost[0]["outcome"], "worker-lost");
    assert_eq!(lost[0]["counters"]["lost"], 1);
    assert_eq!(client.receipts(&before).await.unwrap().len(), 1);

    // Once more changes nothing.
    let server = server.kill_and_restart(Options::default()).await.unwrap();
    let client = &server.client;
    assert_eq!(receipts(client, &ended, 1).await, of_ended);
    assert_eq!(receipts(client, &failed, 3).await, of_failed);
}
