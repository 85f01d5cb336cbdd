//! A run's events and log lines while it runs: over the API, as any client of server-sent
//! events reads them, and on the command line.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::http_server;
use crate::support::probe;
use crate::support::server::{Client, Options, PATIENCE};

/// One server-sent event.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: Value,
}

/// A stream of them.
pub(crate) struct Stream {
    response: Response,
    rest: String,
}

impl Stream {
    pub(crate) async fn open(client: &Client, path: &str, after: Option<u64>) -> Self {
        let mut request = client.request(Method::GET, path);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            rest: String::new(),
        }
    }

    /// The next event; `None` at the end. Comments keep the connection and say nothing.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.rest.split_once("\n\n") {
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("event", name)) => event.name = name.to_owned(),
                        Some(("id", id)) => event.id = Some(id.parse().unwrap()),
                        Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                        _ => {}
                    }
                }
                self.rest = rest.to_owned();
                if !event.name.is_empty() {
                    return Some(event);
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("an event in time").unwrap()?;
            self.rest.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

/// Waits at the test's gate, then runs an activity that tells how far it is.
pub(crate) const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: gated, version: 1.0.0}
do:
  - gate: {call: http, with: {method: get, endpoint: 'http://GATE/gate'}}
  - talk: {call: probe.talk, with: {}, input: {from: 'null'}}
";

#[tokio::test(flavor = "multi_thread")]
async fn events_come_live_and_again_from_where_a_client_was() {
    let (gate, permits) = http_server::gate().await.unwrap();
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let flow = FLOW.replace("GATE", &gate.to_string());
    Client::ok(client.push_flow(&flow).await.unwrap())
        .await
        .unwrap();
    client
        .grant("tests.gated", "http", &format!("GET:{gate}"), None)
        .await
        .unwrap();
    let id = client.start("tests.gated", &Value::Null).await.unwrap();
    let path = format!("/workflows/{id}/events");

    // A client that goes away while the run is at the gate.
    let is_scheduled = |event: &Event| event.data["event_type"] == "ActivityTaskScheduled";
    let mut first = Stream::open(client, &path, None).await;
    let mut begun = Vec::new();
    while !begun.last().is_some_and(is_scheduled) {
        begun.push(first.next().await.expect("an event"));
    }
    drop(first);
    let ids: Vec<_> = begun.iter().map(|event| event.id).collect();
    let expected: Vec<_> = (1..=begun.len() as u64).map(Some).collect();
    assert_eq!(ids, expected);
    assert!(begun.iter().all(|event| event.name == "history"));

    // It comes back with the first event's id: the others come again, and what is new.
    let mut again = Stream::open(client, &path, Some(1)).await;
    let desk = Desk::new(&server).unwrap();
    let mut watched = desk
        .watch(&format!("heyday workflow events {id} --follow"))
        .unwrap();
    let (mut last, mut progress, mut end) = (1, None, None);
    while let Some(event) = again.next().await {
        match event.name.as_str() {
            "history" => {
                assert_eq!(event.id, Some(last + 1), "{event:?}");
                assert_eq!(event.data["event_id"], last + 1);
                last += 1;
                if last == begun.len() as u64 {
                    // Both streams are open, so that neither misses the progress.
                    watched.line("ActivityTaskScheduled").await.unwrap();
                    permits.add_permits(1);
                }
            }
            "progress" => progress = Some(event),
            "end" => {
                assert_eq!(event.data, json!({ "type": "end", "status": "Completed" }));
                end = Some(event.id);
            }
            other => panic!("{other}: {event:?}"),
        }
    }
    let progress = progress.expect("a progress event");
    assert_eq!(progress.id, None, "{progress:?}");
    for (member, expected) in [
        ("completed", json!(3)),
        ("total", json!(10)),
        ("message", json!("reading")),
    ] {
        assert_eq!(progress.data["progress"][member], expected, "{progress:?}");
    }
    let history = client
        .get(&format!("/workflows/{id}/history?limit=1000"))
        .await
        .unwrap();
    assert_eq!(history["events"].as_array().unwrap().len() as u64, last);
    assert_eq!(end, Some(Some(last)), "the end has the last event's id");
    let (lines, code) = watched.end().await.unwrap();
    assert_eq!(code, Some(0), "{lines:#?}");
    for told in ["reading", "WorkflowExecutionCompleted"] {
        assert!(
            lines.iter().any(|line| line.contains(told)),
            "{told} in {lines:#?}"
        );
    }

    // Whoever has heard all is told so, and an id is an id.
    for (after, status) in [
        (last.to_string(), StatusCode::NO_CONTENT),
        ("soon".to_owned(), StatusCode::BAD_REQUEST),
    ] {
        let response = client
            .request(Method::GET, &path)
            .header("last-event-id", after)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_are_followed_to_the_end_of_the_run() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let desk = Desk::new(&server).unwrap();
    let id = client
        .start_activity("probe.wait_for_cancel", &Value::Null)
        .await
        .unwrap();
    let mut watched = desk
        .watch(&format!("heyday workflow logs {id} --follow"))
        .unwrap();
    watched.line("waiting").await.unwrap();
    client.cancel(&id).await.unwrap();
    watched.line("cleaned up").await.unwrap();
    let (lines, code) = watched.end().await.unwrap();
    assert_eq!((lines, code), (Vec::new(), Some(0)));

    // After the end, `--follow` says all that was said, and after its last line nothing.
    let line = format!("heyday workflow logs {id} --follow");
    let ran = desk.run("", &line).await.unwrap().ok();
    ran.says("waiting").says("cleaned up");
    let mut stream = Stream::open(client, &format!("/workflows/{id}/logs?follow=true"), None).await;
    let mut ids = Vec::new();
    while let Some(event) = stream.next().await {
        assert_eq!(event.name, "log");
        ids.push(event.id.expect("an id"));
    }
    assert_eq!(ids.len(), 2);
    let response = client
        .request(Method::GET, &format!("/workflows/{id}/logs?follow=true"))
        .header("last-event-id", ids[0])
        .send()
        .await
        .unwrap();
    let rest = response.text().await.unwrap();
    assert!(
        rest.contains("cleaned up") && !rest.contains("waiting"),
        "{rest}"
    );
}
