//! `heyday doctor`: whether everything that the configuration names can be used from here.
//!
//! It takes the options of `heyday up` and reads the same configuration, opens the
//! bindings in this process and asks each; no server needs to run. On a worker's machine it
//! shows what that worker will meet. Where workers run the activities and the server answers,
//! it also shows which models they have.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use heyday::config::{Config, EngineKind};
use heyday_capabilities::diagnosis::{Diagnosis, Finding, Findings, Health};
use heyday_capabilities::inference::remote::RemoteModel;
use heyday_capabilities::{BindingError, Bindings};
use heyday_durable::temporal;
use heyday_inference::model::Limits;
use heyday_inference::{Device, ModelStore, Templates};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::client::Request;
use super::error::CliError;
use super::options::GlobalOptions;
use super::output::{Output, one_line};
use super::state;
use super::up::UpArgs;
use super::view;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// As `up` is told.
    #[command(flatten)]
    pub up: UpArgs,
}

/// Looks at everything, and tells.
pub async fn run(args: DoctorArgs, global: &GlobalOptions) -> Result<(), CliError> {
    let output = global.output();
    let config = args.up.config(global)?;
    let (runtime, reserved) = (Handle::current(), config.reserved());
    let bindings = Bindings::open_with(&config.bindings(), &runtime, None, &reserved);
    let bindings = bindings.map_err(refused)?;
    let mut all = Vec::new();
    let (found, place) = state::diagnose(&config).await?;
    let backend = if config.state.url.is_some() {
        "postgres"
    } else {
        "sqlite"
    };
    tell(&output, &format!("state ({backend})"), &found)?;
    all.push(json!({ "capability": "state", "backend": backend, "findings": found }));
    if config.engine == EngineKind::Temporal {
        let found = cluster(&config).await;
        tell(&output, "engine (temporal)", &found)?;
        all.push(json!({ "capability": "engine", "backend": "temporal", "findings": found }));
    }
    if config.engine == EngineKind::Temporal {
        for (name, found) in of_workers(&workers(global).await) {
            tell(&output, &format!("inference {name} (workers)"), &found)?;
            all.push(
                json!({ "capability": "inference", "name": name, "backend": "workers",
                             "findings": found }),
            );
        }
    }
    for (name, found) in models(&config) {
        tell(&output, &format!("inference {name} (models)"), &found)?;
        all.push(
            json!({ "capability": "inference", "name": name, "backend": "models",
                         "findings": found }),
        );
    }
    for (name, remote) in &config.inference.remote {
        let found = match RemoteModel::new(name, remote, &bindings, Handle::current()) {
            Ok(model) => model.diagnose().await,
            Err(error) => {
                let key = format!("inference.remote.{name}");
                return Err(CliError::usage(format!("{key}: {error}")));
            }
        };
        tell(&output, &format!("inference {name} (remote)"), &found)?;
        all.push(
            json!({ "capability": "inference", "name": name, "backend": "remote",
                         "findings": found }),
        );
    }
    let mut failed = all.iter().any(has_failed);
    let mut told = Ok(());
    bindings
        .diagnose(place, |diagnosis: Diagnosis| {
            let Diagnosis {
                namespace,
                capability,
                name,
                backend,
                findings,
            } = &diagnosis;
            let title = format!("{capability} {name} of {namespace} ({backend})");
            if told.is_ok() {
                told = tell(&output, &title, findings);
            }
            let value = json!(diagnosis);
            failed |= has_failed(&value);
            all.push(value);
        })
        .await;
    bindings.close().await;
    told?;
    if output.is_json() {
        output.raw_json(json!({ "diagnoses": all }).to_string().as_bytes())?;
    }
    if failed {
        return Err(CliError::Unusable(
            "something that the configuration names cannot be used".to_owned(),
        ));
    }
    Ok(())
}

fn has_failed(diagnosis: &serde_json::Value) -> bool {
    let findings = diagnosis["findings"].as_array();
    findings.is_some_and(|all| all.iter().any(|it| it["status"] == "failed"))
}

fn refused(error: BindingError) -> CliError {
    CliError::usage(with_cause(&error))
}

fn tell(output: &Output, title: &str, findings: &[Finding]) -> Result<(), CliError> {
    if output.is_json() {
        return Ok(());
    }
    let style = output.style;
    let mut text = style.bold(title);
    for finding in findings {
        let word = match finding.status {
            Health::Ok => "ok",
            Health::Warning => "warning",
            Health::Failed => "failed",
        };
        // Padding goes outside of the paint, so that colours do not disturb it.
        let fill = " ".repeat(9 - word.len());
        let painted = if finding.status == Health::Warning {
            style.warn(word)
        } else {
            style.status(word)
        };
        text.push_str(&format!(
            "\n  {painted}{fill}{:12}{}",
            finding.check,
            one_line(&finding.found)
        ));
        if let Some(advice) = &finding.advice {
            text.push_str(&format!(
                "\n           {} {}",
                style.hint("help:"),
                one_line(advice)
            ));
        }
    }
    output.line(&text)
}

