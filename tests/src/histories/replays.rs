//! Histories over the API: exported, replayed, and replayed before an activation.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::commands::{OTHER, WAITS, version, waiting};
use super::{document, push};
use crate::support::probe;
use crate::support::server::Client;
use crate::support::worker::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_exported_and_replayed_over_the_api() {
    let server = probe::shared();
    exported_and_replayed(&server.client).await;
}

/// Whatever server answers: the flow is uploaded for the first time.
pub(crate) async fn exported_and_replayed(client: &Client) {
    let flow = document("exported", WAITS);
    push(client, &flow).await;
    waiting(client, "exported", "exported").await;
    let export = client.get("/workflows/exported/export").await.unwrap();
    // Heyday's own, or Temporal's.
    let ours = export["format"] == "heyday.history.v1";
    assert!(ours || export["events"].is_array(), "{export}");
    let replay = async |mut body: Value| {
        body["history"] = export.clone();
        client.post("/replays", &body).await.unwrap()
    };
    let named = json!({ "workflow_type": "kept.exported", "version": "1.0.0", "exact": true });
    for body in [json!({}), json!({ "flow": flow }), named] {
        let replayed = replay(body).await;
        assert_eq!(replayed["agrees"], true, "{replayed}");
    }
    let other = version(&document("exported", OTHER), "2.0.0");
    let differs = replay(json!({ "flow": other })).await;
    assert_eq!(differs["agrees"], false, "{differs}");
    let expected = &differs["difference"]["expected"];
    assert_eq!(expected["event_type"], "MarkerRecorded", "{differs}");
    let none = json!({ "history": export, "workflow_type": "kept.nothing" });
    let none = client.request(Method::POST, "/replays").json(&none);
    Client::refused(none.send().await.unwrap(), StatusCode::NOT_FOUND).await;

    // A version under which the open run would have gone another way is not made active.
    let stored = client.request(Method::POST, "/flows?activate=false");
    let stored = stored.body(other).send().await.unwrap();
    assert_eq!(stored.status(), StatusCode::CREATED);
    // A cluster lists the run within a moment.
    let replays = eventually(async || {
        let path = "/flows/kept.exported/versions/2.0.0/replays?page_size=1";
        let found = client.rows(path, "replays").await.unwrap();
        (!found.is_empty()).then_some(found)
    })
    .await;
    assert_eq!(replays.len(), 1, "{replays:?}");
    assert_eq!(replays[0]["workflow_id"], "exported", "{replays:?}");
    assert_eq!(replays[0]["outcome"], "diverges", "{replays:?}");
    let path = "/flows/kept.exported/activate?on_divergence=refuse";
    let activate = client.request(Method::POST, path);
    let activate = activate.json(&json!({ "version": "2.0.0" }));
    let refused = activate.send().await.unwrap();
    Client::refused(refused, StatusCode::CONFLICT).await;
    let shown = client.get("/flows/kept.exported").await.unwrap();
    assert_eq!(shown["active"], "1.0.0");
    let end = "/workflows/exported/terminate";
    client.post(end, &json!({})).await.unwrap();
}
