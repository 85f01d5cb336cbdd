//! The real `heyday worker` in processes of their own, for a real `heyday serve`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::ports::free_port;
use super::server::{Client, Options, PATIENCE, Server, end_with_parent};
use super::signals::signal;
use super::temporal;

/// A server that works for nobody, on a cluster.
pub struct Site {
    /// The server.
    pub server: Server,
    /// Where the cluster is.
    pub address: String,
    /// The namespace there.
    pub namespace: String,
    folder: tempfile::TempDir,
}

impl Site {
    /// Starts a server; none where there is no cluster.
    pub async fn start() -> Option<Self> {
        Self::with(&[], "").await
    }

    /// The same with further options of `heyday serve` and a further configuration.
    pub async fn with(arguments: &[&str], config: &str) -> Option<Self> {
        let (address, namespace) = temporal::namespace()?;
        let site = Self::at(address, namespace, arguments, config).await;
        site.server.wait_for_engine().await.unwrap();
        Some(site)
    }

    /// The same for the cluster at that address, which may be away.
    pub async fn at(address: String, namespace: String, arguments: &[&str], config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        let mut options = Options::on_temporal(&address, &namespace);
        options.serve = Some(arguments.collect());
        options.config = options.config.map(|text| text + config);
        let server = Server::on(&data, options).await;
        Self {
            server: server.unwrap(),
            address,
            namespace,
            folder,
        }
    }

    /// Makes a token for workers in these namespaces; all where there are none.
    pub async fn token(&self, namespaces: &[&str]) -> String {
        let body = json!({ "kind": "worker", "namespaces": namespaces });
        let made = self.server.client.post("/tokens", &body).await.unwrap();
        made["token"].as_str().unwrap().to_owned()
    }

    /// Starts a worker with a token of its own, and waits until it is ready.
    pub async fn worker(&self, arguments: &[&str]) -> Worker {
        let token = self.token(&[]).await;
        let mut worker = self.begin(&token, arguments);
        worker.until_ready().await.unwrap();
        worker
    }

    /// Starts a worker with that token.
    pub fn begin(&self, token: &str, arguments: &[&str]) -> Worker {
        self.begin_with(token, arguments, &[])
    }

    /// The same in that environment.
    pub fn begin_with(
        &self,
        token: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Worker {
        let place = Place {
            server: &self.server.url,
            address: &self.address,
            namespace: &self.namespace,
            folder: self.folder.path(),
        };
        place.begin_with(token, arguments, environment)
    }

    /// Writes a configuration file for workers; answers its path.
    pub fn config(&self, text: &str) -> String {
        let path = self.folder.path().join("worker.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs Temporal's own command line on the cluster; answers what it printed.
    pub fn temporal(&self, arguments: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = Command::new(temporal::binary().unwrap())
                .args(arguments)
                .args(["--address", &self.address, "--namespace", &self.namespace])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() {
                return text;
            }
            let error = String::from_utf8_lossy(&output.stderr);
            let again = temporal::has_asked_nothing(&error) && Instant::now() < deadline;
            assert!(again, "{arguments:?}: {text}{error}");
        }
    }
}

/// What a worker works for, and where its files are.
pub struct Place<'s> {
    /// Where the server is.
    pub server: &'s str,
    /// Where the cluster is.
    pub address: &'s str,
    /// The namespace there.
    pub namespace: &'s str,
    /// Its data, and what it prints.
    pub folder: &'s Path,
}

impl Place<'_> {
    /// Starts a worker with that token.
    pub fn begin(&self, token: &str, arguments: &[&str]) -> Worker {
        self.begin_with(token, arguments, &[])
    }

    /// The same in that environment.
    fn begin_with(&self, token: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Worker {
        let port = free_port();
        let log = self.folder.join(format!("worker-{port}.log"));
        let output = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(super::binary());
        command
            .args(["worker", "--server", self.server])
            .args(["--temporal-address", self.address])
            .args(["--temporal-namespace", self.namespace])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .arg("--data")
            .arg(self.folder.join("worker"))
            .args(arguments)
            .env("HEYDAY_CACHE", super::cache())
            .env("HEYDAY_TOKEN", token)
            .env_remove("HEYDAY_SERVER")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        end_with_parent(&mut command);
        Worker {
            child: command.spawn().unwrap(),
            url: format!("http://127.0.0.1:{port}"),
            log,
            spool: self.folder.join("worker/spool"),
            http: Client::new(self.server, "").http,
        }
    }
}

/// A running worker. Killed when it is dropped.
pub struct Worker {
    child: Child,
    url: String,
    log: PathBuf,
    spool: PathBuf,
    http: reqwest::Client,
}

impl Worker {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether that text is among what it, or another on its folder, has not sent.
    pub fn has_spooled(&self, text: &str) -> bool {
        let folders = std::fs::read_dir(&self.spool).into_iter().flatten();
        // What is sent just now goes away while it is looked for.
        let files = folders.flatten().flat_map(|folder| {
            let files = std::fs::read_dir(folder.path());
            files.into_iter().flatten().flatten()
        });
        files
            .map(|file| std::fs::read_to_string(file.path()).unwrap_or_default())
            .any(|said| said.contains(text))
    }

    /// GET of its own address; none where it does not answer.
    pub async fn get(&self, path: &str) -> Option<(StatusCode, String)> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        let answer = answer.ok()?;
        Some((answer.status(), answer.text().await.ok()?))
    }

    /// Waits until a path of its own address has that status; answers its body.
    pub async fn until(&mut self, path: &str, status: StatusCode) -> anyhow::Result<Value> {
        let begun = Instant::now();
        let deadline = begun + PATIENCE;
        loop {
            if let Some(ended) = self.child.try_wait()? {
                bail!("the worker ended with {ended}:\n{}", self.log());
            }
            match self.get(path).await {
                Some((found, text)) if found == status => {
                    return serde_json::from_str(&text).context(text);
                }
                other if Instant::now() > deadline => bail!("{path}: {other:?}\n{}", self.log()),
                _ => super::pause(begun).await,
            }
        }
    }

    /// Waits until it takes tasks.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        self.until("/health/ready", StatusCode::OK).await.map(drop)
    }

    /// Waits until a line of its metrics is there.
    pub async fn until_metric(&self, line: &str) -> anyhow::Result<()> {
        self.until_told(line, |found| found == line).await
    }

    /// Waits until the value of a series of its metrics is so.
    pub async fn until_value(&self, series: &str, so: impl Fn(f64) -> bool) -> anyhow::Result<()> {
        let is_so = |line: &str| {
            let value = line.strip_prefix(series).map(str::trim);
            value.is_some_and(|value| value.parse::<f64>().is_ok_and(&so))
        };
        self.until_told(series, is_so).await
    }

    async fn until_told(&self, what: &str, so: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        let deadline = begun + PATIENCE;
        loop {
            let (_, text) = self.get("/metrics").await.context("no metrics")?;
            if text.lines().any(&so) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{what} is not so in\n{text}");
            }
            super::pause(begun).await;
        }
    }

    /// Kills it (-9).
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop.
    pub fn ask_to_stop(&self) {
        signal(self.child.id(), libc::SIGTERM);
    }

    /// Waits for its end; answers its exit code.
    pub async fn exit_code(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(Instant::now() < deadline, "still running: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the worker printed:\n{}", self.log());
        }
    }
}

/// Waits until there is something.
pub async fn eventually<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "it never came");
        super::pause(begun).await;
    }
}
