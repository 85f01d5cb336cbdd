//! The real `heyday up` in a process of its own, and a client for its API.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::ports::free_port;

/// Longer than anything takes on a loaded machine; only a failing test waits for it. Longer also
/// than an activity's default time of five minutes: a task that a cluster had given out and that
/// nobody got comes again after it.
pub const PATIENCE: Duration = Duration::from_secs(400);

/// A running server. Killed when it is dropped.
pub struct Server {
    child: Child,
    /// What started it.
    command: Command,
    /// Its data folder; kept over restarts.
    data: PathBuf,
    /// Deletes the data folder, where the test owns it.
    _folder: Option<tempfile::TempDir>,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// The client, with the token.
    pub client: Client,
}

/// How to start a server.
#[derive(Default)]
pub struct Options {
    /// `heyday serve` with these options, instead of `heyday up`.
    pub serve: Option<Vec<String>>,
    /// Where it listens, instead of on a port that is free.
    pub port: Option<u16>,
    /// Text of a configuration file.
    pub config: Option<String>,
    /// Further environment.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// With runs on that Temporal cluster, which the other tests keep busy: it may take long to
    /// answer.
    pub fn on_temporal(address: &str, namespace: &str) -> Self {
        Self::on_cluster(address, namespace, "30s")
    }

    /// With runs on that Temporal cluster, which has so long to answer.
    pub fn on_cluster(address: &str, namespace: &str, request_timeout: &str) -> Self {
        Self {
            config: Some(format!(
                "engine = 'temporal'\n[temporal]\naddress = '{address}'\nnamespace = '{namespace}'\n\
                 request_timeout = '{request_timeout}'\n"
            )),
            ..Self::default()
        }
    }
}

impl Server {
    /// Starts a server on a data folder of its own.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(Options::default()).await
    }

    /// Starts a server on a data folder of its own.
    pub async fn with(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let mut server = Self::on(&data, options).await?;
        server._folder = Some(folder);
        Ok(server)
    }

    /// Starts a server on that data folder.
    pub async fn on(data: &Path, options: Options) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data)?;
        let port = options.port.unwrap_or_else(free_port);
        let mut command = Command::new(super::binary());
        match &options.serve {
            None => command.arg("up"),
            Some(further) => command.arg("serve").args(further),
        };
        command
            .arg("--data")
            .arg(data)
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .env("HEYDAY_CACHE", super::cache())
            .env_remove("HEYDAY_SERVER")
            .env_remove("HEYDAY_TOKEN")
            // Where this user's own configuration of Temporal would be.
            .env("XDG_CONFIG_HOME", data)
            .stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TEMPORAL_") {
                command.env_remove(name);
            }
        }
        if let Some(config) = options.config {
            let path = data.join("test-config.toml");
            std::fs::write(&path, config)?;
            command.arg("--config").arg(path);
        }
        command.envs(options.environment);
        let log = data.join("test.log");
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        // A group of its own, as a shell gives it one.
        command.process_group(0);
        end_with_parent(&mut command);
        let child = command.spawn().context("cannot start heyday")?;
        let url = format!("http://127.0.0.1:{port}");
        let mut server = Self {
            child,
            command,
            data: data.to_path_buf(),
            _folder: None,
            client: Client::new(&url, ""),
            url,
        };
        server.wait_until_ready().await?;
        let token = std::fs::read_to_string(data.join("token"))?;
        server.client = Client::new(&server.url, token.trim());
        Ok(server)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("heyday ended with {status}:\n{}", self.log());
            }
            let health = self
                .client
                .http
                .get(format!("{}/health", self.url))
                .send()
                .await;
            if health.is_ok_and(|response| response.status().is_success()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("heyday is not ready after {PATIENCE:?}:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the engine answers: a cluster may have to be reached first.
    pub async fn wait_for_engine(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let deadline = begun + PATIENCE;
        loop {
            let request = self.client.request(Method::GET, "/workflows?page_size=1");
            let response = request.send().await?;
            if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                Client::ok(response).await?;
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the engine does not answer:\n{}", self.log());
            }
            super::pause(begun).await;
        }
    }

    /// What it printed.
    pub fn log(&self) -> String {
        log_in(&self.data)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Kills it (-9); its data stays.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// Presses Ctrl-C: the processes that it has started hear it too.
    pub fn interrupt(&self) {
        super::signals::signal_group(self.pid(), libc::SIGINT);
    }

    /// Starts it again, as it was started, after it ended.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = self.command.spawn().context("cannot start heyday")?;
        self.wait_until_ready().await
    }

    /// Kills it (-9) and starts another one on the same data.
    pub async fn kill_and_restart(mut self, options: Options) -> anyhow::Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        let folder = self._folder.take();
        let data = self.data.clone();
        drop(self);
        let mut server = Self::on(&data, options).await?;
        server._folder = folder;
        Ok(server)
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end of the process, whatever ends it.
    pub async fn wait_for_exit(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.has_ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("heyday is still running:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- heyday printed:\n{}", self.log());
        }
    }
}

/// What the server of that data folder printed.
pub fn log_in(data: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = std::fs::File::open(data.join("test.log")) {
        let _ = file.read_to_string(&mut text);
    }
    text
}

/// The process must not outlive a test run that is killed, nor the thread that starts it.
pub fn end_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// A client of the API.
#[derive(Clone)]
pub struct Client {
    /// Without the token.
    pub http: reqwest::Client,
    url: String,
    token: String,
    namespace: Option<String>,
}

/// A workflow's end.
#[derive(Debug)]
pub struct Outcome {
    /// `Completed`, `Failed`, ...
    pub status: String,
    /// The whole answer.
    pub body: Value,
}

