//! `cargo xtask up`: the main job, from nothing: builds everything, starts Heyday, uploads
//! the knowledge example's plugins and flows, processes a folder of documents and searches
//! it. Stays up until Ctrl-C; with CI=true it runs the commands that it would print and
//! ends.

mod cli;
mod folder;
mod runs;
mod show;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use self::cli::{Cli, Server, stopping};
use self::folder::Files;
use self::runs::{DOCUMENTS, Runs};
use self::show::{Progress, documents, step};
use crate::guests;
use crate::process::{self, Project, in_ci};

/// Plugins of the example and what each may reach: capability, binding, mode.
const PLUGINS: &[(&str, &[&str])] = &[
    ("extract", &["blob=documents:ro", "blob=work"]),
    ("split", &["blob=work"]),
    (STAND_IN, &["blob=work"]),
    ("entities", &["blob=work", "graph=knowledge"]),
    ("answer", &[]),
    (
        "index",
        &[
            "blob=documents:ro",
            "blob=work",
            "sql=knowledge",
            "vector=knowledge",
        ],
    ),
];

/// The plugin that makes vectors where there is no model.
const STAND_IN: &str = "hashed-ngram-embedding";

/// The plugin that asks models; only where there is one.
const MODELS: &str = "models";

/// Flows of the example.
const FLOWS: [&str; 5] = [
    "document-processing",
    "sync",
    "search",
    "question-answering",
    "reset",
];

/// What is searched for in this repository's own documentation.
const OWN_SEARCH: &str = "what survives a crash";

/// Memory of one call of `extract`: a document of 64 MiB is held several times over.
const EXTRACT_MEMORY: u64 = 768 << 20;

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
    /// What to search for when the documents are processed [default: a document's title].
    #[arg(long)]
    search: Option<String>,
    /// The folder of a model that makes embeddings: the search finds by its vectors too.
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// The folder of a model that generates text: it can answer questions.
    #[arg(long, value_name = "FOLDER")]
    generate: Option<PathBuf>,
}

/// A model for the example.
struct Model {
    /// What it is called here.
    name: String,
    folder: PathBuf,
}

impl Model {
    /// That of an option.
    fn find(option: &str, folder: Option<&PathBuf>) -> anyhow::Result<Option<Self>> {
        let Some(folder) = folder else {
            return Ok(None);
        };
        let folder = std::fs::canonicalize(folder)
            .with_context(|| format!("{option} {}", folder.display()))?;
        if !folder.is_dir() {
            bail!("{option} {}: not a folder", folder.display());
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let name = model_name(&name);
        Ok(Some(Self { name, folder }))
    }

    /// Makes it known to the server, and to the example's plugin for models.
    fn import(&self, cli: &Cli) -> anyhow::Result<()> {
        cli.run(&[
            "model",
            "import",
            &self.name,
            &self.folder.to_string_lossy(),
        ])?;
        cli.run(&["grant", MODELS, &format!("inference={}", self.name)])?;
        println!("  model {}", self.name);
        Ok(())
    }
}

/// The name of the model in a folder of that name; the hub's cache has `models--ORG--NAME`.
fn model_name(folder: &str) -> String {
    let name = folder.rsplit("--").next().unwrap_or_default();
    let name = name.to_ascii_lowercase();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    match name.chars().take(63).map(allowed).collect::<String>() {
        none if none.is_empty() => "model".to_owned(),
        name => name,
    }
}

/// Runs the main job.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    let folder = match &options.documents {
        Some(folder) => std::fs::canonicalize(folder)
            .with_context(|| format!("--documents {}", folder.display()))?,
        None => project.root.join("docs"),
    };
    if !folder.is_dir() {
        bail!("--documents {}: not a folder", folder.display());
    }
    let data = match &options.data {
        Some(folder) => std::path::absolute(folder)?,
        None if in_ci() => std::env::temp_dir().join(format!("heyday-up-{}", std::process::id())),
        None => project.target.join("up"),
    };
    let models = Models {
        embeds: Model::find("--model", options.model.as_ref())?,
        generates: Model::find("--generate", options.generate.as_ref())?,
    };
    std::fs::create_dir_all(&data).with_context(|| format!("--data {}", data.display()))?;
    let place = data.canonicalize()?;
    if place.starts_with(&folder) || folder.starts_with(&place) {
        bail!(
            "the data, in {}, and the documents, in {}, must not lie within each other: name \
             another folder with --data",
            place.display(),
            folder.display()
        );
    }
    // Told before the builds, which take minutes.
    port(options)?;
    step("building the guests", || guests::build(project))?;
    step("building Heyday", || process::build_binary(project))?;
    cli::catch_interrupts();
    let result = serve(project, options, &models, &folder, &data);
    if in_ci() && options.data.is_none() {
        std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
    }
    match result {
        // What failed was cut off by the stop.
        Err(_) if stopping() => {
            println!("Stopped. The same command goes on where it was.");
            Ok(())
        }
        other => other,
    }
}