/// The device that models compute on, where there are models, and each model.
fn models(config: &Config) -> Vec<(String, Vec<Finding>)> {
    let folder = config.models_dir();
    let limits = Limits {
        model_bytes: config.inference.model_bytes(),
        templates: Templates::of_this_program(),
    };
    let one = |look: &dyn Fn(&mut Findings)| {
        let mut findings = Findings::default();
        look(&mut findings);
        findings.into_inner()
    };
    let store = match ModelStore::open(&folder, limits) {
        Ok(store) => store,
        Err(error) => {
            let found = one(&|findings| {
                findings.fail(
                    "reach",
                    with_cause(&error),
                    "let this user read the folder, or correct `inference.models_dir`",
                );
            });
            return vec![("store".to_owned(), found)];
        }
    };
    let models = store.list();
    if models.is_empty() {
        return Vec::new();
    }
    let device = config
        .inference
        .options()
        .and_then(|options| Device::open(options.device));
    let device = one(&|findings| match &device {
        Ok(device) => findings.ok("reach", device.name()),
        Err(error) => findings.fail(
            "reach",
            with_cause(error),
            "correct `inference.device`, install the driver, or use `cpu`",
        ),
    });
    let mut all = vec![("device".to_owned(), device)];
    for model in models {
        let verified = store.verify(&model.name);
        let found = one(&|findings| match &verified {
            Ok(model) => {
                let bytes: u64 = model.files.iter().map(|file| file.size).sum();
                findings.ok("reach", format!("whole, {} MiB", bytes.div_ceil(1 << 20)));
                findings.ok("version", format!("sha256:{}", model.digest));
            }
            Err(error) => findings.fail(
                "reach",
                with_cause(error),
                format!(
                    "remove it and import it again: heyday model remove {}",
                    model.name
                ),
            ),
        });
        all.push((model.name.clone(), found));
    }
    all
}

/// The workers that the server was told of; none where it does not answer, or not to us.
async fn workers(global: &GlobalOptions) -> Vec<Value> {
    let Ok(context) = global.context() else {
        return Vec::new();
    };
    let list = Request::get(&["workers"]).query("page_size", "1000");
    let told = context.client.send(&list).await;
    let told = told.and_then(|answer| answer.json());
    told.map_or_else(
        |_| Vec::new(),
        |told| view::rows_of(&told, "workers").to_vec(),
    )
}

/// The models that these workers have: how many of each queue's, and whether all of them mean
/// the same by its name.
fn of_workers(workers: &[Value]) -> Vec<(String, Vec<Finding>)> {
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    let mut models: BTreeMap<String, (BTreeMap<String, usize>, BTreeSet<String>)> = BTreeMap::new();
    for worker in workers {
        let queues = || worker["queues"].as_object().into_iter().flatten();
        for (queue, _) in queues() {
            *all.entry(queue.clone()).or_default() += 1;
        }
        for model in view::rows_of(worker, "models") {
            let (having, digests) = models.entry(view::text(model, "name")).or_default();
            digests.insert(view::text(model, "digest"));
            for (queue, _) in queues() {
                *having.entry(queue.clone()).or_default() += 1;
            }
        }
    }
    let told = models.into_iter().map(|(name, (having, digests))| {
        let mut findings = Findings::default();
        let of_all = having.iter().map(|(queue, count)| {
            let all = all.get(queue).copied().unwrap_or_default();
            format!("{count} of {all} of {queue}")
        });
        let of_all: Vec<String> = of_all.collect();
        findings.ok(
            "workers",
            format!("it is at these workers: {}", of_all.join(", ")),
        );
        if digests.len() > 1 {
            findings.warn(
                "version",
                format!("{} different models have this name", digests.len()),
                "import the same one at all workers, or give each a name of its own",
            );
        }
        (name, findings.into_inner())
    });
    told.collect()
}

fn with_cause(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

async fn cluster(config: &Config) -> Vec<Finding> {
    let mut findings = Findings::default();
    match temporal::look(&config.temporal_options()).await {
        Ok(cluster) => {
            findings.ok("reach", format!("answered in {:.1?}", cluster.connected_in));
            findings.took(cluster.answered_in);
            findings.ok("version", format!("Temporal {}", cluster.version));
            for (namespace, kept) in cluster.retention {
                let kept = kept.map_or_else(
                    || "for a time that it does not say".to_owned(),
                    |kept| format!("for {} h", kept.as_secs() / 3_600),
                );
                findings.ok(
                    "rights",
                    format!("the namespace {namespace} is there, and keeps ended runs {kept}"),
                );
            }
        }
        Err(why) => findings.fail(
            "reach",
            why,
            "start the cluster, or correct --temporal-address, --temporal-namespace or its \
             credentials",
        ),
    }
    findings.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_workers_have_a_model_is_counted_by_queue() {
        let model = |name: &str, digest: &str| json!({ "name": name, "digest": digest });
        let workers = [
            json!({ "queues": { "gpu": 5, "general-queue": 5 },
                "models": [model("small", "a"), model("large", "b")] }),
            json!({ "queues": { "gpu": 5 }, "models": [model("small", "c")] }),
            json!({ "queues": { "general-queue": 5 }, "models": [] }),
        ];
        let [(first, large), (second, small)] = &of_workers(&workers)[..] else {
            panic!("not two models");
        };
        assert_eq!((first.as_str(), second.as_str()), ("large", "small"));
        let [found] = &large[..] else {
            panic!("not one finding: {large:?}");
        };
        assert!(
            found
                .found
                .ends_with(": 1 of 2 of general-queue, 1 of 2 of gpu"),
            "{found:?}"
        );
        let [found, differ] = &small[..] else {
            panic!("not two findings: {small:?}");
        };
        assert!(
            found
                .found
                .ends_with("1 of 2 of general-queue, 2 of 2 of gpu"),
            "{found:?}"
        );
        assert_eq!(differ.status, Health::Warning, "{differ:?}");
        assert!(of_workers(&[]).is_empty());
    }
}