impl Client {
    /// A client of the server at that address.
    pub fn new(url: &str, token: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            // Longer than any wait that a test asks for: a server that never answers is
            // a failure, not a test without an end.
            http: reqwest::Client::builder()
                .read_timeout(PATIENCE * 2)
                .build()
                .expect("the same as the default, but for a time"),
            url: url.to_owned(),
            token: token.to_owned(),
            namespace: None,
        }
    }

    /// Where it asks.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it shows.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The same in that namespace.
    pub fn within(&self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self.clone()
        }
    }

    /// A request to `/api/v1` and this path.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.at(method, &format!("/api/v1{path}"))
    }

    /// A request to this path.
    pub fn at(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token);
        match &self.namespace {
            Some(namespace) => request.header("heyday-namespace", namespace),
            None => request,
        }
    }

    /// The JSON of a successful answer.
    pub async fn ok(response: Response) -> anyhow::Result<Value> {
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{status}: {text}");
        }
        Ok(if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)?
        })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Self::ok(self.request(Method::GET, path).send().await?).await
    }

    /// All rows of a list, page by page; the path has a query.
    pub async fn rows(&self, path: &str, member: &str) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.get(&format!("{path}{after}")).await?;
            let rows = page[member].as_array();
            all.extend_from_slice(rows.with_context(|| format!("no {member} in {page}"))?);
            match page["next_page_token"].as_str() {
                Some(token) => after = format!("&page_token={}", token.replace(' ', "%20")),
                None => return Ok(all),
            }
        }
    }

    /// POST.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        Self::ok(self.request(Method::POST, path).json(body).send().await?).await
    }

    /// The problem document that a request is refused with.
    pub async fn refused(response: Response, status: StatusCode) -> Value {
        let actual = response.status();
        let kind = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let text = response.text().await.expect("a body");
        assert_eq!(actual, status, "{text}");
        assert!(
            kind.starts_with("application/problem+json"),
            "{kind}: {text}"
        );
        let problem: Value = serde_json::from_str(&text).expect("JSON");
        for member in ["type", "title", "status", "detail"] {
            assert!(problem.get(member).is_some(), "no {member} in {problem}");
        }
        problem
    }

    /// Uploads a component and waits until it is compiled; whatever comes of it.
    pub async fn upload(&self, bytes: Vec<u8>, query: &str) -> anyhow::Result<Response> {
        let deadline = Instant::now() + 4 * PATIENCE;
        loop {
            let answer = self
                .request(Method::POST, &format!("/plugins?wait=60s{query}"))
                .header("content-type", "application/wasm")
                .body(bytes.clone())
                .send()
                .await?;
            // On a busy machine one wait may be too short; the same bytes are one upload.
            if answer.status() != StatusCode::ACCEPTED || Instant::now() > deadline {
                return Ok(answer);
            }
        }
    }

    /// The problem document that an upload is refused with.
    pub async fn refused_upload(&self, bytes: Vec<u8>, status: StatusCode) -> Value {
        let response = self.upload(bytes, "").await.expect("an answer");
        Self::refused(response, status).await
    }

    /// Uploads a component that must be taken, and waits until it is ready.
    pub async fn push(&self, bytes: Vec<u8>, query: &str) -> anyhow::Result<Value> {
        Self::ok(self.upload(bytes, query).await?).await
    }

    /// Uploads a flow.
    pub async fn push_flow(&self, text: &str) -> anyhow::Result<Response> {
        Ok(self
            .request(Method::POST, "/flows")
            .header("content-type", "application/yaml")
            .body(text.to_owned())
            .send()
            .await?)
    }

    /// Grants a binding.
    pub async fn grant(
        &self,
        subject: &str,
        capability: &str,
        binding: &str,
        mode: Option<&str>,
    ) -> anyhow::Result<()> {
        let body = json!({ "subject": subject, "capability": capability, "binding": binding, "mode": mode });
        Self::ok(
            self.request(Method::PUT, "/grants")
                .json(&body)
                .send()
                .await?,
        )
        .await?;
        Ok(())
    }

    /// Takes a grant back.
    pub async fn revoke(
        &self,
        subject: &str,
        capability: &str,
        binding: &str,
    ) -> anyhow::Result<()> {
        let path = format!("/grants?subject={subject}&capability={capability}&binding={binding}");
        Self::ok(self.request(Method::DELETE, &path).send().await?).await?;
        Ok(())
    }

    /// Starts a workflow and answers its id.
    pub async fn start(&self, workflow_type: &str, input: &Value) -> anyhow::Result<String> {
        let body = json!({ "workflow_type": workflow_type, "input": input });
        let started = self.post("/workflows", &body).await?;
        Ok(started["workflow_id"]
            .as_str()
            .context("no workflow_id")?
            .to_owned())
    }

    /// Waits for a workflow's end.
    pub async fn result(&self, workflow_id: &str) -> anyhow::Result<Outcome> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let body = self
                .get(&format!("/workflows/{workflow_id}/result?wait=20s"))
                .await?;
            let status = body["status"].as_str().context("no status")?.to_owned();
            if status != "Running" {
                return Ok(Outcome { status, body });
            }
            if Instant::now() > deadline {
                let run = self.get(&format!("/workflows/{workflow_id}")).await?;
                bail!("workflow {workflow_id} is still running: {run}");
            }
        }
    }

    /// Starts a workflow and waits for its end.
    pub async fn run(&self, workflow_type: &str, input: &Value) -> anyhow::Result<Outcome> {
        let id = self.start(workflow_type, input).await?;
        self.result(&id).await
    }
}
