//! Histories as files, replays, and the gate before an activation.

use std::time::Duration;

use super::*;
use crate::replays::GateLimits;

/// A second version of [`WAITS`] that waits otherwise.
const SETS_FIRST: &str = "document: {dsl: '1.0.0', namespace: t, name: waits, version: '1.1.0'}\n\
                          do: [{s: {set: {n: 1}}}, {w: {wait: {hours: 2}}}]\n";
/// A third one that does something else.
const EMITS: &str = "document: {dsl: '1.0.0', namespace: t, name: waits, version: '2.0.0'}\n\
                     do: [{e: {emit: {event: {with: {source: 'urn:t', type: began}}}}}, {w: {wait: {hours: 1}}}]\n";

async fn exported(api: &Api, id: &str) -> Value {
    let answer = api.get(&format!("/api/v1/workflows/{id}/export")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn replay(api: &Api, body: &Value) -> Answer {
    api.post("/api/v1/replays", body.to_string()).await
}

/// Temporal's JSON of a run that has only begun, of that type and with those members.
fn of_temporal(started: &Value) -> Value {
    let mut attributes = json!({
        "workflowType": { "name": "t.waits" }, "taskQueue": { "name": "general-queue" },
        "originalExecutionRunId": "0198f0c4-0000-7000-8000-000000000001", "workflowId": "w",
    });
    for (name, value) in started.as_object().expect("members") {
        attributes[name] = value.clone();
    }
    json!({ "events": [{
        "eventId": "1", "eventTime": "2026-11-27T10:00:00Z",
        "eventType": "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED",
        "workflowExecutionStartedEventAttributes": attributes,
    }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_history_replays_against_its_own_and_other_definitions() {
    let api = api().await;
    api.flow(WAITS).await;
    api.start("w", "t.waits").await;
    let history = exported(&api, "w").await;
    assert_eq!(history["format"], "heyday.history.v1");
    assert_eq!(history["about"]["workflow_id"], "w");
    assert_eq!(history["about"]["ended"], false);

    let own = replay(&api, &json!({ "history": history })).await;
    assert_eq!(own.status, 200, "{}", own.text);
    let own = own.json();
    assert_eq!(
        (&own["agrees"], &own["exact"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(own["definition"]["version"], "1.0.0");
    assert_eq!(own["difference"], Value::Null);

    // The same commands in the same order, with another duration.
    let other = json!({ "history": history, "flow": SETS_FIRST });
    let other = replay(&api, &other).await.json();
    assert_eq!(
        (&other["agrees"], &other["exact"]),
        (&json!(true), &json!(false)),
        "{other}"
    );
    let exact = json!({ "history": history, "flow": SETS_FIRST, "exact": true });
    let exact = replay(&api, &exact).await.json();
    assert_eq!(exact["agrees"], false, "{exact}");
    assert_eq!(exact["difference"]["members"], json!(["duration"]));

    let another = json!({ "history": history, "flow": EMITS });
    let another = replay(&api, &another).await.json();
    assert_eq!(another["agrees"], false, "{another}");
    let difference = &another["difference"];
    assert_eq!(difference["recorded"]["event_type"], "TimerStarted");
    assert_eq!(difference["expected"]["event_type"], "MarkerRecorded");
    assert_eq!(difference["expected"]["task"], "/do/0/e");
    let id = difference["event_id"].as_u64().expect("a number");
    let events = api.get("/api/v1/workflows/w/history").await.json();
    let event = &events["events"][usize::try_from(id).expect("small") - 1];
    assert_eq!(event["event_type"], "TimerStarted", "{events}");

    // A stored version, by its number and as the active one.
    let upload = api.post("/api/v1/flows?activate=false", EMITS).await;
    assert_eq!(upload.status, 201);
    let stored = json!({ "history": history, "version": "2.0.0" });
    assert_eq!(replay(&api, &stored).await.json()["agrees"], false);
    let active = json!({ "history": history, "workflow_type": "t.waits" });
    assert_eq!(replay(&api, &active).await.json()["agrees"], true);

    // An ended one.
    api.flow(SETS).await;
    api.start("s", "t.sets").await;
    api.get("/api/v1/workflows/s/result?wait=30s").await;
    let ended = exported(&api, "s").await;
    assert_eq!(ended["about"]["ended"], true);
    let own = replay(&api, &json!({ "history": ended })).await.json();
    assert_eq!(own["agrees"], true, "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_history_is_refused_by_name() {
    let api = api().await;
    api.flow(WAITS).await;
    api.flow(SETS).await;
    api.start("w", "t.waits").await;
    let good = exported(&api, "w").await;
    let mut cut = good.clone();
    let text = cut["transitions"][0].as_str().expect("text").to_owned();
    cut["transitions"][0] = json!(text[..text.len() / 2 / 4 * 4]);
    let mut none = good.clone();
    none["transitions"] = json!([]);
    let mut newer = good.clone();
    newer["format"] = json!("heyday.history.v2");
    let mut no_base64 = good.clone();
    no_base64["transitions"][0] = json!("***");
    let mut twice = good.clone();
    twice["transitions"] = json!([text, text]);
    let mut gap = of_temporal(&json!({}));
    gap["events"][0]["eventId"] = json!("2");
    let unknown = json!({ "events": [{ "eventId": "1", "eventType": "EVENT_TYPE_OF_TOMORROW" }] });
    for (history, told) in [
        (json!({}), "no history"),
        (json!([]), "does not begin"),
        (json!(7), "neither"),
        (json!({ "format": "heyday.history.v1" }), "transitions"),
        (none, "no event"),
        (cut, "transition 1 cannot be read"),
        (no_base64, "transition 1 cannot be read"),
        (newer, "newer Heyday"),
        (twice, "twice"),
        (json!({ "events": [{}] }), "number"),
        (json!({ "events": "many" }), "events"),
        (unknown, "TOMORROW"),
        (gap, "missing"),
        (of_temporal(&json!({})), "of no flow"),
        (
            of_temporal(&json!({ "originalExecutionRunId": "x" })),
            "no run",
        ),
    ] {
        let answer = replay(&api, &json!({ "history": history })).await;
        let problem = answer.problem(422, "history-unusable");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains(told), "{history}: {detail}");
    }
    let events: Vec<Value> = (0..51_201).map(|_| json!({})).collect();
    let long = replay(&api, &json!({ "history": { "events": events } })).await;
    long.problem(413, "too-large");
    let huge = format!("{{\"history\": \"{}\"}}", "x".repeat(35 << 20));
    let huge = api.post("/api/v1/replays", huge).await;
    huge.problem(413, "too-large");

    let both = json!({ "history": good, "flow": WAITS, "version": "1.0.0" });
    replay(&api, &both).await.problem(400, "invalid-request");
    api.post("/api/v1/replays", "{}")
        .await
        .problem(400, "invalid-request");
    let version = json!({ "history": good, "version": "one" });
    replay(&api, &version).await.problem(400, "invalid-request");
    let missing = json!({ "history": good, "version": "9.0.0" });
    replay(&api, &missing).await.problem(404, "not-found");
    let wrong = json!({ "history": good, "flow": "do: 7" });
    replay(&api, &wrong).await.problem(422, "unusable");
    let other = json!({ "history": good, "workflow_type": "t.sets" });
    let other = replay(&api, &other).await.problem(422, "history-unusable");
    assert!(other["detail"].as_str().expect("text").contains("t.sets"));
    api.get("/api/v1/workflows/nobody/export")
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_belongs_to_its_namespace() {
    let api = api().await;
    api.flow(WAITS).await;
    api.start("w", "t.waits").await;
    let history = exported(&api, "w").await;
    let request = Api::request(Method::POST, "/api/v1/replays").header("heyday-namespace", "other");
    let body = json!({ "history": history, "flow": WAITS }).to_string();
    let problem = api.send(request, body).await;
    let problem = problem.problem(422, "history-unusable");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("\"default\""), "{detail}");
    let request =
        Api::request(Method::GET, "/api/v1/workflows/w/export").header("heyday-namespace", "other");
    api.send(request, Body::empty())
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_runs_are_replayed_before_another_version_is_active() {
    let api = api().await;
    api.flow(WAITS).await;
    // No version was active before.
    assert_eq!(
        api.post("/api/v1/flows", WAITS).await.json()["replay"],
        Value::Null
    );
    api.start("a", "t.waits").await;
    api.start("b", "t.waits").await;

    let refused = api.post("/api/v1/flows?on_divergence=refuse", EMITS).await;
    let problem = refused.problem(409, "replay-diverges");
    assert_eq!(
        problem["replay"]["diverging"].as_array().map(Vec::len),
        Some(2)
    );
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(2));
    // Nothing was stored.
    api.get("/api/v1/flows/t.waits/versions/2.0.0")
        .await
        .problem(404, "not-found");

    let agreeing = api
        .post("/api/v1/flows?on_divergence=refuse", SETS_FIRST)
        .await;
    assert_eq!(agreeing.status, 201, "{}", agreeing.text);
    let gate = &agreeing.json()["replay"];
    assert_eq!(gate["version"], "1.0.0");
    assert_eq!(gate["replayed"], 2);
    assert_eq!(gate["complete"], true);
    assert_eq!(gate["newest_may_be_missing"], false);
    assert_eq!(gate["diverging"], json!([]));

    // The runs of the version before are not those of the active one.
    let informed = api.post("/api/v1/flows", EMITS).await;
    assert_eq!(informed.status, 201, "{}", informed.text);
    assert_eq!(informed.json()["replay"]["replayed"], 0);

    let body = json!({ "version": "1.0.0" }).to_string();
    let back = api
        .post("/api/v1/flows/t.waits/activate", body.clone())
        .await;
    assert_eq!(back.status, 200, "{}", back.text);
    let body2 = json!({ "version": "2.0.0" }).to_string();
    let path = "/api/v1/flows/t.waits/activate?on_divergence=refuse";
    let problem = api.post(path, body2.clone()).await;
    problem.problem(409, "replay-diverges");
    let active = api.get("/api/v1/flows/t.waits").await.json();
    assert_eq!(active["active"], "1.0.0", "{active}");
    let answer = api.post("/api/v1/flows/t.waits/activate", body2).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = answer.json();
    let diverging = answer["replay"]["diverging"].as_array().expect("a list");
    assert_eq!(diverging.len(), 2, "{answer}");
    let mut ids: Vec<_> = diverging.iter().map(|run| &run["workflow_id"]).collect();
    ids.sort_by_key(|id| id.to_string());
    assert_eq!(ids, [&json!("a"), &json!("b")]);
    assert_eq!(diverging[0]["outcome"], "diverges");
    assert_eq!(diverging[0]["difference"]["expected"]["task"], "/do/0/e");

    // 1.0.0 again: a run of 2.0.0 has emitted something that it does not.
    api.start("c", "t.waits").await;
    let path = "/api/v1/flows/t.waits/rollback?on_divergence=refuse";
    api.post(path, Body::empty())
        .await
        .problem(409, "replay-diverges");
    let answer = api
        .post("/api/v1/flows/t.waits/rollback", Body::empty())
        .await;
    let answer = answer.json();
    assert_eq!(answer["version"], "1.0.0", "{answer}");
    assert_eq!(answer["replay"]["diverging"][0]["workflow_id"], "c");
    // They keep their versions.
    let run = api.get("/api/v1/workflows/c").await.json();
    assert_eq!(run["version"], "2.0.0");
    api.post("/api/v1/flows?on_divergence=maybe", WAITS)
        .await
        .problem(400, "invalid-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_came_to_no_end_says_so() {
    let api = api().await;
    api.flow(WAITS).await;
    for id in ["a", "b"] {
        api.start(id, "t.waits").await;
    }
    // Both runs agree with it, but only one is looked at, or none.
    let registry = &api.app.registry;
    let definition = registry.flow_of("default", &SETS_FIRST.into(), false).await;
    let definition = definition.expect("a flow");
    for (runs, time) in [(1, Duration::from_secs(600)), (2, Duration::ZERO)] {
        let limits = GateLimits { runs, time };
        let engine = api.app.engine.as_ref();
        let gate = api.app.replays.gate(engine, "default", &definition, limits);
        let gate = gate.await.expect("another version is active");
        assert!(!gate.complete, "{gate:?}");
        assert!(gate.replayed < 2, "{gate:?}");
        assert!(!gate.agrees());
        let problem = crate::api::replays::refused(&definition, &gate);
        assert_eq!(problem.name, "replay-diverges");
        assert!(
            problem.detail.contains("not all could be replayed"),
            "{problem:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_informs_looks_at_a_hundred_runs() {
    let api = api().await;
    api.flow(WAITS).await;
    let runs = GateLimits::INFORM.runs + 1;
    for run in 0..runs {
        api.start(&format!("run-{run}"), "t.waits").await;
    }
    // Or at fewer, where the machine is slow.
    let informed = api.post("/api/v1/flows", EMITS).await;
    assert_eq!(informed.status, 201, "{}", informed.text);
    let informed = informed.json();
    assert_eq!(informed["active"], true, "{informed}");
    let gate = &informed["replay"];
    assert_eq!(gate["complete"], false);
    let replayed = gate["replayed"].as_u64().expect("a number");
    assert!(replayed < runs as u64, "{replayed}");
    // The rest can be asked for.
    let mut diverging = 0;
    let mut path = "/api/v1/flows/t.waits/versions/2.0.0/replays?page_size=100".to_owned();
    loop {
        let page = api.get(&path).await.json();
        diverging += page["replays"].as_array().expect("a list").len();
        let Some(token) = page["next_page_token"].as_str() else {
            break;
        };
        path = format!(
            "/api/v1/flows/t.waits/versions/2.0.0/replays?page_size=100&page_token={token}"
        );
    }
    assert_eq!(diverging, runs);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_runs_are_replayed_page_by_page() {
    let api = api().await;
    api.flow(WAITS).await;
    for id in ["a", "b", "c"] {
        api.start(id, "t.waits").await;
    }
    assert_eq!(
        api.post("/api/v1/flows?activate=false", EMITS).await.status,
        201
    );
    let path = "/api/v1/flows/t.waits/versions/2.0.0/replays";
    let mut seen = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = match &token {
            None => format!("{path}?page_size=2"),
            Some(token) => format!("{path}?page_size=2&page_token={token}"),
        };
        let page = api.get(&page).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let page = page.json();
        for run in page["replays"].as_array().expect("a list") {
            assert_eq!(run["outcome"], "diverges", "{run}");
            assert_eq!(run["version"], "1.0.0");
            seen.push(run["workflow_id"].as_str().expect("text").to_owned());
        }
        token = page["next_page_token"].as_str().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, ["a", "b", "c"]);
    let own = api
        .get("/api/v1/flows/t.waits/versions/1.0.0/replays")
        .await;
    assert_eq!(own.json()["replays"], json!([]));
    api.get(&format!("{path}?page_size=0"))
        .await
        .problem(400, "invalid-request");
    api.get("/api/v1/flows/t.waits/versions/7.0.0/replays")
        .await
        .problem(404, "not-found");
    api.get(&format!("{path}?page_token=none"))
        .await
        .problem(400, "invalid-request");
}
