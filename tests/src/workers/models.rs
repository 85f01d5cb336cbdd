//! Models of workers: which each has, and what becomes of calls for those that the server, or
//! the worker that is asked, lacks.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::inference::{assert_close, import, model};
use crate::support::cli::Desk;
use crate::support::component;
use crate::support::worker::{Site, eventually};

/// Copies a store of models: what its manifests name is there before them.
fn copy_store(from: &Path, to: &Path) {
    for folder in ["blobs", "models"] {
        std::fs::create_dir_all(to.join(folder)).unwrap();
        for entry in std::fs::read_dir(from.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(folder).join(path.file_name().unwrap());
            // At once whole, for who looks at the folder meanwhile.
            let part = target.with_extension("part");
            std::fs::copy(&path, &part).unwrap();
            std::fs::rename(&part, &target).unwrap();
        }
    }
}

/// Says that there is another worker, of that queue and with that model.
async fn announce(site: &Site, token: &str, worker: Uuid, queue: &str, model: &str) {
    let body = json!({
        "worker": worker, "namespaces": ["default"], "queues": { queue: 1 }, "device": "cpu",
        "models": [{ "name": model, "task": "embed", "loaded": false }],
    });
    let announced = site
        .server
        .client
        .http
        .post(format!("{}/api/v1/worker/announcements", site.server.url))
        .bearer_auth(token)
        .json(&body)
        .send();
    assert_eq!(announced.await.unwrap().status(), StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_which_models_it_has_and_serves_those_that_its_server_lacks() {
    let Some(site) = Site::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    // It has a store of its own, and asks an endpoint too.
    let config = site.config(&format!(
        "[inference]\ndevice = 'cpu'\nmodels_dir = '{}'\n\
         [inference.remote.far]\nurl = 'http://127.0.0.1:1/v1'\nmodel = 'm'\ntask = 'generate'\n\
         window = 512\n",
        own.display()
    ));
    let worker = site.worker(&["--config", &config]).await;
    let client = &site.server.client;
    let desk = Desk::new(&site.server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    let announced = async || {
        let told = client.get("/workers").await.unwrap();
        let workers = told["workers"].as_array().unwrap();
        assert!(workers.len() <= 1, "{told}");
        let names = workers.first()?["models"].as_array().unwrap().iter();
        Some(names.map(|it| it["name"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(eventually(&announced).await, [json!("far")]);

    // What nobody has yet may be granted, and it is said.
    let granted = run("heyday grant thinker inference=small").await;
    granted.ok().says("no worker").says("heyday model list");
    // Its store is a copy of the server's, which has the model no more.
    let small = model("bert-cls", "refuse");
    let imported = import(client, "small", &small).await;
    copy_store(&site.server.data().join("models"), &own);
    let removed = client.request(Method::DELETE, "/models/small").send();
    assert_eq!(removed.await.unwrap().status(), StatusCode::NO_CONTENT);
    eventually(async || (announced().await?.len() == 2).then_some(())).await;
    let told = client.get("/workers").await.unwrap();
    let worker_told = &told["workers"][0];
    assert_eq!(worker_told["namespaces"], json!(["default"]));
    assert_eq!(worker_told["device"], "cpu");
    let queues = &worker_told["queues"];
    assert!(queues["ai-processing-queue"].is_u64(), "{told}");
    let expected = json!({
        "name": "small", "task": "embed", "digest": imported["digest"], "loaded": false,
    });
    assert_eq!(worker_told["models"][1], expected);
    let other = client.within("other").get("/workers").await.unwrap();
    assert_eq!(other["workers"], json!([]));
    let listed = run("heyday model workers").await;
    listed.ok().says("far, small").says("ai-processing-queue=");
    let listed = run("heyday model list").await;
    listed.ok().says("small").says("not here").says("1: ai-pro");
    let shown = client.get("/models/small").await.unwrap();
    assert_eq!(shown["here"], false, "{shown}");
    let at = &shown["workers"][0];
    assert_eq!(
        (&at["id"], &at["digest"]),
        (&worker_told["id"], &imported["digest"])
    );
    run("heyday binding list").await.ok().says("workers");
    let line = format!(
        "heyday doctor --data looked-at --engine temporal --temporal-address {} \
         --temporal-namespace {}",
        site.address, site.namespace
    );
    let looked = run(&line).await;
    looked.ok().says("inference small (workers)");

    let granted = run("heyday grant thinker inference=small").await.ok();
    assert!(!granted.stderr.contains("no worker"), "{granted}");
    let pushed = client.push(component("thinker"), "").await.unwrap();
    assert_eq!(pushed["active"], true, "{pushed}");
    let input = json!({ "model": "small", "texts": small.texts });
    let found = client.succeed("thinker.embed", &input).await.unwrap();
    assert_close(&found, &small.values);

    lacked(&site).await;
    std::fs::remove_file(own.join("models/small.json")).unwrap();
    eventually(async || {
        let shown = client.get("/models").await.unwrap();
        let has_it = shown.to_string().contains("small");
        (!has_it).then_some(())
    })
    .await;
    drop(worker);
}

/// Calls for models that the only worker lacks: of another one of its queue, of another queue, and
/// of nobody.
async fn lacked(site: &Site) {
    let client = &site.server.client;
    let token = site.token(&[]).await;
    for (model, queue, kind, told) in [
        (
            "beside",
            "ai-processing-queue",
            "unavailable",
            "another worker of the queue",
        ),
        ("away", "large-queue", "unknown-binding", "large-queue"),
        ("nobody-s", "", "unknown-binding", "no worker has it"),
    ] {
        client
            .grant("thinker", "inference", model, None)
            .await
            .unwrap();
        let input = json!({ "model": model, "texts": ["a"] });
        let worker = Uuid::now_v7();
        let mut failing = pin!(client.fail("thinker.embed", &input));
        // Who was not heard for long is forgotten.
        let failure: Value = loop {
            if !queue.is_empty() {
                announce(site, &token, worker, queue, model).await;
            }
            let failed = tokio::time::timeout(Duration::from_secs(1), &mut failing);
            if let Ok(failure) = failed.await {
                break failure.unwrap();
            }
        };
        assert_eq!(failure["kind"], kind, "{failure}");
        assert_eq!(failure["retryable"], kind == "unavailable", "{failure}");
        let message = failure["message"].as_str().unwrap();
        assert!(message.contains(told), "{failure}");
    }
}
