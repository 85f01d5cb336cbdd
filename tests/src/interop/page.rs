//! `docs/interop.md`: its flows and programs, as they stand there, on the real server.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use super::{Language, Worker, on_cluster, sources};
use crate::support::handmade::Handmade;
use crate::support::server::{Client, Options, PATIENCE, Server};
use crate::support::temporal;

/// A plugin as the page has one.
const HELLO: &str = r#"{"name":"hello","version":"1.0.0","documentation":"Greets.","activities":[{"name":"greet","documentation":"Greets.","input":{},"output":{}}]}"#;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md");
    std::fs::read_to_string(path).unwrap()
}

/// The page's blocks of a language.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("```{language}\n");
    let blocks = page.split(fence.as_str()).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

#[test]
fn the_page_shows_what_is_run_in_under_20_lines() {
    let page = page();
    for language in ["python", "go", "typescript", "java", "yaml"] {
        let blocks = blocks(&page, language);
        assert!(blocks.len() >= 2, "{language}");
        for block in blocks {
            let lines = block.lines().filter(|line| !line.is_empty()).count();
            assert!(lines < 20, "{lines} lines:\n{block}");
        }
    }
    for (language, file) in [("python", "{}.py"), ("go", "{}/main.go")] {
        for (block, program) in blocks(&page, language)
            .into_iter()
            .zip(["worker", "client"])
        {
            let path = sources(language).join(file.replace("{}", program));
            let source = std::fs::read_to_string(&path).unwrap();
            assert!(
                source.contains(block),
                "{} has not:\n{block}",
                path.display()
            );
        }
    }
}

async fn the_page_runs_in(language: Language, id: &str) {
    let (Some(worker), Some(client)) = (language.program("worker"), language.program("client"))
    else {
        return;
    };
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let server = Server::with(Options::on_temporal(&address, &namespace))
        .await
        .unwrap();
    server.wait_for_engine().await.unwrap();
    let hello = Handmade {
        description: HELLO,
        output: r#""Hello!""#,
        ..Handmade::default()
    };
    server.client.push(hello.build(), "").await.unwrap();
    let page = page();
    for flow in &blocks(&page, "yaml")[..2] {
        let pushed = server.client.push_flow(flow).await.unwrap();
        let pushed = Client::ok(pushed).await.unwrap();
        // What is theirs is missed by nobody.
        assert_eq!(pushed.get("warnings"), None, "{pushed}");
    }
    let _worker = Worker::start(worker, &address, &namespace);
    let mut client = tokio::process::Command::from(client);
    on_cluster(client.as_std_mut(), &address, &namespace);
    client.stderr(Stdio::inherit()).kill_on_drop(true);
    let client = tokio::time::timeout(PATIENCE, client.output());
    let client = client.await.expect("the client ends").unwrap();
    // Not its status: Python's SDK may abort while its interpreter ends, after all is done.
    let printed = String::from_utf8(client.stdout).unwrap();
    assert!(printed.contains("Hello!"), "{printed} {}", client.status);
    let outcome = server.client.result(id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(
        outcome.body["result"],
        json!({"text": "Hello!", "item": "lamp", "price": 12, "by": "Ada"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_in_python() {
    the_page_runs_in(Language::Python, "order-python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_in_go() {
    the_page_runs_in(Language::Go, "order-go").await;
}
