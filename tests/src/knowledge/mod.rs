//! The example over the real server: a folder with a document of each kind becomes
//! searchable, and the index follows what happens to the folder.

mod questions;
mod readme;
mod retrieval;
mod servers;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::documents::{docx, encrypted_pdf, pdf};
use crate::support::server::{Options, PATIENCE, Server};
use crate::support::{component, example, examples, temporal};

/// The bindings of the example, without any server.
fn embedded(folder: &Path) -> Options {
    Options {
        config: Some(example::embedded(folder)),
        ..Options::default()
    }
}

/// A server with the example's plugins and flows.
async fn start(options: Options) -> Server {
    let server = Server::with(options).await.unwrap();
    let client = &server.client;
    for (plugin, grants) in example::PLUGINS {
        for (capability, binding) in *grants {
            let mode = (*binding == example::DOCUMENTS).then_some("ro");
            client
                .grant(plugin, capability, binding, mode)
                .await
                .unwrap();
        }
        let version = client.push(component(plugin), "").await.unwrap();
        assert_eq!(version["active"], true, "{version}");
    }
    for flow in example::FLOWS {
        let path = examples().join(format!("knowledge/flows/{flow}.yaml"));
        let text = std::fs::read_to_string(path).unwrap();
        let pushed = client.push_flow(&text).await.unwrap();
        let status = pushed.status();
        assert!(status.is_success(), "{}", pushed.text().await.unwrap());
    }
    server
}

/// Compares the folder with the catalogue, and waits for the documents that it starts.
async fn synchronize(server: &Server) -> Value {
    let outcome = server.client.run("knowledge.sync", &Value::Null).await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    settle(server, PATIENCE * 4).await;
    outcome.body["result"].clone()
}

/// Waits until no run is open.
async fn settle(server: &Server, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let query = "ExecutionStatus%20%3D%20%27Running%27";
        let list = format!("/workflows?query={query}");
        let page = server.client.get(&list).await.unwrap();
        let open = page["workflows"].as_array().unwrap();
        let Some(run) = open.first() else { break };
        assert!(Instant::now() < deadline, "still open: {page}");
        let id = run["workflow_id"].as_str().unwrap();
        let result = format!("/workflows/{id}/result?wait=20s");
        server.client.get(&result).await.unwrap();
    }
}

async fn search(server: &Server, text: &str) -> Vec<Value> {
    let input = json!({ "text": text });
    let found = server.client.succeed("index.search", &input).await.unwrap();
    found["passages"].as_array().unwrap().clone()
}

/// What the flow finds.
async fn flow(server: &Server, input: Value) -> Vec<Value> {
    let outcome = server.client.run("knowledge.search", &input).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    outcome.body["result"]["passages"]
        .as_array()
        .unwrap()
        .clone()
}

/// What a document mentions, as the graph has it.
async fn mentioned(server: &Server, key: &str) -> Value {
    let input = json!({ "key": key });
    server.client.succeed("entities.of", &input).await.unwrap()
}

/// The keys of the documents that are found.
async fn keys(server: &Server, text: &str) -> Vec<String> {
    let key = |hit: &Value| hit["key"].as_str().unwrap().to_owned();
    search(server, text).await.iter().map(key).collect()
}

