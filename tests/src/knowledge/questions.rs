//! Questions are answered with what the documents say, and by a person where that is not
//! sure enough.

use std::time::Instant;

use serde_json::{Value, json};

use super::{embedded, start, synchronize};
use crate::generation::{conversation, widened};
use crate::inference::import_folder;
use crate::openai::stand_in::{Fault, StandIn};
use crate::support::component;
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
    until_asked(client, id, input).await;
}

/// Starts a question, and waits until a person is asked.
async fn until_asked(client: &Client, id: &str, input: Value) {
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

/// What one model says to what another was asked, by OpenAI's protocol.
async fn said(client: &Client, model: &str, asked: &Value) -> String {
    let mut body = json!({ "model": model });
    for member in ["messages", "temperature", "max_tokens"] {
        body[member] = asked[member].clone();
    }
    let request = client.at(reqwest::Method::POST, "/v1/chat/completions");
    let answer: Value = request
        .json(&body)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let text = answer["choices"][0]["message"]["content"].as_str();
    text.unwrap_or_else(|| panic!("{answer}")).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_answers_from_what_was_found_and_a_person_where_it_makes_things_up() {
    let folder = tempfile::tempdir().unwrap();
    let documents = folder.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    std::fs::write(documents.join("rotors.md"), ROTORS).unwrap();
    let stand_in = StandIn::start().await;
    let mut options = embedded(folder.path());
    let config = format!(
        "[inference]\ndevice = 'cpu'\n[inference.remote.stand-in]\nurl = '{}'\n\
         model = 'theirs'\ntask = 'generate'\nwindow = 4096\n",
        stand_in.url
    );
    options.config.get_or_insert_default().push_str(&config);
    let server = start(options).await;
    let client = &server.client;
    // It has random weights, and a window for what it is asked.
    let decoder = folder.path().join("decoder");
    widened(&conversation("llama-gqa").model, &decoder, 8_192);
    import_folder(client, "decoder", &decoder).await;
    for (capability, binding) in [
        ("blob", "work"),
        ("inference", "stand-in"),
        ("inference", "decoder"),
    ] {
        let granted = client.grant("models", capability, binding, None).await;
        granted.unwrap();
    }
    client.push(component("models"), "").await.unwrap();
    synchronize(&server).await;

    // Its text is the answer, and what it cites is quoted.
    let question = "How is a rotor balanced?";
    stand_in.fail([Fault::Says("A rotor is balanced with small weights [1].")]);
    let found = ask(&server, json!({ "text": question, "model": "stand-in" })).await;
    let answer = "A rotor is balanced with small weights [1].";
    assert_eq!(found["answer"], answer, "{found}");
    let citation = &found["citations"][0];
    assert_eq!(citation["key"], "rotors.md", "{found}");
    let quote = citation["quote"].as_str().unwrap();
    assert!(
        quote.contains("A rotor is balanced with small weights"),
        "{quote}"
    );
    assert_eq!(found["confidence"].as_f64(), Some(1.0), "{found}");
    assert_eq!(found["review"], Value::Null, "{found}");
    // It was asked with the passages, the best first.
    let seen = stand_in.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    let asked = &seen[0].body;
    assert_eq!(asked["messages"][0]["role"], "system", "{asked}");
    let content = asked["messages"][1]["content"].as_str().unwrap();
    assert!(content.starts_with("[1] Rotors\n"), "{content}");
    assert!(content.contains("A rotor is balanced with small weights before it runs."));
    assert!(
        content.ends_with(&format!("Question: {question}")),
        "{content}"
    );

    // What it makes up is for a person.
    stand_in.fail([Fault::Says("Elephants balance it in Bergen [1].")]);
    let input = json!({ "text": question, "model": "stand-in" });
    until_asked(client, "made-up", input).await;
    let taken = update(client, "made-up", "approve", json!({ "by": "Ada" })).await;
    Client::ok(taken).await.unwrap();
    let result = client.result("made-up").await.unwrap().body["result"].clone();
    assert_eq!(result["answer"], "Elephants balance it in Bergen [1].");
    assert_eq!(
        (&result["confidence"], &result["review"]["by"]),
        (&json!(1), &json!("Ada"))
    );

    // A decoder of the server's own is asked the same; nobody says that it makes sense.
    let input = json!({ "text": question, "model": "decoder", "deadline": "PT1S" });
    let found = ask(&server, input).await;
    let expected = said(client, "decoder", asked).await;
    assert!(!expected.is_empty());
    assert_eq!(found["answer"], expected, "{found}");
    assert_eq!(found["citations"], json!([]), "{found}");
    assert_eq!(found["confidence"].as_f64(), Some(0.0), "{found}");
    assert_eq!(found["review"], json!({ "decision": "expired" }));
    // Without a grant it is not asked.
    let input = json!({ "text": question, "model": "unknown" });
    let outcome = client.run(FLOW, &input).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    assert!(
        outcome.body.to_string().contains("capability-denied"),
        "{}",
        outcome.body
    );
}
