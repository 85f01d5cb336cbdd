//! `cargo xtask up`: the main job, from nothing: builds everything, starts Heyday, uploads
//! the knowledge example's plugins and flows, processes a folder of documents and searches
//! it. Stays up until Ctrl-C; with CI=true it ends after its search.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::guests;
use crate::process::{self, Project, in_ci, timed};

/// Plugins of the example and what each may reach: capability, binding, mode.
const PLUGINS: &[(&str, &[&str])] = &[
    ("extract", &["blob=documents:ro", "blob=work"]),
    ("split", &["blob=work"]),
    (
        "index",
        &["blob=documents:ro", "blob=work", "sql=knowledge"],
    ),
];

/// Failed documents that are named one by one.
const SHOWN: usize = 20;

/// What to process and where to keep it.
#[derive(Args)]
pub struct Options {
    /// The folder of documents [default: this repository's docs].
    #[arg(long)]
    documents: Option<PathBuf>,
    /// Where Heyday keeps its data [default: target/up, or a temporary folder with CI=true].
    #[arg(long)]
    data: Option<PathBuf>,
    /// The port to listen on [default: 8000, or a free one with CI=true].
    #[arg(long)]
    port: Option<u16>,
    /// What to search for when the documents are processed.
    #[arg(long, default_value = "what survives a crash")]
    search: String,
}

/// A server that is stopped when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM drains; the process is ours and not yet waited for.
        // SAFETY: kill has no preconditions.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

/// The command line of the running server.
struct Cli<'a> {
    binary: &'a Path,
    url: String,
    token_file: PathBuf,
}

impl Cli<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binary);
        command
            .env("HEYDAY_SERVER", &self.url)
            .env_remove("HEYDAY_TOKEN")
            .arg("--token-file")
            .arg(&self.token_file)
            .args(arguments);
        command
    }

    fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        let text = process::output(&mut self.command(&all))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        process::run(self.command(arguments).stdout(Stdio::null()))
    }
}

/// Runs the main job.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    timed("building the guests", || guests::build(project))?;
    timed("building Heyday", || process::build_binary(project))?;
    let documents = match &options.documents {
        Some(folder) => std::fs::canonicalize(folder)
            .with_context(|| format!("--documents {}", folder.display()))?,
        None => project.root.join("docs"),
    };
    let data = match &options.data {
        Some(folder) => std::path::absolute(folder)?,
        None if in_ci() => std::env::temp_dir().join(format!("heyday-up-{}", std::process::id())),
        None => project.target.join("up"),
    };
    let result = serve(project, options, &documents, &data);
    if in_ci() && options.data.is_none() {
        std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
    }
    result
}

