//! The command line over the real server, where no scene of another test has it: versions
//! that are stored and not active, what lacks grants, lists, a cancel, inputs from files,
//! completions, and what ends with an exit code of its own.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::handmade::{DESCRIPTION, Handmade};
use crate::support::ports::free_port;
use crate::support::probe;
use crate::support::server::{Client, Options, Server, end_with_parent};
use crate::support::signals::signal;
use crate::support::worker::eventually;
use crate::support::{binary, cache, component};

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_stored_and_activated_later() {
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    let answer = async || {
        let answer = server.client.succeed("handmade.answer", &Value::Null).await;
        answer.unwrap()
    };
    let second = Handmade {
        description: &DESCRIPTION.replace("1.0.0", "2.0.0"),
        output: "43",
        ..Handmade::default()
    };
    for (name, bytes) in [
        ("first.wasm", Handmade::default().build()),
        ("second.wasm", second.build()),
    ] {
        std::fs::write(desk.path().join(name), bytes).unwrap();
    }
    let pushed = run("heyday plugin push first.wasm").await.ok();
    pushed.says("handmade 1.0.0 is active");
    let staged = run("heyday plugin push second.wasm --no-activate").await;
    staged
        .ok()
        .says("handmade 2.0.0 is stored, not active")
        .says("heyday plugin activate handmade 2.0.0");
    assert_eq!(answer().await, 42);
    let shown = run("heyday plugin show handmade -o json").await.ok().json();
    assert_eq!(shown["active"], "1.0.0", "{shown}");
    let activated = run("heyday plugin activate handmade 2.0.0").await.ok();
    activated.says("handmade 2.0.0 is active");
    assert_eq!(answer().await, 43);
    // What it would be made is one or the other.
    run("heyday plugin push second.wasm --no-activate --allow-missing")
        .await
        .code(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_without_its_grants_is_active_when_that_is_said() {
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    for (name, bytes) in [
        ("first.wasm", component("probe")),
        ("second.wasm", probe::version("7.1.2")),
    ] {
        std::fs::write(desk.path().join(name), bytes).unwrap();
    }
    let stored = run("heyday plugin push first.wasm").await.ok();
    stored
        .says("is stored, not active")
        .says("probe lacks grants: blob, graph, kv, sql, vector");
    let activate = format!("heyday plugin activate probe {}", probe::VERSION);
    let refused = run(&activate).await.code(4);
    refused.says("sql");
    let activated = run(&format!("{activate} --allow-missing")).await.ok();
    activated.says("is active");
    server.client.works().await;
    let input = json!({ "binding": "default", "statement": "SELECT 1" });
    let failure = server.client.fail("probe.sql_run", &input).await.unwrap();
    assert_eq!(failure["kind"], "capability-denied", "{failure}");

    let pushed = run("heyday plugin push second.wasm --allow-missing -o json").await;
    let pushed = pushed.ok().json();
    assert_eq!(pushed["version"], "7.1.2", "{pushed}");
    assert_eq!(pushed["active"], true, "{pushed}");
    server.client.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_is_listed_and_a_version_of_it_removed() {
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    for version in ["1.0.0", "1.1.0"] {
        let text = format!(
            "document: {{dsl: 1.0.3, namespace: tests, name: waits, version: {version}}}\ndo: [{{hour: {{wait: PT1H}}}}]\n"
        );
        std::fs::write(desk.path().join(format!("{version}.yaml")), text).unwrap();
    }
    run("heyday flow push 1.0.0.yaml").await.ok();
    run("heyday workflow start tests.waits --id open")
        .await
        .ok();
    run("heyday flow push 1.1.0.yaml").await.ok();
    let listed = run("heyday flow list").await.ok();
    let row = listed
        .stdout
        .lines()
        .find(|row| row.contains("tests.waits"));
    assert!(row.is_some_and(|row| row.contains("1.1.0")), "{listed}");
    let listed = run("heyday flow list -o json").await.ok();
    assert!(
        listed.json().to_string().contains("tests.waits"),
        "{listed}"
    );

    let active = run("heyday flow remove tests.waits 1.1.0").await;
    active.code(4).says("is active");
    // The open run needs it.
    run("heyday flow remove tests.waits 1.0.0").await.code(4);
    run("heyday workflow cancel open").await.ok();
    let outcome = server.client.result("open").await.unwrap();
    assert_eq!(outcome.status, "Canceled", "{}", outcome.body);
    let removed = run("heyday flow remove tests.waits 1.0.0").await.ok();
    removed.says("tests.waits 1.0.0 is removed");
    run("heyday flow remove tests.waits 1.0.0").await.code(3);
    run("heyday flow show tests.waits 1.0.0").await.code(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_cancelled_and_its_queue_shows_it_before() {
    let server = probe::server(Options::default()).await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    let in_flight = async || {
        let listed = run("heyday queue list -o json").await.ok().json();
        let queues = listed["queues"].as_array().unwrap().clone();
        assert_eq!(queues.len(), 3, "{listed}");
        let counts = queues.iter().map(|queue| queue["in_flight"].as_u64());
        counts.map(Option::unwrap).sum::<u64>()
    };
    assert_eq!(in_flight().await, 0);
    let id = server.client.start_waiting().await.unwrap();
    assert_eq!(in_flight().await, 1);
    let listed = run("heyday queue list").await.ok();
    for (name, limit) in [
        ("ai-processing-queue", "5"),
        ("storage-queue", "20"),
        ("general-queue", "50"),
    ] {
        let row = listed.stdout.lines().find(|row| row.contains(name));
        let row = row.unwrap_or_else(|| panic!("no {name} in {listed}"));
        assert!(row.split_whitespace().any(|word| word == limit), "{listed}");
    }

    let line = format!("heyday workflow cancel {id} --reason 'no longer needed'");
    let asked = run(&line).await.ok();
    asked
        .says("was asked to cancel")
        .says(&format!("heyday workflow result {id}"));
    let outcome = server.client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Canceled", "{}", outcome.body);
    let text = outcome.body.to_string();
    assert!(text.contains("no longer needed"), "{text}");
    let ended = run(&format!("heyday workflow result {id}")).await;
    ended.code(1).says("was cancelled");
    // It is over, and another one never was.
    run(&line).await.code(4);
    run("heyday workflow cancel nobody").await.code(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_is_read_from_a_file() {
    let server = probe::server(Options::default()).await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    for (name, text) in [
        ("sum.json", "{\"a\": 1, \"b\": 2}"),
        ("none.json", "{a: 1}"),
    ] {
        std::fs::write(desk.path().join(name), text).unwrap();
    }
    let ran = run("heyday activity run probe.add --input @sum.json -o json").await;
    let ended = ran.ok().json();
    assert_eq!(ended["result"]["sum"], 3, "{ended}");
    run("heyday activity run probe.add --input @none.json")
        .await
        .code(2)
        .says("none.json is not JSON");
    run("heyday activity run probe.add --input @missing.json")
        .await
        .code(2)
        .says("missing.json cannot be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_over_first_ends_with_124_and_the_run_goes_on() {
    let server = probe::server(Options::default()).await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    let id = server.client.start_waiting().await.unwrap();
    run(&format!("heyday workflow result {id} --wait=200ms"))
        .await
        .code(124)
        .says("it goes on")
        .says(&format!("heyday workflow result {id}"));
    run("heyday activity run probe.wait_for_cancel --wait=200ms")
        .await
        .code(124)
        .says("it goes on")
        .says("heyday workflow result");
    let shown = run(&format!("heyday workflow show {id} -o json"))
        .await
        .ok();
    assert_eq!(shown.json()["status"], "Running", "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_server_answers_the_exit_code_is_5() {
    // Nobody else is given it, and nothing listens there any more.
    let url = format!("http://127.0.0.1:{}", free_port());
    let desk = Desk::of(&Client::new(&url, "a-token")).unwrap();
    for line in ["heyday health", "heyday plugin list", "heyday token list"] {
        let ended = desk.run("", line).await.unwrap().code(5);
        ended.says(&url).says("heyday up");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_a_port_is_refused_and_told_another_way() {
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let address = server.url.strip_prefix("http://").unwrap();
    let line = format!("heyday up --data other --listen {address}");
    let refused = desk.run_with("", &line, &[]).await.unwrap().code(4);
    refused.says(address).says("--listen");
    // Where no folder is named it is the user's own, of which only one server can be.
    let user = desk.path().join("user");
    std::fs::create_dir(&user).unwrap();
    std::os::unix::fs::symlink(server.data(), user.join("heyday")).unwrap();
    let line = format!("heyday up --listen 127.0.0.1:{}", free_port());
    let environment = [("XDG_DATA_HOME", user.to_str().unwrap())];
    let refused = desk.run_with("", &line, &environment).await.unwrap();
    let own = user.join("heyday").display().to_string();
    refused.code(4).says(&own).says("--data");
    // The first is as it was.
    desk.run("", "heyday health").await.unwrap().ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_works_on_where_nobody_reads_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(binary());
    command
        .args(["up", "--listen", &address, "--data"])
        .arg(folder.path())
        .env("HEYDAY_CACHE", cache())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    end_with_parent(&mut command);
    let mut server = command.spawn().unwrap();
    drop(server.stdout.take());
    let client = Client::new(&format!("http://{address}"), "");
    eventually(async || {
        let health = client.http.get(format!("{}/health", client.url()));
        let answer = health.send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    // It ends when it is asked to, and not before.
    signal(server.id(), libc::SIGINT);
    let ended = tokio::task::spawn_blocking(move || server.wait_with_output());
    let ended = ended.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(said.contains("Stopped. Open runs go on"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_for_each_shell_completes_the_commands() {
    // It asks no server.
    let desk = Desk::of(&Client::new("http://127.0.0.1:1", "")).unwrap();
    let run = async |line: &str| desk.run_with("", line, &[]).await.unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let printed = run(&format!("heyday completions {shell}")).await.ok();
        for word in ["workflow", "completions", "namespace"] {
            assert!(printed.stdout.contains(word), "no {word} in {printed}");
        }
    }
    let unknown = run("heyday completions tcsh").await.code(2);
    unknown.says("fish");
}
