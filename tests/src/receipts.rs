//! Receipts: of many attempts page by page; and those that a crash takes are there again
//! after the next start, once.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use crate::support::cli::Desk;
use crate::support::http_server::{cut, serve};
use crate::support::probe;
use crate::support::server::{Client, Options, PATIENCE, Server};

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

/// Serves an answer, one that is cut off half-way, and one that does not go on.
async fn answers() -> std::net::SocketAddr {
    let half = || stream::once(async { Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 1_000])) });
    let router = Router::new()
        .route("/whole", post(async |_: String| "twelve bytes"))
        .route(
            "/cut",
            get(async move || Body::from_stream(half().chain(cut()))),
        )
        .route(
            "/hangs",
            get(async move || {
                let never = stream::pending::<std::io::Result<Bytes>>();
                Body::from_stream(half().chain(never))
            }),
        );
    serve(router).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flows_own_call_leaves_what_it_used_however_it_ends() {
    let address = answers().await;
    let server = Server::start().await.unwrap();
    let client = &server.client;
    let start = async |name: &str, with: &str, heyday: &str| {
        let flow = format!(
            "document: {{dsl: 1.0.3, namespace: tests, name: {name}, version: 1.0.0}}
do:
  - ask:
      call: http
      with: {{endpoint: 'http://{address}/{name}', {with}}}
      metadata: {{heyday: {{{heyday}}}}}
"
        );
        Client::ok(client.push_flow(&flow).await.unwrap())
            .await
            .unwrap();
        let flow = format!("tests.{name}");
        let rule = format!("*:{address}");
        client.grant(&flow, "http", &rule, None).await.unwrap();
        client.start(&flow, &Value::Null).await.unwrap()
    };
    let once = "retry: {maximum_attempts: 1}";

    let whole = start("whole", "method: post, body: {n: 1}", once).await;
    let outcome = client.result(&whole).await.unwrap();
    assert_eq!(outcome.body["result"], "twelve bytes", "{}", outcome.body);
    let receipts = client.receipts(&whole).await.unwrap();
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    let counters = &receipts[0]["counters"];
    for (name, amount) in [
        ("http.calls", 1_u64),
        ("http.bytes_written", 7),
        ("http.bytes_read", 12),
        // As JSON.
        ("output_bytes", 14),
    ] {
        assert_eq!(counters[name], amount, "{name}: {counters}");
    }
    assert!(counters["wall_us"].as_u64() > Some(0), "{counters}");
    assert!(counters["queue_us"].is_u64(), "{counters}");
    assert!(counters.get("cpu_us").is_none(), "{counters}");

    let cut_off = start("cut", "method: get", once).await;
    let outcome = client.result(&cut_off).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    let receipts = client.receipts(&cut_off).await.unwrap();
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    let counters = &receipts[0]["counters"];
    assert_eq!(counters["http.calls"], 1, "{counters}");
    assert_eq!(counters["http.bytes_read"], 1_000, "{counters}");
    assert!(counters["wall_us"].as_u64() > Some(0), "{counters}");
    assert!(counters.get("output_bytes").is_none(), "{counters}");

    // Again and again, for on a busy machine the time may be over before anything came.
    let again = "timeouts: {start_to_close: PT1S}, \
                 retry: {initial_interval: {milliseconds: 20}, backoff_coefficient: 1, maximum_attempts: 0}";
    let hangs = start("hangs", "method: get", again).await;
    let timed_out = async {
        loop {
            let receipts = client.receipts(&hangs).await.unwrap();
            let read = |one: &&Value| one["counters"]["http.bytes_read"] == 1_000;
            if let Some(one) = receipts.iter().find(read) {
                return one.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let receipt = tokio::time::timeout(PATIENCE, timed_out).await;
    let receipt = receipt.expect("an attempt that read something");
    assert_eq!(receipt["outcome"], "timeout", "{receipt}");
    assert_eq!(receipt["counters"]["http.calls"], 1, "{receipt}");
    assert!(
        receipt["counters"]["wall_us"].as_u64() > Some(0),
        "{receipt}"
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