fn serve(
    project: &Project,
    options: &Options,
    models: &Models,
    folder: &Path,
    data: &Path,
) -> anyhow::Result<()> {
    let config = data.join("up.toml");
    std::fs::write(&config, configuration(folder, data))?;
    let port = port(options)?;
    let binary = project.binary();
    let cli = Cli::new(&binary, port, data);
    let mut server = step("starting Heyday", || {
        let mut server = Server::start(
            Command::new(&binary)
                .args(["up", "--listen", &format!("127.0.0.1:{port}"), "--data"])
                .arg(data)
                .arg("--config")
                .arg(&config)
                .arg("--cache")
                .arg(project.cache()),
        )?;
        cli.wait_until_ready(&mut server)?;
        Ok(server)
    })?;
    step("uploading the example's plugins and flows", || {
        upload(project, &cli)?;
        models.import(project, &cli)
    })?;
    synchronize(&mut server, &cli, folder, models.embeds.as_ref())?;
    report(project, options, models, &cli)?;
    if in_ci() {
        return Ok(());
    }
    println!(
        "\nHeyday stays up at {}; Ctrl-C ends it and keeps everything in {}.",
        cli.url(),
        data.display()
    );
    server.stay()?;
    println!("Stopping.");
    Ok(())
}

/// The port to listen on.
fn port(options: &Options) -> anyhow::Result<u16> {
    free(options.port.unwrap_or(if in_ci() { 0 } else { 8000 }))
}

/// That port, or any for 0, where it is free: the server would name an option of its own
/// otherwise.
fn free(port: u16) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
        format!(
            "port {port} of 127.0.0.1 cannot be listened on; end what has it, or name another \
             one with --port"
        )
    })?;
    Ok(listener.local_addr()?.port())
}

fn configuration(documents: &Path, data: &Path) -> String {
    let text = |path: &Path| json!(path.to_string_lossy()).to_string();
    format!(
        "[bindings.namespaces.default.blob.documents]\npath = {}\nread_only = true\n\n\
         [bindings.namespaces.default.blob.work]\npath = {}\n\n\
         [bindings.namespaces.default.sql.knowledge]\npath = {}\n\n\
         [bindings.namespaces.default.vector.knowledge]\npath = {}\n\n\
         [bindings.namespaces.default.graph.knowledge]\npath = {}\n\n\
         [limits.plugins.extract]\nmemory_bytes = {EXTRACT_MEMORY}\n",
        text(documents),
        text(&data.join("work")),
        text(&data.join("knowledge.db")),
        text(&data.join("vectors.db")),
        text(&data.join("graph")),
    )
}

/// The models of the options.
struct Models {
    embeds: Option<Model>,
    generates: Option<Model>,
}

impl Models {
    /// Makes them known, and uploads what asks them.
    fn import(&self, project: &Project, cli: &Cli) -> anyhow::Result<()> {
        let both = [&self.embeds, &self.generates];
        let mut models = both.into_iter().flatten().peekable();
        if models.peek().is_none() {
            return Ok(());
        }
        for model in models {
            model.import(cli)?;
        }
        cli.run(&["grant", MODELS, "blob=work"])?;
        push(project, cli, MODELS)?;
        println!("  plugin {MODELS}, granted blob=work and these");
        Ok(())
    }
}

/// Uploads a plugin. Every build is a version of its own, so that an edited one needs no
/// number.
fn push(project: &Project, cli: &Cli, plugin: &str) -> anyhow::Result<()> {
    let component = project.components().join(format!("{plugin}.wasm"));
    cli.run(&["plugin", "push", &component.to_string_lossy(), "--dev"])
}

