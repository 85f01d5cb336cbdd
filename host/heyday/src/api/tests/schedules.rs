//! Schedules by REST, those of flows too.

use super::*;

/// A flow that has a schedule of its own.
fn scheduled(version: &str, schedule: &str) -> String {
    format!(
        "document: {{dsl: '1.0.0', namespace: t, name: timed, version: '{version}'}}\n\
         {schedule}\ndo: [{{s: {{set: {{answer: 42}}}}}}]\n"
    )
}

const FLOW: &str = "/api/v1/schedules/flow%3At.timed";

/// Times that are far away.
fn body(id: &str) -> Value {
    json!({
        "schedule_id": id,
        "spec": {"cron": ["0 3 * * * 2090"], "time_zone": "Europe/Berlin"},
        "action": {"workflow_type": "t.sets", "input": {"n": 1.50}},
    })
}

/// What is wrong with a body.
type Change = fn(&mut Value);

impl Api {
    async fn put(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Self::request(Method::PUT, path), body).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Self::request(Method::DELETE, path), Body::empty())
            .await
    }

    async fn schedule(&self, id: &str) {
        let answer = self.post("/api/v1/schedules", body(id).to_string()).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        assert_eq!(answer.json(), json!({"schedule_id": id}));
    }

    async fn seen(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    async fn upload(&self, text: String) {
        let answer = self.post("/api/v1/flows", text).await;
        assert!(answer.status.is_success(), "{}", answer.text);
    }

    /// Waits until it is so.
    async fn until(&self, path: &str, so: impl Fn(&Value) -> bool) -> Value {
        let looks = async {
            loop {
                let seen = self.seen(path).await;
                if so(&seen) {
                    return seen;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), looks)
            .await
            .expect("it comes true")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_made_shown_changed_and_deleted() {
    let api = api().await;
    api.flow(SETS).await;
    let text = body("a/b").to_string().replace("1.5}", "1.50}");
    let made = api.keyed("/api/v1/schedules", "k", text.clone()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.headers["location"], "/api/v1/schedules/a%2Fb");
    let again = api.keyed("/api/v1/schedules", "k", text.clone()).await;
    assert_eq!((again.status, again.text), (made.status, made.text));
    let path = "/api/v1/schedules/a%2Fb";
    let seen = api.seen(path).await;
    assert_eq!(seen["spec"]["cron"], json!(["0 3 * * * 2090"]));
    assert_eq!(seen["action"]["workflow_id"], "a/b");
    assert_eq!(seen["policies"]["overlap"], "skip");
    assert_eq!(
        seen["info"]["future_action_times"][0],
        "2090-01-01T02:00:00Z"
    );
    let text = api.get(path).await.text;
    assert!(text.contains("\"n\":1.50"), "digits stay: {text}");

    let mut to = body("a/b");
    to.as_object_mut().expect("an object").remove("schedule_id");
    to["action"]["task_queue"] = json!("storage-queue");
    to["policies"] = json!({"overlap": "buffer_one", "catchup_window": "1m"});
    to["state"] = json!({"paused": true, "note": "later"});
    let changed = api.put(path, to.to_string()).await;
    assert_eq!(changed.status, 204, "{}", changed.text);
    let seen = api.seen(path).await;
    assert_eq!(seen["policies"]["catchup_window"], "PT1M");
    assert_eq!(seen["state"]["note"], "later");
    assert_eq!(seen["action"]["task_queue"], "storage-queue");

    assert_eq!(api.delete(path).await.status, 204);
    api.get(path).await.problem(404, "not-found");
    api.delete(path).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_paused_triggered_and_backfilled() {
    let api = api().await;
    api.flow(SETS).await;
    api.schedule("s").await;
    let path = "/api/v1/schedules/s";
    let paused = api
        .post(&format!("{path}/pause"), r#"{"note":"why"}"#)
        .await;
    assert_eq!(paused.status, 204, "{}", paused.text);
    assert_eq!(api.seen(path).await["state"]["note"], "why");
    assert_eq!(api.post(&format!("{path}/trigger"), "").await.status, 204);
    let seen = api
        .until(path, |seen| seen["info"]["action_count"] == 1)
        .await;
    let run = seen["info"]["recent_actions"][0]["workflow_id"]
        .as_str()
        .expect("an id");
    let end = api
        .seen(&format!("/api/v1/workflows/{run}/result?wait=30s"))
        .await;
    assert_eq!(end["result"], json!({"answer": 42}));
    let unpaused = api.post(&format!("{path}/unpause"), "").await;
    assert_eq!(unpaused.status, 204);
    assert_eq!(api.seen(path).await["state"]["paused"], false);
    let backfill = json!({
        "start_time": "2090-01-01T00:00:00Z", "end_time": "2090-01-02T12:00:00Z",
        "overlap": "allow_all",
    });
    let backfilled = api
        .post(&format!("{path}/backfill"), backfill.to_string())
        .await;
    assert_eq!(backfilled.status, 204, "{}", backfilled.text);
    api.until(path, |seen| seen["info"]["action_count"] == 3)
        .await;
    let times = api
        .seen(&format!(
            "{path}/times?from=2090-01-01T00:00:00Z&to=2090-01-03T00:00:00Z"
        ))
        .await;
    assert_eq!(
        times,
        json!({"times": ["2090-01-01T02:00:00Z", "2090-01-02T02:00:00Z"]})
    );
    let page = api.seen("/api/v1/schedules?page_size=1").await;
    assert_eq!(page["schedules"][0]["schedule_id"], "s");
    assert_eq!(page["next_page_token"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_schedule_is_refused_by_name() {
    let api = api().await;
    api.flow(SETS).await;
    api.schedule("s").await;
    let changed = |change: Change| {
        let mut body = body("t");
        change(&mut body);
        body.to_string()
    };
    let mut refusals = vec![
        (body("s").to_string(), 409, "schedule-exists", "\"s\""),
        (
            body("flow:x.y").to_string(),
            409,
            "schedule-of-a-flow",
            "x.y",
        ),
        (body("").to_string(), 400, "invalid-request", "1 to 200"),
    ];
    let changes: [(Change, u16, &str, &str); 11] = [
        (
            |b| b["spec"]["cron"] = json!(["x"]),
            400,
            "invalid-request",
            "cron string",
        ),
        (
            |b| b["spec"]["crom"] = json!([]),
            400,
            "invalid-request",
            "crom",
        ),
        (
            |b| b["spec"]["time_zone"] = json!("Mars"),
            400,
            "invalid-request",
            "Mars",
        ),
        (
            |b| b["spec"]["jitter"] = json!("soon"),
            400,
            "invalid-request",
            "spec: ",
        ),
        (
            |b| b["spec"]["start_time"] = json!("noon"),
            400,
            "invalid-request",
            "spec: ",
        ),
        (
            |b| b["spec"]["intervals"] = json!([{"every": "0s"}]),
            400,
            "invalid-request",
            "interval",
        ),
        (
            |b| b["action"]["workflow_type"] = json!("t.none"),
            404,
            "not-found",
            "t.none",
        ),
        (
            |b| b["action"]["task_queue"] = json!("none"),
            422,
            "unusable",
            "general-queue",
        ),
        (
            |b| b["action"]["version"] = json!("one"),
            400,
            "invalid-request",
            "semantic version",
        ),
        (
            |b| b["policies"] = json!({"overlap": "maybe"}),
            400,
            "invalid-request",
            "maybe",
        ),
        (
            |b| b["action"]["input"] = json!("x".repeat(300_000)),
            413,
            "too-large",
            "input",
        ),
    ];
    for (change, status, name, reason) in changes {
        refusals.push((changed(change), status, name, reason));
    }
    for (body, status, name, reason) in refusals {
        let problem = api
            .post("/api/v1/schedules", body)
            .await
            .problem(status, name);
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains(reason), "{reason}: {detail}");
    }
    for (path, body) in [
        ("s/backfill", "{}"),
        ("s/backfill", r#"{"start_time":"noon","end_time":"noon"}"#),
        (
            "s/backfill",
            r#"{"start_time":"2026-01-02T00:00:00Z","end_time":"2026-01-01T00:00:00Z"}"#,
        ),
        ("s/trigger", r#"{"overlap":"maybe"}"#),
        ("s/pause", r#"{"why":"x"}"#),
    ] {
        let answer = api.post(&format!("/api/v1/schedules/{path}"), body).await;
        answer.problem(400, "invalid-request");
    }
    for path in ["s/times?from=noon", "s/times?till=x"] {
        let answer = api.get(&format!("/api/v1/schedules/{path}")).await;
        answer.problem(400, "invalid-request");
    }
    let answer = api.get("/api/v1/schedules?page_token=%25").await;
    answer.problem(400, "invalid-request");
    for verb in ["pause", "unpause", "trigger"] {
        let answer = api
            .post(&format!("/api/v1/schedules/none/{verb}"), "")
            .await;
        answer.problem(404, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_s_schedule_follows_its_active_version() {
    let api = api().await;
    api.upload(scheduled("1.0.0", "schedule: {cron: '0 3 * * * 2090'}"))
        .await;
    let seen = api.seen(FLOW).await;
    assert_eq!(seen["spec"]["cron"], json!(["0 3 * * * 2090"]));
    assert_eq!(seen["action"]["workflow_type"], "t.timed");
    // Paused by somebody, it stays so with the next version.
    assert_eq!(api.post(&format!("{FLOW}/pause"), "").await.status, 204);
    api.upload(scheduled("1.1.0", "schedule: {every: {days: 900}}"))
        .await;
    let seen = api.seen(FLOW).await;
    assert_eq!(
        seen["spec"],
        json!({"intervals": [{"every": "PT21600H", "offset": "PT0S"}]})
    );
    assert_eq!(seen["state"]["paused"], true);
    // It is the flow's: nobody else changes it.
    api.delete(FLOW).await.problem(409, "schedule-of-a-flow");
    let mut to = body("x");
    to.as_object_mut().expect("an object").remove("schedule_id");
    let refused = api.put(FLOW, to.to_string()).await;
    refused.problem(409, "schedule-of-a-flow");

    let rolled = api.post("/api/v1/flows/t.timed/rollback", "").await;
    assert_eq!(rolled.status, 200, "{}", rolled.text);
    assert_eq!(
        api.seen(FLOW).await["spec"]["cron"],
        json!(["0 3 * * * 2090"])
    );
    api.upload(scheduled("2.0.0", "")).await;
    api.get(FLOW).await.problem(404, "not-found");
    let activated = r#"{"version":"1.0.0"}"#;
    let activated = api.post("/api/v1/flows/t.timed/activate", activated).await;
    assert_eq!(activated.status, 200, "{}", activated.text);
    api.seen(FLOW).await;
    for version in ["1.1.0", "2.0.0", "1.0.0"] {
        let path = format!("/api/v1/flows/t.timed/versions/{version}");
        let removed = api.delete(&path).await;
        assert_eq!(removed.status, 204, "{}", removed.text);
    }
    api.get(FLOW).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_made_up_for_and_after_counts_from_the_end() {
    let api = api().await;
    // As if the server had stopped between the registry's change and the engine's.
    let orphan = json!({
        "spec": {}, "action": {"workflow_type": "t.gone", "workflow_id": "t.gone", "input": null},
    });
    let orphan = heyday_durable::schedule::CreateSchedule {
        reference: heyday_durable::schedule::ScheduleRef {
            namespace: "default".to_owned(),
            schedule_id: "flow:t.gone".to_owned(),
        },
        schedule: serde_json::from_value(orphan).expect("a schedule"),
        trigger_immediately: false,
    };
    api.app.engine.create_schedule(orphan).await.expect("made");
    let keeping = api.app.flow_schedules.clone().keep(api.stop.clone());
    let keeping = tokio::spawn(keeping);
    api.upload(scheduled("1.0.0", "schedule: {after: PT1S}"))
        .await;
    let seen = api
        .until(FLOW, |seen| {
            seen["info"]["action_count"].as_u64() >= Some(3)
        })
        .await;
    let actions = seen["info"]["recent_actions"].as_array().expect("a list");
    let time = |action: &Value, member: &str| -> jiff::Timestamp {
        let text = action[member].as_str().expect("a time");
        text.parse().expect("a time")
    };
    for pair in actions.windows(2) {
        let run = pair[0]["workflow_id"].as_str().expect("an id");
        let run = api.seen(&format!("/api/v1/workflows/{run}")).await;
        let waited = time(&pair[1], "actual_time").duration_since(time(&run, "closed_at"));
        assert!(waited >= jiff::SignedDuration::from_secs(1), "{waited}");
    }
    api.get("/api/v1/schedules/flow%3At.gone")
        .await
        .problem(404, "not-found");
    // Another pause is kept from now on.
    api.upload(scheduled("1.1.0", "schedule: {after: P900D}"))
        .await;
    api.until(FLOW, |seen| {
        let last = seen["info"]["recent_actions"].as_array().expect("a list");
        let last = time(last.last().expect("a run"), "actual_time");
        jiff::Timestamp::now().duration_since(last) > jiff::SignedDuration::from_secs(3)
    })
    .await;
    // Removed, it is not started any more.
    api.upload(scheduled("2.0.0", "")).await;
    api.get(FLOW).await.problem(404, "not-found");
    api.stop.cancel();
    keeping.await.expect("it ends with the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_schedules_are_in_the_audit() {
    let api = api().await;
    api.flow(SETS).await;
    api.schedule("nightly").await;
    let path = "/api/v1/schedules/nightly";
    let mut other = body("nightly");
    other
        .as_object_mut()
        .expect("an object")
        .remove("schedule_id");
    assert_eq!(api.put(path, other.to_string()).await.status, 204);
    for (what, body) in [
        ("pause", json!({"note": "later"})),
        ("unpause", json!({})),
        ("trigger", json!({})),
        (
            "backfill",
            json!({"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-02T00:00:00Z"}),
        ),
    ] {
        let answer = api.post(&format!("{path}/{what}"), body.to_string()).await;
        assert_eq!(answer.status, 204, "{what}: {}", answer.text);
    }
    assert_eq!(api.delete(path).await.status, 204);
    // What was refused changed nothing.
    assert_eq!(api.delete(path).await.status, 404);
    let audit = api.seen("/api/v1/audit").await;
    let entries = audit["audit"].as_array().expect("entries");
    let of_it: Vec<_> = entries
        .iter()
        .filter(|entry| entry["resource"] == "nightly")
        .rev()
        .collect();
    let actions: Vec<_> = of_it.iter().map(|entry| &entry["action"]).collect();
    assert_eq!(
        actions,
        [
            "schedule.create",
            "schedule.update",
            "schedule.pause",
            "schedule.unpause",
            "schedule.trigger",
            "schedule.backfill",
            "schedule.delete"
        ]
    );
    assert_eq!(of_it[2]["details"]["note"], "later", "{audit}");
    assert_eq!(of_it[5]["details"]["end_time"], "2026-01-02T00:00:00Z");
    assert!(
        of_it
            .iter()
            .all(|entry| entry["principal"] == of_it[0]["principal"])
    );
}
