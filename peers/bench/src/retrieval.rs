//! How well the knowledge example's search finds what people judged to be an answer, over
//! this repository's own documentation: by words, by vectors and by both, without a model
//! and with all-MiniLM-L6-v2. The peer of each is the search by words alone.
//!
//! The questions are split into two halves, each second one: what weighs vectors against
//! words may be chosen by the first, and every figure is of the second. Both come in the
//! order of the documents, so each half asks of all of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::http::Connection;
use crate::report::{Figure, Goal, Report};
use crate::servers::Heyday;
use crate::support::example::{self, DOCUMENTS, FLOWS, PLUGINS};
use crate::support::judged::{self, Judgement, TOP};

/// The name that the model is given.
const MODEL: &str = "minilm";
/// Vectors' weights that are tried.
const WEIGHTS: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
/// Nothing takes longer: a debug build computes all passages, too.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where what is searched lies.
#[derive(Args)]
pub struct Options {
    /// Our binary.
    #[arg(long)]
    heyday: PathBuf,
    /// This repository.
    #[arg(long)]
    repository: PathBuf,
    /// The folder of all-MiniLM-L6-v2; without it, only what needs no model is measured.
    #[arg(long)]
    minilm: Option<PathBuf>,
}

/// The server, and what is asked of it.
struct Search {
    heyday: Heyday,
    client: Connection,
    passages: Vec<String>,
    chosen_by: Vec<Judgement>,
    reported: Vec<Judgement>,
    weights: &'static [f64],
}