fn upload(project: &Project, cli: &Cli) -> anyhow::Result<()> {
    for (plugin, grants) in PLUGINS {
        for grant in *grants {
            cli.run(&["grant", plugin, grant])?;
        }
        push(project, cli, plugin)?;
        let granted = if grants.is_empty() {
            "nothing"
        } else {
            &grants.join(", ")
        };
        println!("  plugin {plugin}, granted {granted}");
    }
    for flow in FLOWS {
        let path = format!("examples/knowledge/flows/{flow}.yaml");
        let path = project.root.join(path);
        cli.run(&["flow", "push", &path.to_string_lossy()])?;
        println!("  flow {flow}");
    }
    Ok(())
}

/// Compares the folder with the catalogue, and waits for what that starts. With a model, all
/// documents have its embeddings then.
fn synchronize(
    server: &mut Server,
    cli: &Cli,
    folder: &Path,
    model: Option<&Model>,
) -> anyhow::Result<()> {
    if cli.count(&Runs::open())? > 0 {
        // It goes on by itself; to compare before it is done would start those documents
        // again.
        step("going on with the documents of the last time", || {
            let left = unknown(cli, &Files::of(folder))?;
            follow(server, cli, jiff::Timestamp::now(), left)
        })?;
    }
    let input = match model {
        None => {
            forget_older(cli)?;
            json!(null)
        }
        Some(model) => {
            let overview = cli.activity("index.overview", &json!({}))?;
            let had = overview["embedding"]["name"].as_str();
            if let Some(had) = had.filter(|had| *had != model.name) {
                let name = format!("forgetting the embeddings of {had}");
                step(&name, || {
                    cli.flow("knowledge.reset", &json!(null)).map(drop)
                })?;
            }
            json!({ "embedding": model.name })
        }
    };
    let files = Files::of(folder);
    let new = unknown(cli, &files)?;
    let name = format!("processing what is new in {}", folder.display());
    let (summary, runs) = step(&name, || {
        let since = jiff::Timestamp::now();
        let input = input.to_string();
        let started = cli.json(&["workflow", "start", "knowledge.sync", "--input", &input])?;
        let id = started["workflow_id"].as_str().unwrap_or_default();
        // The comparison goes on while the first documents are processed.
        let runs = follow(server, cli, since, new)?;
        Ok((cli.json(&["workflow", "result", id])?, runs))
    })?;
    let count = |name: &str| summary["result"][name].as_u64().unwrap_or_default();
    println!(
        "  {}: {} new or changed, {} gone",
        documents(count("seen")),
        show::number(count("started")),
        show::number(count("removed"))
    );
    print!("{}", files.left_out(count("seen")));
    if count("started") > 0 {
        println!(
            "  {} made searchable, {} not",
            documents(runs.completed),
            show::number(runs.failed)
        );
    }
    Ok(())
}

/// Forgets all documents where an older stand-in made their vectors: those cannot be compared
/// with what it makes now, and neither can what it took for a word.
fn forget_older(cli: &Cli) -> anyhow::Result<()> {
    let overview = cli.activity("index.overview", &json!({}))?;
    let had = &overview["embedding"];
    if had["name"] != STAND_IN {
        return Ok(());
    }
    let embed = format!("{STAND_IN}.embed");
    let has = cli.activity(&embed, &json!({ "texts": [] }))?;
    if had["revision"] == has["embedding"]["revision"] {
        return Ok(());
    }
    step("forgetting what an older version indexed", || {
        cli.flow("knowledge.reset", &json!(null)).map(drop)
    })
}

/// Waits until no run is open any more, and answers how those ended that did so since then.
/// So many documents are expected; only to say how much is left.
fn follow(
    server: &mut Server,
    cli: &Cli,
    since: jiff::Timestamp,
    expected: u64,
) -> anyhow::Result<Runs> {
    let mut progress = Progress::new(expected);
    let mut runs = Runs::default();
    wait(server, || {
        runs = Runs::since(cli, since)?;
        let done = runs.completed + runs.failed;
        progress.at(done, expected.max(done + runs.open));
        Ok(runs.open == 0)
    })?;
    Ok(runs)
}

/// How many files the catalogue does not know yet.
fn unknown(cli: &Cli, files: &Files) -> anyhow::Result<u64> {
    let overview = cli.activity("index.overview", &json!({}))?;
    let known = ["documents", "unreadable"].map(|name| overview[name].as_u64().unwrap_or_default());
    Ok(files.listed.saturating_sub(known.iter().sum()))
}

