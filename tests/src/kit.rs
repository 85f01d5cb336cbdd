//! The specification's own conformance kit, run over the API of the real server.
//!
//! Its two public hosts are served by a local server whose address is put into the
//! scenarios' text. Scenarios that need what is refused today are listed by name.

use serde_json::Value;

use crate::support::gherkin::{self, Scenario, quoted};
use crate::support::server::{Options, Server};
use crate::support::{http_server, specification, temporal};

/// Scenarios whose definition is refused, and the task that it names.
const REFUSED: &[(&str, &str)] = &[
    ("Call OpenAPI With Content Output", "openapi"),
    ("Call OpenAPI With Response Output", "openapi"),
];

#[tokio::test(flavor = "multi_thread")]
async fn conformance_kit() {
    conformance_kit_with(Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_kit_on_temporal() {
    if let Some((address, namespace)) = temporal::namespace() {
        conformance_kit_with(Options::on_temporal(&address, &namespace)).await;
    }
}

async fn conformance_kit_with(options: Options) {
    let Some(folder) = specification() else {
        return;
    };
    let address = http_server::pets().await.unwrap();
    let server = Server::with(options).await.unwrap();
    server.wait_for_engine().await.unwrap();
    let mut names = Vec::new();
    let mut features: Vec<_> = std::fs::read_dir(folder.join("ctk/features"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "feature")
        })
        .collect();
    features.sort();
    let mut failures = Vec::new();
    for path in features {
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace("https://petstore.swagger.io", &format!("http://{address}"))
            .replace("https://httpbin.org", &format!("http://{address}"));
        for (index, scenario) in gherkin::parse(&text).unwrap().into_iter().enumerate() {
            names.push(scenario.name.clone());
            // The kit uses one name for several definitions.
            let version = format!("1.0.{}", names.len());
            let feature = path.file_stem().unwrap().to_string_lossy().into_owned();
            if let Err(error) = run(&server, &scenario, &version, &address.to_string()).await {
                failures.push(format!("{feature} #{index} {:?}: {error:#}", scenario.name));
            }
        }
    }
    assert_eq!(names.len(), 21, "{names:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn yaml(text: &str) -> Value {
    // The kit's blocks are plain YAML; the product's own reader is what reads them.
    heyday_durable::flow::read(text.as_bytes()).expect("YAML")
}

/// One step's check, as an error where it does not hold.
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            anyhow::bail!($($message)+);
        }
    };
}

async fn run(
    server: &Server,
    scenario: &Scenario,
    version: &str,
    host: &str,
) -> anyhow::Result<()> {
    let mut name = String::new();
    let mut input = Value::Null;
    let mut ended: Option<(String, Value)> = None;
    let mut order: Vec<String> = Vec::new();
    for step in &scenario.steps {
        let block = step.block.as_deref();
        let text = step.text.as_str();
        match text {
            "a workflow with definition:" => {
                let definition = block
                    .unwrap_or_default()
                    .replace("version: '1.0.0'", &format!("version: '{version}'"));
                let response = server.client.push_flow(&definition).await?;
                if let Some((_, task)) = REFUSED
                    .iter()
                    .find(|(refused, _)| *refused == scenario.name)
                {
                    let status = response.status();
                    let body = response.text().await?;
                    check!(status == 422 && body.contains(task), "{status}: {body}");
                    return Ok(());
                }
                let flow = crate::support::server::Client::ok(response).await?;
                name = flow["name"].as_str().unwrap_or_default().to_owned();
                server
                    .client
                    .grant(&name, "http", &format!("*:{host}"), None)
                    .await?;
            }
            "the workflow input is:" => input = yaml(block.unwrap_or_default()),
            "the workflow is executed" => {
                let id = server.client.start(&name, &input).await?;
                let outcome = server.client.result(&id).await?;
                order = tasks(server, &id).await?;
                ended = Some((outcome.status, outcome.body));
            }
            _ => {
                let Some((status, body)) = &ended else {
                    anyhow::bail!("{text:?} before the execution")
                };
                then(text, block, status, body, &order)?;
            }
        }
    }
    check!(ended.is_some(), "never executed");
    Ok(())
}

/// The names of the tasks that ran, in order.
async fn tasks(server: &Server, id: &str) -> anyhow::Result<Vec<String>> {
    let history = server
        .client
        .get(&format!("/workflows/{id}/history?limit=1000"))
        .await?;
    let mut names = Vec::new();
    for event in history["events"].as_array().into_iter().flatten() {
        let tasks = event["attributes"]["tasks"].as_array();
        for task in tasks.into_iter().flatten() {
            let reference = task.as_str().unwrap_or_default();
            names.push(reference.rsplit('/').next().unwrap_or_default().to_owned());
        }
    }
    Ok(names)
}

fn then(
    text: &str,
    block: Option<&str>,
    status: &str,
    body: &Value,
    order: &[String],
) -> anyhow::Result<()> {
    let output = &body["result"];
    let position = |name: &str| order.iter().position(|task| task == name);
    match text {
        "the workflow should complete" => check!(status == "Completed", "{body}"),
        "the workflow should complete with output:" => {
            check!(status == "Completed", "{body}");
            let expected = yaml(block.unwrap_or_default());
            check!(*output == expected, "{output} is not {expected}");
        }
        "the workflow should fault" => check!(status == "Failed", "{body}"),
        "the workflow should fault with error:" => {
            check!(status == "Failed", "{body}");
            let error = &body["failure"]["details"];
            for (member, expected) in yaml(block.unwrap_or_default())
                .as_object()
                .into_iter()
                .flatten()
            {
                check!(
                    error.get(member) == Some(expected),
                    "{member}: {error} is not {expected}"
                );
            }
        }
        _ if text.starts_with("the workflow output should have properties") => {
            for path in quoted(text) {
                check!(property(output, path).is_some(), "no {path} in {output}");
            }
        }
        _ if text.ends_with("property with value:") => {
            let path = quoted(text)[0];
            let expected = yaml(block.unwrap_or_default());
            check!(
                property(output, path) == Some(&expected),
                "{path} of {output} is not {expected}"
            );
        }
        _ if text.contains("property containing") => {
            let path = quoted(text)[0];
            let count: usize = text
                .split("containing ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next())
                .unwrap_or_default()
                .parse()?;
            let items = property(output, path)
                .and_then(Value::as_array)
                .map(Vec::len);
            check!(
                items == Some(count),
                "{path} of {output} has {items:?} items, not {count}"
            );
        }
        _ if text.ends_with("should run first") => {
            let name = text.split(' ').next().unwrap_or_default();
            check!(
                position(name) == Some(0),
                "{name} is not first in {order:?}"
            );
        }
        _ if text.ends_with("should run last") => {
            let name = text.split(' ').next().unwrap_or_default();
            check!(
                order.last().map(String::as_str) == Some(name),
                "{name} is not last in {order:?}"
            );
        }
        _ if text.contains(" should run after ") => {
            let (name, other) = text.split_once(" should run after ").unwrap_or_default();
            check!(
                position(name) > position(other) && position(other).is_some(),
                "{name} not after {other} in {order:?}"
            );
        }
        _ => anyhow::bail!("the step {text:?} is not known"),
    }
    Ok(())
}

fn property<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(value, |value, name| value.get(name))
}
