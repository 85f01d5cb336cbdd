//! `/v1/chat/completions` and `/v1/completions` over a decoder of the server's own, whose random
//! weights and likeliest text the reference made; and over a second server that asks the first.

use reqwest::Method;
use serde_json::json;

use crate::generation::{cases, conversation, widened};
use crate::inference::import_folder;
use crate::support::component;
use crate::support::server::{Options, Server};
use crate::support::worker::eventually;

/// Tokens of the model's window: more than anybody waits for.
const WINDOW: u32 = 100_000;
/// Tokens of an answer whose reader goes away.
const ENDLESS: u64 = 90_000;

/// Tokens that a server says it generated with that model.
async fn generated(server: &Server, model: &str) -> Option<u64> {
    let metrics = server.client.at(Method::GET, "/metrics").send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    let name = format!("heyday_api_model_tokens_total{{model=\"{model}\",direction=\"output\"}} ");
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_answers_the_official_client_and_another_server() {
    let case = conversation("llama-gqa");
    let prompts = cases("llama-gqa");
    let going_on = &prompts[0];
    assert!(going_on.request()["prompt"].is_string());
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("llama");
    widened(&case.model, &model, WINDOW);
    let near = super::server().await;
    for name in ["writer", "endless"] {
        import_folder(&near.client, name, &model).await;
    }
    let token = std::fs::read_to_string(near.data().join("token")).unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, token).unwrap();
    let remote = |name: &str| {
        format!(
            "[inference.remote.{name}]\nurl = '{}/v1'\nmodel = '{name}'\ntask = 'generate'\n\
             window = {WINDOW}\nkey_file = '{}'\n",
            near.url,
            key.display(),
        )
    };
    let config =
        "[inference]\ndevice = 'cpu'\n".to_owned() + &remote("writer") + &remote("endless");
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let far = Server::with(options).await.unwrap();

    let asked = json!({
        "model": "writer", "endless": "endless", "most": ENDLESS, "messages": case.messages,
        "text": case.text, "prompt_tokens": case.ids.len(), "tokens": case.next.len(),
        "going_on": {
            "prompt": going_on.request()["prompt"], "text": going_on.text,
            "prompt_tokens": going_on.ids.len(), "tokens": going_on.next.len(),
        },
    });
    let mut before = 0;
    for server in [&near, &far] {
        super::client(server, "decoder", &asked).await;
        // The client that went away in the middle stopped the model, wherever it runs.
        let more = async || {
            generated(&near, "endless")
                .await
                .filter(|all| *all > before)
        };
        let all = eventually(more).await;
        assert!(all - before < ENDLESS, "{} tokens", all - before);
        before = all;
    }
    let told = eventually(async || generated(&far, "endless").await).await;
    assert!((1..ENDLESS).contains(&told), "{told} tokens");

    // What a plugin gets is the same from far as from near.
    let client = &far.client;
    client
        .push(component("thinker"), "&allow_missing=true")
        .await
        .unwrap();
    client
        .grant("thinker", "inference", "writer", None)
        .await
        .unwrap();
    for case in [&case, going_on] {
        let input = json!({ "model": "writer", "request": case.request() });
        let found = client.succeed("thinker.generate", &input).await.unwrap();
        assert_eq!(
            found,
            json!({ "text": case.text, "summary": case.summary() })
        );
    }
}
