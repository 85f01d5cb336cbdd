//! Models that an endpoint runs, as a backend of inference: a stand-in of the test's own,
//! which fails as the test wants, and servers of ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use heyday_capabilities::Bindings;
use heyday_capabilities::inference::remote::{RemoteConfig, RemoteModel};
use heyday_inference::{
    Caller, FinishReason, GenerateRequest, Generation, InferenceError, LongText, Message, Meter,
    Remote, Role,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::stand_in::{DIMENSIONS, Fault, StandIn, WINDOW, embedding};
use crate::inference::{MINILM, assert_close, import, model};
use crate::support::cli::Desk;
use crate::support::component;
use crate::support::server::{Client, Options, PATIENCE, Server};
use crate::support::worker::eventually;

fn config(stand_in: &StandIn, task: &str, further: &Value) -> RemoteConfig {
    let mut config = json!({
        "url": stand_in.url, "model": "theirs", "task": task, "window": WINDOW, "timeout_ms": 30_000,
    });
    if task == "embed" {
        config["dimensions"] = json!(DIMENSIONS);
    }
    for (name, value) in further.as_object().unwrap() {
        config[name] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

fn remote(stand_in: &StandIn, task: &str, further: &Value) -> RemoteModel {
    let config = config(stand_in, task, further);
    RemoteModel::new("ours", &config, &Bindings::default(), Handle::current()).unwrap()
}

fn caller(plugin: &str) -> Caller {
    Caller {
        namespace: "default".to_owned(),
        plugin: plugin.to_owned(),
    }
}

async fn embed(remote: &RemoteModel, texts: &[&str]) -> Result<Vec<f32>, InferenceError> {
    let texts = texts.iter().map(|&text| text.to_owned()).collect();
    let found = remote
        .embed(&caller("me"), texts, LongText::Refuse, &Meter::start())
        .await?;
    Ok(found.values)
}

fn says(text: &str) -> GenerateRequest {
    GenerateRequest {
        messages: vec![Message {
            role: Role::User,
            content: text.to_owned(),
        }],
        ..GenerateRequest::default()
    }
}

async fn generate(remote: &RemoteModel, text: &str) -> Result<Generation, InferenceError> {
    let meter = Meter::start();
    remote.generate(&caller("me"), says(text), &meter).await
}

fn is_unavailable(error: &InferenceError) -> bool {
    matches!(error, InferenceError::Unavailable { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_scores_and_texts_are_those_of_the_endpoint() {
    let stand_in = StandIn::start().await;
    let model = remote(&stand_in, "embed", &json!({ "batch_texts": 2 }));
    let texts = ["one two", "eins", "a e i o u"].map(str::to_owned);
    let me = caller("me");
    let meter = Meter::start();
    let found = model.embed(&me, texts.to_vec(), LongText::Refuse, &meter);
    let found = found.await.unwrap();
    let expected: Vec<f32> = texts.iter().flat_map(|text| embedding(text)).collect();
    assert_eq!(found.values, expected);
    assert_eq!((found.dimensions, found.usage.tokens), (DIMENSIONS, 8));
    // Of three tokens of two texts, by their lengths.
    assert_eq!(found.tokens, [1, 2, 5]);
    let asked = stand_in.seen();
    assert_eq!(asked.len(), 2, "two texts at once");
    assert_eq!(asked[0].body["model"], "theirs");
    assert_eq!(asked[0].authorization, None);
    let none = model
        .embed(&caller("me"), Vec::new(), LongText::Refuse, &Meter::start())
        .await;
    assert_eq!(none.unwrap().values, Vec::<f32>::new());
    assert!(stand_in.seen().is_empty());

    let judge = remote(&stand_in, "rerank", &json!({}));
    let documents = ["b", "a a", "a"].map(str::to_owned).to_vec();
    let scores = judge.rerank(&me, "a".to_owned(), documents, LongText::Refuse, &meter);
    assert_eq!(scores.await.unwrap().values, [0.0, 2.0, 1.0]);

    let writer = remote(&stand_in, "generate", &json!({}));
    let mut answer = generate(&writer, "say it again").await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "say it again");
    let summary = *answer.summary().unwrap();
    assert_eq!(summary.finish_reason, FinishReason::Stop);
    assert_eq!((summary.prompt_tokens, summary.completion_tokens), (7, 3));
    assert_eq!(answer.usage().completion_tokens, 3);
    let prompt = GenerateRequest {
        prompt: Some("once upon".to_owned()),
        ..GenerateRequest::default()
    };
    let continued = writer.generate(&caller("me"), prompt, &meter).await;
    let mut continued = continued.unwrap();
    assert_eq!(continued.text().await.unwrap(), "once upon");
    let paths: Vec<String> = stand_in.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["rerank", "chat/completions", "completions"]);

    // What a model does not do is not asked.
    assert!(matches!(
        generate(&model, "x").await,
        Err(InferenceError::Unsupported { .. })
    ));
    assert!(matches!(
        embed(&writer, &["x"]).await,
        Err(InferenceError::Unsupported { .. })
    ));
    assert!(stand_in.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_are_too_long_are_treated_as_was_asked() {
    let stand_in = StandIn::start().await;
    let model = remote(&stand_in, "embed", &json!({}));
    let long = "word ".repeat(200);
    let texts = vec!["a".to_owned(), "b".to_owned(), long.clone(), "c".to_owned()];
    let ask = async |long| {
        model
            .embed(&caller("me"), texts.clone(), long, &Meter::start())
            .await
    };
    assert_eq!(
        ask(LongText::Refuse).await,
        Err(InferenceError::InputTooLong {
            model: "ours".to_owned(),
            index: 2,
            tokens: 200,
            window: WINDOW,
        })
    );
    let cut = ask(LongText::Truncate).await.unwrap();
    assert!((8..=16).contains(&cut.tokens[2]), "{cut:?}");
    assert_eq!(cut.values[..DIMENSIONS], embedding("a"));
    assert_eq!(cut.values[3 * DIMENSIONS..], embedding("c"));
    let split = ask(LongText::Split).await.unwrap();
    assert!((200..300).contains(&split.tokens[2]), "{split:?}");
    // The mean of pieces whose third number is always the same.
    assert!((split.values[2 * DIMENSIONS + 2] - 0.25).abs() < 1e-6);

    let judge = remote(&stand_in, "rerank", &json!({}));
    let documents = vec![format!("{long} needle {long}"), "x".to_owned()];
    let me = caller("me");
    let meter = Meter::start();
    let scores = judge.rerank(&me, "needle".to_owned(), documents, LongText::Split, &meter);
    assert_eq!(
        scores.await.unwrap().values,
        [1.0, 0.0],
        "the best piece counts"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_succeed_is_asked_again_and_not_for_ever() {
    let stand_in = StandIn::start().await;
    let model = remote(&stand_in, "embed", &json!({ "attempts": 3 }));
    let broken = Fault::Status(500, None, "");
    let begun = Instant::now();
    let busy = Fault::Status(429, Some("1"), "{\"error\":{\"message\":\"slowly\"}}");
    stand_in.fail([busy.clone(), broken.clone()]);
    assert_eq!(embed(&model, &["a"]).await.unwrap(), embedding("a"));
    assert_eq!(stand_in.seen().len(), 3);
    assert!(begun.elapsed() >= Duration::from_secs(1), "as it asked");

    stand_in.fail([broken.clone(), broken.clone(), broken]);
    let failed = embed(&model, &["a"]).await.unwrap_err();
    assert!(is_unavailable(&failed), "{failed:?}");
    assert_eq!(stand_in.seen().len(), 3);
    stand_in.fail([
        Fault::Status(429, None, ""),
        Fault::Status(429, None, ""),
        Fault::Status(429, None, ""),
    ]);
    assert_eq!(embed(&model, &["a"]).await, Err(InferenceError::Busy));
    assert_eq!(stand_in.seen().len(), 3);
    // One that wants to be left alone for long is busy at once.
    stand_in.fail([Fault::Status(429, Some("3600"), "")]);
    assert_eq!(embed(&model, &["a"]).await, Err(InferenceError::Busy));
    assert_eq!(stand_in.seen().len(), 1);

    for (fault, told) in [
        (
            Fault::Status(401, None, "{\"error\":{\"message\":\"wrong key\"}}"),
            "unavailable",
        ),
        (Fault::Status(404, None, ""), "unavailable"),
        (Fault::Status(307, None, ""), "unavailable"),
        (
            Fault::Status(400, None, "{\"error\":{\"message\":\"no such thing\"}}"),
            "no such thing",
        ),
        (Fault::Body("{\"data\":"), "unavailable"),
        (Fault::Body("{\"data\":[]}"), "unavailable"),
        (Fault::Oversize(8 << 20), "unavailable"),
    ] {
        stand_in.fail([fault.clone()]);
        let failed = embed(&model, &["a"]).await.unwrap_err();
        match told {
            "unavailable" => assert!(is_unavailable(&failed), "{fault:?}: {failed:?}"),
            _ => assert_eq!(failed, InferenceError::InvalidRequest(told.to_owned())),
        }
        assert_eq!(stand_in.seen().len(), 1, "{fault:?} is not asked again");
    }
    // The connection that was left is no hindrance.
    assert_eq!(embed(&model, &["a"]).await.unwrap(), embedding("a"));

    // Nobody is there.
    let nowhere = json!({ "attempts": 2, "url": "http://127.0.0.1:1/v1" });
    let gone = remote(&stand_in, "embed", &nowhere);
    assert!(is_unavailable(&embed(&gone, &["a"]).await.unwrap_err()));
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_given_up_and_so_is_what_nobody_waits_for() {
    let stand_in = StandIn::start().await;
    let hasty = remote(
        &stand_in,
        "embed",
        // Only the silent request is to be given up: what it leaves is waited for below.
        &json!({ "timeout_ms": 3_000, "attempts": 4 }),
    );
    stand_in.fail([Fault::Silence]);
    assert_eq!(embed(&hasty, &["a"]).await.unwrap(), embedding("a"));
    let left = async || {
        let left = tokio::time::timeout(PATIENCE, stand_in.left.acquire());
        left.await
            .expect("the endpoint's connection ends")
            .unwrap()
            .forget();
    };
    left().await;

    // Two at once, of which each caller may have half.
    let narrow = json!({ "concurrent": 1, "queue": 1 });
    let model = std::sync::Arc::new(remote(&stand_in, "embed", &narrow));
    stand_in.fail([Fault::Silence]);
    // Forgotten before the next is sent, or the one that is waited for below may be among them.
    stand_in.seen();
    let asked = {
        let model = std::sync::Arc::clone(&model);
        tokio::spawn(async move { embed(&model, &["a"]).await })
    };
    let begun = async {
        while stand_in.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, begun)
        .await
        .expect("it asks");
    assert_eq!(embed(&model, &["a"]).await, Err(InferenceError::Busy));
    asked.abort();
    left().await;
    assert_eq!(embed(&model, &["a"]).await.unwrap(), embedding("a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_never_begun_twice() {
    let stand_in = StandIn::start().await;
    let model = remote(&stand_in, "generate", &json!({}));
    // Before its first piece it may be.
    stand_in.fail([
        Fault::CutAfter(0),
        Fault::ErrorAfter(0),
        Fault::Status(503, None, ""),
    ]);
    let mut answer = generate(&model, "one two three").await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "one two three");
    assert_eq!(stand_in.seen().len(), 4);
    for fault in [Fault::CutAfter(2), Fault::ErrorAfter(2)] {
        stand_in.fail([fault.clone()]);
        let mut answer = generate(&model, "one two three").await.unwrap();
        let mut text = String::new();
        let failed = loop {
            match answer.next().await {
                Ok(Some(piece)) => text.push_str(&piece),
                Ok(None) => panic!("{fault:?} is no end"),
                Err(error) => break error,
            }
        };
        assert_eq!(text, "one two ");
        assert!(is_unavailable(&failed), "{failed:?}");
        assert_eq!(stand_in.seen().len(), 1, "{fault:?}");
        assert_eq!(answer.usage().completion_tokens, 2, "what came is counted");
    }
    let hasty = remote(&stand_in, "generate", &json!({ "timeout_ms": 5_000 }));
    stand_in.fail([Fault::SilentAfter(1)]);
    let mut answer = generate(&hasty, "one two").await.unwrap();
    assert_eq!(answer.next().await, Ok(Some("one ".to_owned())));
    assert!(is_unavailable(&answer.next().await.unwrap_err()));
    stand_in.left.acquire().await.unwrap().forget();

    // Who stops listening stops it.
    stand_in.fail([Fault::SilentAfter(1)]);
    let mut answer = generate(&model, "one two").await.unwrap();
    assert_eq!(answer.next().await, Ok(Some("one ".to_owned())));
    drop(answer);
    let left = tokio::time::timeout(PATIENCE, stand_in.left.acquire());
    left.await
        .expect("the endpoint's connection ends")
        .unwrap()
        .forget();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_a_text_keeps_its_place_from_nobody() {
    let stand_in = StandIn::start().await;
    // One at once.
    let narrow = json!({ "concurrent": 1, "queue": 0, "timeout_ms": 3_000 });
    let model = remote(&stand_in, "generate", &narrow);
    let begun = async |text: &str| {
        let begin = async || match generate(&model, text).await {
            Err(InferenceError::Busy) => None,
            begun => Some(begun.unwrap()),
        };
        eventually(begin).await
    };
    // Of the first more comes than is kept, the second one ends before anybody reads it.
    let long = format!("{} ", "x".repeat(1 << 10)).repeat(500);
    let mut behind = begun(&long).await;
    let mut unread = begun("one two three").await;
    let mut last = begun("four").await;
    assert_eq!(last.text().await.unwrap(), "four");
    assert_eq!(unread.text().await.unwrap(), "one two three");
    let mut bytes = 0;
    let failed = loop {
        match behind.next().await {
            Ok(Some(piece)) => bytes += piece.len(),
            Ok(None) => panic!("it is no end"),
            Err(error) => break error,
        }
    };
    let limited = matches!(failed, InferenceError::LimitExceeded(_));
    assert!(limited, "{failed:?}");
    assert!((256 << 10..long.len()).contains(&bytes), "{bytes}");
    // Who is told of an end finds the place free.
    for _ in 0..20 {
        let mut answer = generate(&model, "five").await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "five");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_be_a_secret_that_changes() {
    let stand_in = StandIn::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("models-key");
    std::fs::write(&key, "sk-one\n").unwrap();
    let bindings = serde_json::from_value(json!({ "namespaces": { "default": { "secrets": {
        "keys": { "folder": folder.path(), "names": { "models": "models-key" } },
    } } } }));
    let bindings = Bindings::open(&bindings.unwrap(), &Handle::current()).unwrap();
    let open = |secret: &str| {
        let config = config(&stand_in, "embed", &json!({ "key_secret": secret }));
        RemoteModel::new("ours", &config, &bindings, Handle::current())
    };
    let model = open("default/keys/models").unwrap();
    embed(&model, &["a"]).await.unwrap();
    std::fs::write(&key, "sk-two").unwrap();
    embed(&model, &["a"]).await.unwrap();
    let keys = stand_in
        .seen()
        .into_iter()
        .map(|seen| seen.authorization.unwrap());
    assert_eq!(keys.collect::<Vec<_>>(), ["Bearer sk-one", "Bearer sk-two"]);
    // An endpoint that says the key back tells it to nobody.
    let told = "{\"error\":{\"message\":\"what is sk-two?\"}}";
    stand_in.fail([Fault::Status(400, None, told)]);
    let failed = embed(&model, &["a"]).await.unwrap_err();
    assert_eq!(
        failed,
        InferenceError::InvalidRequest("what is ***?".to_owned())
    );
    stand_in.seen();
    // Without a key nothing is sent.
    std::fs::remove_file(&key).unwrap();
    assert!(is_unavailable(&embed(&model, &["a"]).await.unwrap_err()));
    assert!(stand_in.seen().is_empty());
    for secret in ["default/none/models", "models"] {
        let error = open(secret).unwrap_err().to_string();
        assert!(error.contains("key_secret"), "{error}");
    }
}

/// A configuration file with models of that endpoint, whose key lies in a folder: for one of them
/// as a secret. Another is of the stand-in.
fn file(url: &str, folder: &Path, stand_in: &StandIn) -> String {
    format!(
        "[inference]\ndevice = 'cpu'\n\
         [inference.remote.far]\nurl = '{url}'\nmodel = 'minilm'\ntask = 'embed'\n\
         dimensions = 384\nnormalized = true\nwindow = 256\nkey_file = '{folder}/key'\n\
         [inference.remote.far-judge]\nurl = '{url}'\nmodel = 'judge'\ntask = 'rerank'\n\
         window = 64\nkey_secret = 'default/keys/models'\n\
         [inference.remote.moody]\nurl = '{moody}'\nmodel = 'theirs'\ntask = 'embed'\n\
         dimensions = {DIMENSIONS}\nwindow = {WINDOW}\n\
         [bindings.namespaces.default.secrets.keys]\nfolder = '{folder}/secrets'\n\
         names = {{ models = 'key' }}\n",
        folder = folder.display(),
        moody = stand_in.url,
    )
}

/// A model that has too much to do fails an attempt, which is made again where it may be.
async fn busy_is_tried_again(client: &Client, stand_in: &StandIn) {
    let busy = || [Fault::Status(429, Some("3600"), "")];
    let input = json!({ "model": "moody", "texts": ["a"] });
    stand_in.fail(busy());
    let failure = client.fail("thinker.embed", &input).await.unwrap();
    assert_eq!(failure["kind"], "busy", "{failure}");
    assert_eq!(failure["retryable"], true, "{failure}");
    assert_eq!(stand_in.seen().len(), 1);
    stand_in.fail(busy());
    let again = client.succeed("thinker.embed?maximum_attempts=2", &input);
    assert_eq!(again.await.unwrap(), json!([embedding("a")]));
    assert_eq!(stand_in.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_asks_another_and_its_plugins_cannot_tell() {
    let minilm = model(MINILM, "refuse");
    let judge = model("rerank-bert", "truncate");
    let near = super::server().await;
    import(&near.client, "minilm", &minilm).await;
    import(&near.client, "judge", &judge).await;
    let stand_in = StandIn::start().await;
    let folder = tempfile::tempdir().unwrap();
    let token = std::fs::read_to_string(near.data().join("token")).unwrap();
    std::fs::create_dir(folder.path().join("secrets")).unwrap();
    let keep = |key: &str| {
        for file in ["key", "secrets/key"] {
            std::fs::write(folder.path().join(file), key).unwrap();
        }
    };
    keep("not-the-key-yet");
    let options = Options {
        config: Some(file(&format!("{}/v1", near.url), folder.path(), &stand_in)),
        ..Options::default()
    };
    let far = Server::with(options).await.unwrap();
    let client = &far.client;
    client
        .push(component("thinker"), "&allow_missing=true")
        .await
        .unwrap();
    for name in ["far", "far-judge", "moody"] {
        client
            .grant("thinker", "inference", name, None)
            .await
            .unwrap();
    }
    let embed = json!({ "model": "far", "texts": minilm.texts });
    // The wrong key stands in no answer and in no log; the right one needs no restart.
    for (path, ask) in [
        ("embeddings", json!({ "model": "far", "input": "a" })),
        (
            "rerank",
            json!({ "model": "far-judge", "query": "a", "documents": ["b"] }),
        ),
    ] {
        let asked = client.at(Method::POST, &format!("/v1/{path}")).json(&ask);
        let refused = asked.send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        let said: Value = refused.json().await.unwrap();
        assert_eq!(said["error"]["code"], "model_unavailable");
        assert!(!said.to_string().contains("not-the-key-yet"), "{said}");
    }
    let log = far.log();
    assert!(
        log.matches("401").count() >= 2 && !log.contains("not-the-key-yet"),
        "{log}"
    );
    keep(&format!("{}\n", token.trim()));
    let found = client.succeed("thinker.embed", &embed).await.unwrap();
    assert_close(&found, &minilm.values);
    let asked = json!({
        "model": "far-judge", "query": judge.query, "documents": judge.texts,
    });
    let scores = client.succeed("thinker.rerank", &asked).await.unwrap();
    assert_close(&json!([scores]), &[judge.values.concat()]);
    let listed = client.succeed("thinker.list", &Value::Null).await.unwrap();
    assert_eq!(listed, json!(["far", "far-judge", "moody"]));
    busy_is_tried_again(client, &stand_in).await;
    let log = far.log();
    assert!(!log.contains(token.trim()), "{log}");

    let desk = Desk::new(&far).unwrap();
    let config = far.data().join("test-config.toml");
    let line = format!("heyday doctor --config {}", config.display());
    let found = desk.run("", &line).await.unwrap();
    let found = found
        .says("it answers, and has minilm")
        .says("it answers, and has judge");
    let (_, of_far) = found.stdout.split_once("inference far (remote)").unwrap();
    for (line, check) in of_far.lines().skip(1).zip(["reach", "clock", "latency"]) {
        assert!(line.contains(check), "{found}");
    }

    // By the protocol too, and by the client.
    let asked = json!({
        "model": "far", "judge": "far-judge", "texts": minilm.texts, "dimensions": 384,
        "created": false,
    });
    let found = super::client(&far, "embeddings", &asked).await;
    assert_close(&found["vectors"], &minilm.values);
    let models = client.rows("/models?page_size=1", "models").await.unwrap();
    let named: BTreeMap<&str, bool> = models
        .iter()
        .map(|model| {
            let remote = model["remote"].as_bool().unwrap_or_default();
            (model["name"].as_str().unwrap(), remote)
        })
        .collect();
    assert_eq!(
        named,
        BTreeMap::from([("far", true), ("far-judge", true), ("moody", true)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_chats_and_may_go_away() {
    // Three endpoints: one that is well, and two that are not after their first piece.
    let (well, silent, broken) = (
        StandIn::start().await,
        StandIn::start().await,
        StandIn::start().await,
    );
    silent.fail([Fault::SilentAfter(1)]);
    broken.fail([Fault::ErrorAfter(1)]);
    let of = |name: &str, stand_in: &StandIn| {
        format!(
            "[inference.remote.{name}]\nurl = '{}'\nmodel = 'theirs'\ntask = 'generate'\n\
             window = 4096\n",
            stand_in.url
        )
    };
    let config = [
        "[inference]\ndevice = 'cpu'\n".to_owned(),
        of("well", &well),
        of("silent", &silent),
        of("broken", &broken),
    ];
    let options = Options {
        config: Some(config.concat()),
        ..Options::default()
    };
    let server = Server::with(options).await.unwrap();
    let question = "what is said twice is said";
    let asked = json!({
        "model": "well", "question": question, "silent": "silent", "broken": "broken",
    });
    let said = super::client(&server, "chat", &asked).await;
    assert_eq!(said["whole"], question);
    assert_eq!(said["streamed"], question);
    let seen = well.seen();
    assert_eq!(seen[0].body["messages"][0]["role"], "system");
    assert_eq!(
        (&seen[0].body["seed"], &seen[0].body["max_tokens"]),
        (&json!(7), &json!(50))
    );
    // The client left in the middle: so did the server.
    let left = tokio::time::timeout(PATIENCE, silent.left.acquire());
    left.await
        .expect("the endpoint's connection ends")
        .unwrap()
        .forget();
    for model in ["silent", "broken"] {
        let line =
            format!("heyday_api_model_tokens_total{{model=\"{model}\",direction=\"output\"}} 1");
        eventually(async || {
            let metrics = server.client.at(Method::GET, "/metrics").send().await;
            let metrics = metrics.unwrap().text().await.unwrap();
            metrics.lines().any(|found| found == line).then_some(())
        })
        .await;
    }
}
