//! `docs/interop.md`: its flows and programs, as they stand there, on the real server.

use std::process::Stdio;

use heyday_durable::failure::kind;
use serde_json::{Value, json};

use super::{Language, Worker, ask, on_cluster, sources};
use crate::support::handmade::Handmade;
use crate::support::server::{Client, Options, PATIENCE, Server};
use crate::support::{repository, temporal};

/// A plugin as the page has one, and two activities that do not go well.
const HELLO: &str = r#"{"name":"hello","version":"1.0.0","documentation":"Greets.","activities":[{"name":"greet","documentation":"Greets.","input":{},"output":{}},{"name":"fail","documentation":"Fails.","input":{},"output":{}},{"name":"explode","documentation":"Traps.","input":{},"output":{}}]}"#;

/// What the plugin does before it answers: an activity whose name has 4 letters fails with
/// what lies at 100, one with 7 traps.
const BEFORE_RUN: &str = "local.get 1 i32.const 4 i32.eq if i32.const 100 return end
    local.get 1 i32.const 7 i32.eq if unreachable end";

/// What lies at 100: a failure that is not to be tried again, as the canonical ABI has it,
/// with its texts behind it.
fn failure_in_memory([kind, message, details]: [&str; 3]) -> String {
    let length = |text: &str| u32::try_from(text.len()).unwrap();
    let (of_kind, of_message) = (length(kind), length(message));
    let record = [
        // An error; then where each text is and how long, that it is not retryable, and that
        // it has details.
        1,
        136,
        of_kind,
        136 + of_kind,
        of_message,
        0,
        1,
        136 + of_kind + of_message,
        length(details),
    ];
    let mut bytes: Vec<u8> = record.into_iter().flat_map(u32::to_le_bytes).collect();
    for text in [kind, message, details] {
        bytes.extend_from_slice(text.as_bytes());
    }
    let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(data (i32.const 100) \"{escaped}\")")
}

fn page() -> String {
    let path = repository().join("docs/interop.md");
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
    let failure = failure_in_memory(["out-of-ink", "there is none", r#"{"colour":"blue"}"#]);
    let hello = Handmade {
        description: HELLO,
        output: r#""Hello!""#,
        before_run: BEFORE_RUN,
        functions: &failure,
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
    failures_of_a_plugin(language, &address, &namespace).await;
}

/// What a foreign workflow sees of a plugin's failures.
async fn failures_of_a_plugin(language: Language, address: &str, namespace: &str) {
    let mut peer = language.program("peer").unwrap();
    peer.arg("peer");
    let _peer = Worker::start(peer, address, namespace);
    let failure = async |activity: &str| {
        let call = json!({ "type": activity, "input": {}, "queue": "storage-queue" }).to_string();
        let arguments = ["run", activity, "CallActivity", call.as_str(), "peer"];
        let mut said = ask(language, address, namespace, &arguments).await;
        let mut failure = said["answer"]["failure"].take();
        assert!(failure.is_object(), "{said}");
        // Go's SDK shows none.
        let stack = failure.as_object_mut().unwrap().remove("stack");
        assert_eq!(stack.is_some(), language == Language::Python);
        (failure, stack)
    };
    let (failed, stack) = failure("hello.fail").await;
    assert_eq!(
        failed,
        json!({
            "type": "out-of-ink",
            "message": "there is none",
            "details": [{"colour": "blue"}],
            "non_retryable": true,
            "cause": null,
        })
    );
    assert!(stack.is_none_or(|stack| stack == ""), "it failed by itself");
    let (unknown, _) = failure("hello.nothing").await;
    assert_eq!(unknown["type"], kind::UNKNOWN_ACTIVITY, "{unknown}");
    assert_eq!(unknown["non_retryable"], true, "{unknown}");
    let (trapped, stack) = failure("hello.explode").await;
    assert_eq!(trapped["type"], kind::TRAP, "{trapped}");
    assert_eq!(trapped["non_retryable"], true, "{trapped}");
    let message = trapped["message"].as_str().unwrap();
    assert!(message.contains("unreachable"), "{message}");
    // The name that the function has in it.
    let names_it = |stack: Value| {
        stack
            .as_str()
            .is_some_and(|text| text.contains("answering"))
    };
    assert!(stack.is_none_or(names_it), "{trapped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_in_python() {
    the_page_runs_in(Language::Python, "order-python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_in_go() {
    the_page_runs_in(Language::Go, "order-go").await;
}
