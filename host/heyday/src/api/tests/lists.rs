//! Where lists end.

use heyday_durable::activity::{LogLevel, LogLine, Receipt};
use jiff::Timestamp;

use super::*;
use crate::recorder::{AttemptName, ReceiptRow, Records as _};

/// The second version of [`WAITS`].
const NEWER: &str = "document: {dsl: '1.0.0', namespace: t, name: waits, version: '1.0.1'}\n\
                     do: [{w: {wait: {hours: 2}}}]\n";

/// Lists by their paths, and the members with their rows.
const LISTS: [(&str, &str); 10] = [
    ("audit", "audit"),
    ("bindings", "bindings"),
    ("flows", "flows"),
    ("flows/t.waits", "versions"),
    ("grants", "grants"),
    ("schedules", "schedules"),
    ("tokens", "tokens"),
    ("workflows", "workflows"),
    ("workflows/a/logs", "logs"),
    ("workflows/a/receipts", "receipts"),
];

impl Api {
    /// Three attempts of a run, each with a line of its log.
    async fn attempts(&self, id: &str) {
        let shown = self.get(&format!("/api/v1/workflows/{id}")).await.json();
        let run_id = shown["run_id"].as_str().expect("text");
        for number in 1..=3 {
            let attempt = Arc::new(AttemptName {
                namespace: "default".to_owned(),
                run_id: run_id.parse().expect("an id"),
                activity_id: format!("step {number}"),
                activity_type: "greet.hello".to_owned(),
                queue: "general-queue".to_owned(),
                attempt: 1,
            });
            let line = LogLine {
                at: Timestamp::now(),
                level: LogLevel::Info,
                message: format!("line {number}"),
                fields: serde_json::Map::new(),
            };
            self.app.recorder.log(&attempt, line);
            self.app.recorder.receipt(ReceiptRow {
                attempt,
                started_at: Timestamp::now(),
                ended_at: Timestamp::now(),
                outcome: "completed".to_owned(),
                receipt: Receipt::default(),
                denied: Vec::new(),
            });
        }
    }

    /// A page of a list.
    async fn page(&self, list: &str, size: usize, token: Option<&str>) -> Value {
        let after = token.map(|token| format!("&page_token={}", token.replace(' ', "%20")));
        let after = after.unwrap_or_default();
        let answer = self
            .get(&format!("/api/v1/{list}?page_size={size}{after}"))
            .await;
        assert_eq!(answer.status, 200, "{list}: {}", answer.text);
        answer.json()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_page_that_another_row_follows_has_a_token() {
    let api = api().await;
    for flow in [SETS, WAITS, NEWER] {
        api.flow(flow).await;
    }
    for id in ["a", "b"] {
        api.start(id, "t.waits").await;
        let schedule = json!({
            "schedule_id": id, "spec": {"cron": ["0 3 * * * 2090"]},
            "action": {"workflow_type": "t.sets"},
        });
        let made = api.post("/api/v1/schedules", schedule.to_string()).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let token = json!({ "kind": "worker", "name": id });
        let made = api.post("/api/v1/tokens", token.to_string()).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let grant = json!({
            "subject": "t.waits", "capability": "http", "binding": format!("GET:{id}.example"),
        });
        let request = Api::request(Method::PUT, "/api/v1/grants");
        let granted = api.send(request, grant.to_string()).await;
        assert_eq!(granted.status, 200, "{}", granted.text);
    }
    api.attempts("a").await;

    for (list, member) in LISTS {
        let all = api.page(list, 1_000, None).await;
        let rows = |page: &Value| page[member].as_array().map_or(0, Vec::len);
        let count = rows(&all);
        assert!(count >= 2, "{list}: {all}");
        // As many as a page has, and one more than that.
        let whole = api.page(list, count, None).await;
        assert_eq!(rows(&whole), count, "{list}: {whole}");
        assert_eq!(whole["next_page_token"], Value::Null, "{list}: {whole}");
        let first = api.page(list, count - 1, None).await;
        assert_eq!(rows(&first), count - 1, "{list}: {first}");
        let token = first["next_page_token"].as_str().expect(list);
        let last = api.page(list, 1, Some(token)).await;
        assert_eq!(rows(&last), 1, "{list}: {last}");
        assert_eq!(last["next_page_token"], Value::Null, "{list}: {last}");
    }
}