fn serve(
    project: &Project,
    options: &Options,
    documents: &Path,
    data: &Path,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(data)?;
    let config = data.join("up.toml");
    std::fs::write(&config, configuration(documents, data))?;
    let port = match options.port {
        Some(port) => port,
        None if in_ci() => std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port(),
        None => 8000,
    };
    let binary = project.binary();
    let mut server = Server(
        Command::new(&binary)
            .args(["up", "--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(data)
            .arg("--config")
            .arg(&config)
            .arg("--cache")
            .arg(project.cache())
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?,
    );
    let cli = Cli {
        binary: &binary,
        url: format!("http://127.0.0.1:{port}"),
        token_file: data.join("token"),
    };
    wait_until_ready(&mut server, &cli)?;
    timed("uploading the example", || upload(project, &cli))?;
    timed("processing the documents", || synchronize(&cli, documents))?;
    search(&cli, &options.search)?;
    print_next(&cli, &options.search);
    if in_ci() {
        return Ok(());
    }
    println!(
        "Heyday stays up; Ctrl-C ends it and keeps everything under {}.",
        data.display()
    );
    let status = server.0.wait()?;
    if status.success() {
        Ok(())
    } else {
        bail!("heyday ended with {status}")
    }
}

fn configuration(documents: &Path, data: &Path) -> String {
    let text = |path: &Path| json!(path.to_string_lossy()).to_string();
    format!(
        "[bindings.namespaces.default.blob.documents]\npath = {}\nread_only = true\n\n\
         [bindings.namespaces.default.blob.work]\npath = {}\n\n\
         [bindings.namespaces.default.sql.knowledge]\npath = {}\n",
        text(documents),
        text(&data.join("work")),
        text(&data.join("knowledge.db")),
    )
}

fn wait_until_ready(server: &mut Server, cli: &Cli<'_>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(status) = server.0.try_wait()? {
            bail!("heyday ended with {status}");
        }
        let health = cli
            .command(&["health"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if health.success() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("heyday is not ready after 2 minutes");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn upload(project: &Project, cli: &Cli<'_>) -> anyhow::Result<()> {
    for (plugin, grants) in PLUGINS {
        let component = project.components().join(format!("{plugin}.wasm"));
        let component = component.to_string_lossy();
        for grant in *grants {
            cli.run(&["grant", plugin, grant])?;
        }
        // Every build is a version of its own, so that an edited plugin needs no number.
        cli.run(&["plugin", "push", &component, "--dev"])?;
        println!("plugin {plugin}: granted {}", grants.join(", "));
    }
    for flow in ["document-processing.yaml", "sync.yaml"] {
        let path = project.root.join("examples/knowledge/flows").join(flow);
        cli.run(&["flow", "push", &path.to_string_lossy()])?;
        println!("flow {flow}");
    }
    Ok(())
}

/// Compares the folder with the catalogue, and waits for what that started.
fn synchronize(cli: &Cli<'_>, documents: &Path) -> anyhow::Result<()> {
    let since = jiff::Timestamp::now();
    let outcome = cli.json(&["workflow", "start", "knowledge.sync", "--wait"])?;
    let summary = &outcome["result"];
    let started = summary["started"].as_u64().unwrap_or_default();
    println!(
        "{}: {} documents, {started} new or changed",
        documents.display(),
        summary["seen"].as_u64().unwrap_or_default()
    );
    let filter = |status: &str| {
        format!(
            "WorkflowType = 'knowledge.document-processing' AND ExecutionStatus = '{status}' AND StartTime >= '{since}'"
        )
    };
    let mut last = u64::MAX;
    loop {
        let open = list(cli, &filter("Running"))?.len() as u64;
        if open == 0 {
            break;
        }
        if open != last {
            println!("{open} of {started} documents to go");
            last = open;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("{} processed", list(cli, &filter("Completed"))?.len());
    let failed = list(cli, &filter("Failed"))?;
    for run in failed.iter().take(SHOWN) {
        let id = run["workflow_id"].as_str().unwrap_or_default();
        let outcome = cli.json_of_failed(id)?;
        println!(
            "failed: {}",
            outcome["failure"]["message"].as_str().unwrap_or(id)
        );
    }
    if failed.len() > SHOWN {
        println!(
            "failed: {} more; `heyday workflow list` has them all",
            failed.len() - SHOWN
        );
    }
    Ok(())
}

impl Cli<'_> {
    /// The result of a run that failed: the command says so by its exit code too.
    fn json_of_failed(&self, id: &str) -> anyhow::Result<Value> {
        let output = self
            .command(&["--output", "json", "workflow", "result", id])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// All runs that fit a filter; the command prints one page a line.
fn list(cli: &Cli<'_>, query: &str) -> anyhow::Result<Vec<Value>> {
    let arguments = [
        "--output", "json", "workflow", "list", "--all", "--limit", "1000", "--query", query,
    ];
    let text = process::output(&mut cli.command(&arguments))?;
    let mut runs = Vec::new();
    for line in text.lines() {
        let page: Value =
            serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        runs.extend(page["workflows"].as_array().cloned().unwrap_or_default());
    }
    Ok(runs)
}

fn search(cli: &Cli<'_>, text: &str) -> anyhow::Result<()> {
    let input = json!({ "text": text, "limit": 3 }).to_string();
    let outcome = cli.json(&["activity", "run", "index.search", "--input", &input])?;
    println!("\nsearch for {text:?}:");
    let passages = outcome["result"]["passages"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if passages.is_empty() {
        bail!("the search found nothing: {outcome}");
    }
    for passage in passages {
        let line: String = passage["text"]
            .as_str()
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let line: String = line.chars().take(160).collect();
        println!(
            "  {} ({}), passage {}: {line}",
            passage["title"].as_str().unwrap_or_default(),
            passage["key"].as_str().unwrap_or_default(),
            passage["position"]
        );
    }
    Ok(())
}

fn print_next(cli: &Cli<'_>, text: &str) {
    let heyday = format!(
        "{} --server {} --token-file {}",
        cli.binary.display(),
        cli.url,
        cli.token_file.display()
    );
    let input = json!({ "text": text });
    println!("\nTry:");
    println!("  {heyday} activity run index.search --input '{input}'");
    println!("  {heyday} workflow list");
    println!("  {heyday} plugin list");
}