/// Measures all of it. `probe` lies among the example's components.
pub async fn run(
    report: &mut Report,
    probe: &Path,
    options: &Options,
    quick: bool,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut questions = judged::all(&options.repository.join("tests"));
    if quick {
        questions.truncate(4);
    }
    let wanted = |name: &str| {
        let mut relevant = questions.iter().flat_map(|question| &question.relevant);
        !quick || relevant.any(|it| it.key == name)
    };
    let documents = folder.path().join("documents");
    std::fs::create_dir(&documents)?;
    for entry in std::fs::read_dir(options.repository.join("docs"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_file() && wanted(&name.to_string_lossy()) {
            std::fs::copy(&path, documents.join(name))?;
        }
    }
    let config = folder.path().join("heyday.toml");
    std::fs::write(&config, example::embedded(folder.path()))?;
    let components = probe.parent().context("--probe lies in a folder")?;
    println!("starting Heyday");
    let heyday = Heyday::configured(&options.heyday, &config).await?;
    let client = heyday.connect().await?;
    let halves = questions.chunks(2);
    let mut search = Search {
        heyday,
        client,
        passages: Vec::new(),
        chosen_by: halves.clone().map(|two| two[0].clone()).collect(),
        reported: halves.filter_map(|two| two.get(1).cloned()).collect(),
        weights: if quick { &WEIGHTS[4..5] } else { &WEIGHTS },
    };
    search.install(&options.repository, components).await?;
    search.synchronize(&json!(null)).await?;
    search.passages = judged::passages(&folder.path().join("work"));
    println!(
        "{} passages; {} questions to choose by, {} that are reported",
        search.passages.len(),
        search.chosen_by.len(),
        search.reported.len()
    );
    let words = search.ndcg(&search.reported.clone(), "text", None).await?;
    add(report, "words", words, None, None);
    search.measure(report, "hashed", words, None).await?;
    let Some(model) = &options.minilm else {
        return Ok(());
    };
    search.use_model(model, components).await?;
    let at_least = Goal::RatioAtLeast(1.0);
    search.measure(report, MODEL, words, Some(at_least)).await
}

fn add(report: &mut Report, name: &str, value: f64, words: Option<f64>, goal: Option<Goal>) {
    report.add(Figure {
        name: format!("retrieval.{name}"),
        value,
        unit: "nDCG",
        peer: words.map(|words| ("words", words)),
        goal,
    });
}

impl Search {
    /// Vectors, and vectors with words by the weight that the search takes by itself.
    async fn measure(
        &mut self,
        report: &mut Report,
        name: &str,
        words: f64,
        goal: Option<Goal>,
    ) -> anyhow::Result<()> {
        let reported = self.reported.clone();
        let vectors = self.ndcg(&reported, "vector", None).await?;
        let both = self.ndcg(&reported, "hybrid", None).await?;
        add(
            report,
            &format!("vectors.{name}"),
            vectors,
            Some(words),
            None,
        );
        add(report, &format!("both.{name}"), both, Some(words), goal);
        let chosen_by = self.chosen_by.clone();
        let mut best = (0.0, 0.0);
        print!("    the first half by vectors' weight:");
        for &weight in self.weights {
            let found = self.ndcg(&chosen_by, "hybrid", Some(weight)).await?;
            print!(" {weight} {found:.3},");
            if found > best.1 {
                best = (weight, found);
            }
        }
        let itself = self.ndcg(&chosen_by, "hybrid", None).await?;
        println!(" by itself {itself:.3}");
        let found = self.ndcg(&reported, "hybrid", Some(best.0)).await?;
        println!("    best {}: the second half {found:.3}", best.0);
        Ok(())
    }

    /// The mean over questions.
    async fn ndcg(
        &mut self,
        questions: &[Judgement],
        mode: &str,
        alpha: Option<f64>,
    ) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for question in questions {
            let mut input = json!({ "text": question.query, "mode": mode, "limit": TOP });
            if let Some(alpha) = alpha {
                input["alpha"] = json!(alpha);
            }
            let found = self.flow("knowledge.search", &input).await?;
            let found = found["passages"].as_array().context("no passages")?;
            let ndcg = question.ndcg(found, &self.passages);
            sum += ndcg.with_context(|| format!("no passage answers {:?}", question.query))?;
        }
        Ok(sum / questions.len().max(1) as f64)
    }

    async fn install(&mut self, repository: &Path, components: &Path) -> anyhow::Result<()> {
        for (plugin, grants) in PLUGINS {
            for (capability, binding) in *grants {
                self.grant(plugin, capability, binding).await?;
            }
            self.push(components, plugin).await?;
        }
        let mut flows = Vec::new();
        for name in FLOWS {
            let path = repository.join(format!("examples/knowledge/flows/{name}.yaml"));
            let text = std::fs::read_to_string(&path);
            flows.push(text.with_context(|| path.display().to_string())?);
        }
        let flows: Vec<&str> = flows.iter().map(String::as_str).collect();
        self.heyday.push_flows(&flows).await
    }

    /// From now on passages and questions have the model's vectors.
    async fn use_model(&mut self, folder: &Path, components: &Path) -> anyhow::Result<()> {
        let body = json!({ "name": MODEL, "path": folder });
        self.send(Method::POST, "models", &body).await?;
        self.grant("models", "blob", "work").await?;
        self.grant("models", "inference", MODEL).await?;
        self.push(components, "models").await?;
        self.flow("knowledge.reset", &json!(null)).await?;
        self.synchronize(&json!({ "embedding": MODEL })).await
    }

    async fn push(&mut self, components: &Path, plugin: &str) -> anyhow::Result<()> {
        let path = components.join(format!("{plugin}.wasm"));
        let component = std::fs::read(&path).with_context(|| path.display().to_string())?;
        self.heyday.push(&component).await?;
        // The server has closed what was idle while it compiled.
        self.client = self.heyday.connect().await?;
        Ok(())
    }

    async fn grant(&mut self, plugin: &str, capability: &str, binding: &str) -> anyhow::Result<()> {
        let body = json!({
            "subject": plugin,
            "capability": capability,
            "binding": binding,
            "mode": (binding == DOCUMENTS).then_some("ro"),
        });
        self.send(Method::PUT, "grants", &body).await.map(drop)
    }

    /// Processes the documents, and waits for all of them.
    async fn synchronize(&mut self, input: &Value) -> anyhow::Result<()> {
        self.flow("knowledge.sync", input).await?;
        let query = "workflows?query=ExecutionStatus%20%3D%20%27Running%27";
        loop {
            let page = self.get(query).await?;
            let Some(run) = page["workflows"].get(0) else {
                return Ok(());
            };
            let id = run["workflow_id"].as_str().context("a run without an id")?;
            self.ended(id).await?;
        }
    }

    /// Runs a flow and answers its result.
    async fn flow(&mut self, kind: &str, input: &Value) -> anyhow::Result<Value> {
        let body = json!({ "workflow_type": kind, "input": input });
        let started = self.send(Method::POST, "workflows", &body).await?;
        let id = started["workflow_id"].as_str().context("no workflow_id")?;
        let mut ended = self.ended(id).await?;
        if ended["status"] != "Completed" {
            bail!("{kind} ended otherwise: {ended}");
        }
        Ok(ended["result"].take())
    }

    async fn ended(&mut self, id: &str) -> anyhow::Result<Value> {
        let path = format!("workflows/{id}/result?wait=20s");
        let waiting = async {
            loop {
                let ended = self.get(&path).await?;
                if ended["status"] != "Running" {
                    return Ok(ended);
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, waiting).await;
        ended.with_context(|| format!("{id} does not end"))?
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        self.client.get_json(&format!("/api/v1/{path}")).await
    }

    async fn send(&mut self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let path = format!("/api/v1/{path}");
        let body = Bytes::from(body.to_string());
        let sent = self.client.send(method, &path, "application/json", body);
        let answer = sent.await?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