/// Waits until `done` says so.
fn wait(server: &mut Server, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    loop {
        let asked = Instant::now();
        match done() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                // Most likely the server is gone, which says more.
                std::thread::sleep(Duration::from_millis(500));
                server.check()?;
                return Err(error);
            }
        }
        // To ask costs the server a look at all of these runs, so seldom where that is long.
        let pause =
            (asked.elapsed() * 5).clamp(Duration::from_millis(300), Duration::from_secs(60));
        let until = Instant::now() + pause;
        while Instant::now() < until {
            server.check()?;
            if stopping() {
                bail!("stopped");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Says what cannot be read, searches, and names commands to try.
fn report(project: &Project, options: &Options, models: &Models, cli: &Cli) -> anyhow::Result<()> {
    let shown = |arguments: &[&str]| cli.shown(&project.root, arguments);
    let failures = cli.activity("index.failures", &json!({ "limit": show::EXAMPLES }))?;
    let all_failures = [
        "activity",
        "run",
        "index.failures",
        "--input",
        "{\"limit\":1000}",
    ];
    let text = show::failures(&failures);
    if !text.is_empty() {
        print!("{text}");
        println!("  All of them: {}", shown(&all_failures));
    }
    let overview = cli.activity("index.overview", &json!({}))?;
    let count = |name: &str| overview[name].as_u64().unwrap_or_default();
    println!(
        "\n{} in {} passages can be searched.",
        documents(count("documents")),
        show::number(count("passages"))
    );
    let text = match (&options.search, &options.documents) {
        (Some(text), _) => text.as_str(),
        (None, None) => OWN_SEARCH,
        (None, Some(_)) => overview["example"].as_str().unwrap_or_default(),
    };
    if text.chars().any(char::is_alphanumeric) {
        let answer = cli.flow("knowledge.search", &json!({ "text": text, "limit": 3 }))?;
        println!("\nSearch for {text:?}:");
        let found = show::passages(&answer);
        if found.is_empty() {
            if options.documents.is_none() {
                bail!("the search found nothing: {answer}");
            }
            println!("  nothing");
        }
        print!("{found}");
    }
    let input = json!({ "text": text }).to_string();
    let search = [
        "workflow",
        "start",
        "knowledge.search",
        "--wait",
        "--input",
        &input,
    ];
    let mut commands: Vec<&[&str]> = vec![
        &search,
        &["workflow", "list", "--query", DOCUMENTS],
        &["plugin", "list"],
    ];
    let generates = models.generates.as_ref().map(|model| &model.name);
    // It waits for a person where it is not sure, so it is not waited for.
    let input = json!({ "text": text, "model": generates }).to_string();
    let question = [
        "workflow",
        "start",
        "knowledge.question-answering",
        "--input",
        &input,
    ];
    if generates.is_some() {
        commands.push(&question);
    }
    println!("\nTry, in another terminal and in this folder:");
    for command in &commands {
        println!("  {}", shown(command));
    }
    if in_ci() {
        for command in commands.into_iter().chain([&all_failures[..]]) {
            // The search wants a word, which an empty folder does not give.
            if (command == search || command == question) && count("documents") == 0 {
                continue;
            }
            process::run(
                Command::new("sh")
                    .args(["-c", &shown(command)])
                    .current_dir(&project.root)
                    .stdout(std::process::Stdio::null()),
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{free, model_name};

    #[test]
    fn a_model_is_called_as_its_folder() {
        for (folder, name) in [
            ("all-MiniLM-L6-v2", "all-minilm-l6-v2"),
            (
                "models--sentence-transformers--all-MiniLM-L6-v2",
                "all-minilm-l6-v2",
            ),
            ("BGE_small.en v1.5", "bge-small-en-v1-5"),
            ("3-é", "model"),
            ("", "model"),
        ] {
            assert_eq!(model_name(folder), name, "{folder}");
        }
        assert_eq!(model_name(&"x".repeat(80)).len(), 63);
    }

    #[test]
    fn a_port_that_is_taken_is_told_with_the_option() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("an address").port();
        let error = format!("{:#}", free(port).expect_err("it is taken"));
        assert!(
            error.contains("--port") && error.contains(&port.to_string()),
            "{error}"
        );
        assert!(!error.contains("--listen"), "{error}");
        assert_ne!(free(0).expect("any port"), 0);
    }
}
