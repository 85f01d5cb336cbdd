//! Questions are answered with what the documents say, and by a person where that is not
//! sure enough.

use std::time::Instant;

use serde_json::{Value, json};

use super::{embedded, start, synchronize};
use crate::support::server::{Client, PATIENCE, Server};

const FLOW: &str = "knowledge.question-answering";

const ROTORS: &str = "# Rotors\n\nRotors turn fast. A rotor is balanced with small weights \
                      before it runs.\n\n# Ovens\n\nAn oven is hot. Bread rises in it.\n";

async fn ask(server: &Server, input: Value) -> Value {
    let outcome = server.client.run(FLOW, &input).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    outcome.body["result"].clone()
}

/// Starts a question that nobody can be sure of, and waits until a person is asked.
async fn unsure(client: &Client, id: &str) {
    let input = json!({ "text": "How is a rotor balanced in Bergen?", "threshold": 1 });
    let body = json!({ "workflow_type": FLOW, "workflow_id": id, "input": input });
    client.post("/workflows", &body).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let state = json!({ "name": "__heyday_state" });
    loop {
        let path = format!("/workflows/{id}/queries");
        let answer = client.post(&path, &state).await.unwrap();
        let listens = answer["result"]["listening"].as_array();
        if listens.is_some_and(|tasks| !tasks.is_empty()) {
            return;
        }
        assert!(Instant::now() < deadline, "{answer}");
        tokio::task::yield_now().await;
    }
}

async fn update(client: &Client, id: &str, name: &str, data: Value) -> reqwest::Response {
    let path = format!("/workflows/{id}/updates?wait=30s");
    let request = client.request(reqwest::Method::POST, &path);
    let body = json!({ "name": name, "data": data });
    request.json(&body).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_answer_and_people_where_they_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let documents = folder.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    std::fs::write(documents.join("rotors.md"), ROTORS).unwrap();
    let server = start(embedded(folder.path())).await;
    synchronize(&server).await;
    let client = &server.client;

    let found = ask(&server, json!({ "text": "How is a rotor balanced?" })).await;
    let quote = "A rotor is balanced with small weights before it runs.";
    assert_eq!(found["answer"], format!("{quote} [1]"), "{found}");
    let citation = &found["citations"][0];
    assert_eq!(
        (&citation["key"], &citation["quote"]),
        (&json!("rotors.md"), &json!(quote))
    );
    let offset = usize::try_from(citation["offset"].as_u64().unwrap()).unwrap();
    assert!(ROTORS[offset..].starts_with(quote), "{citation}");
    assert!(found["confidence"].as_f64() > Some(0.5), "{found}");
    assert_eq!(found["review"], Value::Null);

    // Nothing says it, and nobody is there.
    let input = json!({ "text": "Who sails to Bergen on Tuesday?", "deadline": "PT1S" });
    let found = ask(&server, input).await;
    assert_eq!(found["review"], json!({ "decision": "expired" }));
    assert!(found["confidence"].as_f64() < Some(0.5), "{found}");

    // A person decides; who says too little is not heard.
    unsure(client, "q1").await;
    let refused = update(client, "q1", "correct", json!({ "by": "Ada" })).await;
    Client::refused(refused, reqwest::StatusCode::CONFLICT).await;
    let data = json!({ "by": "Ada", "answer": "With weights." });
    let taken = Client::ok(update(client, "q1", "correct", data).await).await;
    assert_eq!(taken.unwrap()["result"]["taken"], "correct");
    let result = client.result("q1").await.unwrap().body["result"].clone();
    assert_eq!(
        (&result["answer"], &result["citations"]),
        (&json!("With weights."), &json!([]))
    );
    assert_eq!(result["review"]["by"], "Ada", "{result}");

    unsure(client, "q2").await;
    let taken = update(client, "q2", "approve", json!({ "by": "Grace" })).await;
    Client::ok(taken).await.unwrap();
    let result = client.result("q2").await.unwrap().body["result"].clone();
    assert_eq!(result["answer"], format!("{quote} [1]"), "{result}");
    assert_eq!(
        (&result["confidence"], &result["review"]["by"]),
        (&json!(1), &json!("Grace"))
    );

    unsure(client, "q3").await;
    let data = json!({ "by": "Grace", "reason": "Not so." });
    let taken = update(client, "q3", "reject", data).await;
    Client::ok(taken).await.unwrap();
    let result = client.result("q3").await.unwrap().body["result"].clone();
    assert_eq!(
        (&result["answer"], &result["confidence"]),
        (&Value::Null, &json!(0))
    );
}
