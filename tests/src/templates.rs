//! Chat templates that are made to do harm: each ends with its own process, and the server goes
//! on. What is counted is what minijinja's own budget does not.

use std::time::Duration;

use heyday_inference::templates::{Around, ChatError};
use heyday_inference::{Message, Role, Templates};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::generation::{cases, copy};
use crate::support::binary;
use crate::support::server::Server;

/// Lists that are added to each other: 2^60 numbers.
const LISTS: &str = "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = ns.x + \
                     ns.x %}{% endfor %}{{ ns.x | length }}";

fn says(content: &str) -> Vec<Message> {
    vec![Message {
        role: Role::User,
        content: content.to_owned(),
    }]
}

#[test]
fn a_template_that_does_too_much_ends_with_its_process() {
    let templates = Templates::Child(binary());
    let prompt = |template: &str| templates.prompt(template, &says("hi"), Around::default());
    assert_eq!(
        prompt("{{ messages[0].content }}!"),
        Ok("hi!".to_owned()),
        "one that does no harm"
    );
    let nested = "{% set ns = namespace(x=[1], y=[1]) %}{% for a in range(60) %}{% set ns.x = \
                  [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
    std::thread::scope(|scope| {
        for (what, template) in [
            ("memory", LISTS.to_owned()),
            (
                "memory of a text",
                format!("{nested}{{{{ ns.x | tojson }}}}"),
            ),
            ("time", format!("{nested}{{{{ ns.x == ns.y }}}}")),
        ] {
            scope.spawn(move || assert_eq!(prompt(&template), Err(ChatError::TooMuch), "{what}"));
        }
    });
    // Chains are read as deep as there is a stack for them.
    for (link, last, times) in [
        ("-", "1", 65_000),
        ("x+", "x", 32_000),
        ("not ", "x", 16_000),
        ("x|", "trim", 32_000),
        ("(", "1", 65_000),
    ] {
        let chain = format!("{{{{ {}{last} }}}}", link.repeat(times));
        let read = templates.check(&chain);
        assert!(
            !matches!(read, Err(ChatError::Unavailable(_))),
            "{link}: {read:?}"
        );
    }
}

/// The most memory that the server had so far, in KiB.
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_outlives_the_template_of_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("llama");
    copy(&cases("llama-gqa")[0].model, &model, |name, file| {
        if name == "tokenizer_config.json" {
            file["chat_template"] = json!(format!(
                "{{% if messages[0].content == 'now' %}}{LISTS}{{% endif %}}{{{{ \
                 messages[0].content }}}}"
            ));
        }
    });
    let server = crate::inference::server(&[("llama", model.as_path())]).await;
    let ask = async |content: &str| {
        let body = json!({
            "model": "llama", "messages": [{ "role": "user", "content": content }],
            "max_tokens": 4, "temperature": 0,
        });
        let request = server.client.at(Method::POST, "/v1/chat/completions");
        let request = request.json(&body).timeout(Duration::from_secs(120));
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.json::<Value>().await.unwrap())
    };
    let (status, before) = ask("hi").await;
    assert_eq!(status, StatusCode::OK, "{before}");
    let memory = peak(&server);
    let (status, body) = ask("now").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("does too much"), "{message}");
    // The process that ended had half a GiB.
    let more = peak(&server) - memory;
    assert!(more < 100 << 10, "{more} KiB more");
    let (status, after) = ask("hi").await;
    assert_eq!(status, StatusCode::OK, "{after}");
    assert_eq!(after["choices"], before["choices"]);

    // One that is no template does not come in.
    let broken = folder.path().join("broken");
    copy(&model, &broken, |name, file| {
        if name == "tokenizer_config.json" {
            file["chat_template"] = json!("{% for %}");
        }
    });
    let body = json!({ "name": "broken", "path": broken });
    let request = server.client.request(Method::POST, "/models").json(&body);
    let refused = request.send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let text = refused.text().await.unwrap();
    assert!(text.contains("chat template"), "{text}");
}