fn write(documents: &Path) {
    let utf16 = |text: &str| -> Vec<u8> {
        let mut bytes = vec![0xff, 0xfe];
        bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        bytes
    };
    std::fs::create_dir_all(documents.join("deep/er")).unwrap();
    for (name, bytes) in [
        (
            "notes.txt",
            b"A plain note about lighthouses. On 24 November 2026 we met Ada Lovelace there.\n"
                .to_vec(),
        ),
        (
            "guide.md",
            b"# Guide\n\nIntro.\n\n## Harbours\n\nShips rest in \"harbours\" AND bays.\n".to_vec(),
        ),
        (
            "deep/er/page.html",
            b"<html><title>A page</title><body><h2>Tides</h2><p>The tide comes&nbsp;in. \
              We saw Ada Lovelace with Charles Babbage.</p>"
                .to_vec(),
        ),
        ("paper.pdf", pdf(&["About rotors", "Their balance matters"])),
        (
            "letter.docx",
            docx(&[(true, "Anchors"), (false, "An anchor holds the ship.")]),
        ),
        ("日本.txt", utf16("灯台は東京の海にあります。")),
        // Another document under the name of a text.
        ("mislabelled.txt", pdf(&["A compass in disguise"])),
        ("empty.txt", Vec::new()),
        ("scan.pdf", pdf(&[""])),
        ("cut.pdf", pdf(&["cut"])[..40].to_vec()),
        ("locked.pdf", encrypted_pdf(&["A secret cove"])),
        ("picture.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec()),
    ] {
        std::fs::write(documents.join(name), bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_becomes_searchable_and_stays_in_step() {
    let folder = tempfile::tempdir().unwrap();
    let documents = folder.path().join("documents");
    write(&documents);
    let server = start(embedded(folder.path())).await;
    let summary = synchronize(&server).await;
    assert_eq!(summary, json!({"seen": 12, "started": 12, "removed": 0}));

    for (text, key, heading, page) in [
        ("lighthouse", "notes.txt", Value::Null, Value::Null),
        // Small sections are one passage, named by the first.
        ("harbours", "guide.md", json!("Guide"), Value::Null),
        ("tide", "deep/er/page.html", json!("Tides"), Value::Null),
        ("balance", "paper.pdf", Value::Null, json!(2)),
        ("anchor", "letter.docx", json!("Anchors"), Value::Null),
        ("東京", "日本.txt", Value::Null, Value::Null),
        ("compass", "mislabelled.txt", Value::Null, json!(1)),
    ] {
        let found = search(&server, text).await;
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!(found[0]["key"], key, "{text}");
        if !heading.is_null() {
            assert_eq!(found[0]["heading"], heading, "{text}");
        }
        assert_eq!(found[0]["page"], page, "{text}");
        assert!(found[0]["snippet"].as_str().unwrap().len() > 5, "{found:?}");
    }
    // Where a passage is in the text that was extracted.
    let hit = &search(&server, "ships rest").await[0];
    let offset = usize::try_from(hit["offset"].as_u64().unwrap()).unwrap();
    let source = std::fs::read_to_string(documents.join("guide.md")).unwrap();
    assert!(source[offset..].starts_with(hit["text"].as_str().unwrap()));

    // Nothing that is typed is an operator, and all of it is answered.
    for text in [
        "bays AND",
        "NOT bays",
        "bays OR (",
        "bays\"",
        "bays*",
        "bays:^{}'",
    ] {
        assert_eq!(keys(&server, text).await[0], "guide.md", "{text}");
    }
    let input = json!({ "text": "*** \"\"" });
    let failure = server.client.fail("index.search", &input).await.unwrap();
    assert_eq!(failure["kind"], "invalid-input", "{failure}");

    let failures = server
        .client
        .succeed("index.failures", &json!({ "limit": 1 }))
        .await
        .unwrap();
    assert_eq!(failures["total"], 5, "{failures}");
    let group = |kind: &str| {
        let kinds = failures["kinds"].as_array().unwrap();
        let group = kinds.iter().find(|group| group["kind"] == kind);
        group
            .unwrap_or_else(|| panic!("{kind} in {failures}"))
            .clone()
    };
    assert_eq!(group("no-text")["total"], 2);
    assert_eq!(group("no-text")["documents"][0]["key"], "empty.txt");
    assert_eq!(group("no-text")["documents"].as_array().unwrap().len(), 1);
    assert_eq!(group("file-damaged")["documents"][0]["key"], "cut.pdf");
    let encrypted = &group("file-encrypted")["documents"][0];
    assert_eq!(encrypted["key"], "locked.pdf");
    // The document's run has failed, and says the same.
    let reason = "the document is encrypted";
    assert!(encrypted["reason"].as_str().unwrap().contains(reason));
    let query = "ExecutionStatus%20%3D%20%27Failed%27";
    let list = format!("/workflows?query={query}");
    let failed = server.client.get(&list).await.unwrap();
    let mut told = Vec::new();
    for run in failed["workflows"].as_array().unwrap() {
        let id = run["workflow_id"].as_str().unwrap();
        let result = format!("/workflows/{id}/result");
        told.push(server.client.get(&result).await.unwrap().to_string());
    }
    let failed = told.iter().filter(|it| it.contains("locked.pdf: "));
    let failed: Vec<_> = failed.collect();
    assert!(failed.len() == 1 && failed[0].contains(reason), "{told:?}");
    let unsupported = &group("unsupported-format")["documents"][0];
    assert_eq!(unsupported["key"], "picture.txt");
    let reason = unsupported["reason"].as_str().unwrap();
    assert!(reason.contains("image/png"), "{reason}");
    let overview = server
        .client
        .succeed("index.overview", &json!({}))
        .await
        .unwrap();
    assert_eq!(
        (&overview["documents"], &overview["unreadable"]),
        (&json!(7), &json!(5))
    );

    // By vectors, a slip of the pen is no obstacle; by both, words come first.
    let found = flow(&server, json!({ "text": "lihgthouse", "mode": "vector" })).await;
    assert_eq!(found[0]["key"], "notes.txt", "{found:?}");
    let found = flow(&server, json!({ "text": "anchor holds" })).await;
    assert_eq!(found[0]["key"], "letter.docx", "{found:?}");
    assert!(found.len() > 1, "{found:?}");
    let input = json!({ "text": "anchor", "mode": "vector" });
    let failure = server.client.fail("index.search", &input).await.unwrap();
    assert_eq!(failure["kind"], "invalid-input", "{failure}");
    // Vectors of another embedding are refused, and so is to go on with one.
    let other = json!({ "name": "other", "revision": "1", "dimensions": 2 });
    let input = json!({ "text": "anchor", "vector": [1, 0], "embedding": other });
    let failure = server.client.fail("index.search", &input).await.unwrap();
    assert_eq!(failure["kind"], "embedding-mismatch", "{failure}");
    let input = json!({ "embedding": "all-minilm-l6-v2" });
    let outcome = server.client.run("knowledge.sync", &input).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    let told = outcome.body.to_string();
    assert!(
        told.contains("embedding-mismatch") && told.contains("knowledge.reset"),
        "{told}"
    );
    // What stands in the texts is in the graph.
    let page = "deep/er/page.html";
    let found = mentioned(&server, page).await;
    let (ada, charles) = ("name:ada lovelace", "name:charles babbage");
    assert_eq!(found["entities"][0]["id"], ada, "{found}");
    assert_eq!(found["entities"][0]["passages"], json!([0]), "{found}");
    let together = json!([{"one": ada, "other": charles, "times": 1}]);
    assert_eq!(found["relations"], together);
    let question = json!({ "text": "When did Ada Lovelace come?" });
    let related = server.client.succeed("entities.related", &question).await;
    let related = related.unwrap();
    let known = json!([{"id": ada, "kind": "name", "documents": 2}]);
    assert_eq!(related["entities"], known, "{related}");
    let beside = related["beside"].as_array().unwrap();
    assert!(beside.iter().any(|it| it["id"] == charles), "{related}");
    assert_eq!(related["passages"][0]["key"], page, "{related}");
    let work = folder.path().join("work/text");
    let objects = || std::fs::read_dir(&work).unwrap().count();
    // Each of the seven has a text, passages and vectors, three have headings.
    assert_eq!(objects(), 24);

    let summary = synchronize(&server).await;
    assert_eq!(summary, json!({"seen": 12, "started": 0, "removed": 0}));

    // One is changed, one mended, two go, one comes; also over a kill of the server. Another one
    // comes that the graph does not take any more.
    let mut narrow = embedded(folder.path());
    let limits = "[bindings.namespaces.default.graph.knowledge.limits]\nresult_bytes = 2000\n";
    narrow.config = narrow.config.map(|text| text + limits);
    let server = server.kill_and_restart(narrow).await.unwrap();
    let crew: Vec<String> = ('a'..='z')
        .map(|c| format!("We saw Ab{c}elinora Quarterstone{c} there.\n\n"))
        .collect();
    std::fs::write(documents.join("crew.txt"), crew.concat()).unwrap();
    std::fs::write(documents.join("guide.md"), "# Guide\n\nNow about reefs.\n").unwrap();
    std::fs::write(documents.join("empty.txt"), "Not empty: a buoy.\n").unwrap();
    std::fs::write(documents.join("zz.txt"), "A new note about sails.\n").unwrap();
    std::fs::remove_dir_all(documents.join("deep")).unwrap();
    std::fs::remove_file(documents.join("cut.pdf")).unwrap();
    let summary = synchronize(&server).await;
    assert_eq!(summary, json!({"seen": 12, "started": 4, "removed": 2}));
    // That is no fault of the document's: it is told what to do, and it is tried again.
    let input = json!({ "kind": "limit-exceeded" });
    let full = server.client.succeed("index.failures", &input).await;
    let full = &full.unwrap()["kinds"][0]["documents"][0];
    assert_eq!(full["key"], "crew.txt", "{full}");
    let reason = full["reason"].as_str().unwrap();
    assert!(reason.contains("memory_bytes"), "{reason}");
    let summary = synchronize(&server).await;
    assert_eq!(summary, json!({"seen": 12, "started": 1, "removed": 0}));
    for (text, expected) in [
        ("reefs", vec!["guide.md"]),
        ("harbours", vec![]),
        ("tide", vec![]),
        ("buoy", vec!["empty.txt"]),
        ("sails", vec!["zz.txt"]),
        ("lighthouse", vec!["notes.txt"]),
    ] {
        assert_eq!(keys(&server, text).await, expected, "{text}");
    }
    // What is gone is gone everywhere, and what only it mentioned.
    let found = mentioned(&server, page).await;
    assert_eq!(found, json!({"entities": [], "relations": []}));
    let related = server.client.succeed("entities.related", &question).await;
    let known = json!([{"id": ada, "kind": "name", "documents": 1}]);
    assert_eq!(related.unwrap()["entities"], known);
    let question = json!({ "text": "Charles Babbage" });
    let related = server.client.succeed("entities.related", &question).await;
    assert_eq!(related.unwrap()["entities"], json!([]));
    let found = flow(
        &server,
        json!({ "text": "the tide comes in", "mode": "vector" }),
    )
    .await;
    assert!(found.iter().all(|hit| hit["key"] != page), "{found:?}");
    // Three more have texts now, one has not.
    assert_eq!(objects(), 29);

    let failures = server
        .client
        .succeed("index.failures", &json!({ "kind": "file-damaged" }))
        .await
        .unwrap();
    assert_eq!(
        (&failures["total"], &failures["kinds"]),
        (&json!(4), &json!([]))
    );

    // All over again.
    let outcome = server.client.run("knowledge.reset", &Value::Null).await;
    assert_eq!(outcome.unwrap().status, "Completed");
    assert_eq!(keys(&server, "lighthouse").await, [""; 0]);
    let summary = synchronize(&server).await;
    assert_eq!(summary, json!({"seen": 12, "started": 12, "removed": 0}));
    assert_eq!(keys(&server, "lighthouse").await, ["notes.txt"]);
    assert_eq!(objects(), 29);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_becomes_searchable_on_a_cluster() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let documents = folder.path().join("documents");
    std::fs::create_dir_all(&documents).unwrap();
    std::fs::write(documents.join("notes.txt"), "A note about lighthouses.\n").unwrap();
    let mut options = Options::on_temporal(&address, &namespace);
    let bindings = example::embedded(folder.path());
    options.config = options.config.map(|text| text + &bindings);
    let server = start(options).await;
    server.wait_for_engine().await.unwrap();
    let client = &server.client;
    let outcome = client.run("knowledge.sync", &Value::Null).await.unwrap();
    let summary = json!({"seen": 1, "started": 1, "removed": 0});
    assert_eq!(outcome.body["result"], summary, "{}", outcome.body);
    // A cluster lists runs a moment after it has them.
    let list = "/workflows?query=WorkflowType%20%3D%20%27knowledge.document-processing%27";
    let deadline = Instant::now() + PATIENCE;
    let id = loop {
        let page = client.get(list).await.unwrap();
        if let Some(id) = page["workflows"][0]["workflow_id"].as_str() {
            break id.to_owned();
        }
        assert!(Instant::now() < deadline, "it is not listed");
    };
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(keys(&server, "lighthouse").await, ["notes.txt"]);
    let found = flow(&server, json!({ "text": "lihgthouse", "mode": "vector" })).await;
    assert_eq!(found[0]["key"], "notes.txt", "{found:?}");
}
