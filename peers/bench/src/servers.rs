//! The servers that are measured, each on loopback, with its data in a folder that goes
//! away with it, and ended with it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::http::Connection;

/// No server takes longer to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A port that is free now.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A process that ends with this one, however that ends, and writes to that file.
fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Child> {
    let file = std::fs::File::create(log)?;
    command
        .stderr(file)
        .kill_on_drop(true)
        .env("RUST_BACKTRACE", "0");
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
        .spawn()
        .with_context(|| format!("cannot start {}", command.as_std().get_program().display()))
}

/// Waits until it answers.
async fn ready<T, F>(child: &mut Child, log: &Path, mut ask: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        if let Some(status) = child.try_wait()? {
            bail!("a server ended with {status}:\n{}", said());
        }
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => {
                bail!("a server is not ready: {error:#}\n{}", said());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// `heyday up`.
pub struct Heyday {
    child: Child,
    folder: tempfile::TempDir,
    /// Where it listens.
    pub address: SocketAddr,
    token: String,
}

impl Heyday {
    /// Starts it with its defaults, pushes the plugin `probe` and these flows.
    pub async fn start(binary: &Path, probe: &[u8], flows: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let address = free_address()?;
        let log = folder.path().join("log");
        let mut command = Command::new(binary);
        command
            .args(["up", "--listen", &address.to_string(), "--data"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = spawn(&mut command, &log)?;
        ready(&mut child, &log, || async move {
            Connection::open(address, None).await?.get("/health").await
        })
        .await?;
        let token = std::fs::read_to_string(data.join("token"))?;
        let heyday = Self {
            child,
            folder,
            address,
            token: token.trim().to_owned(),
        };
        let mut connection = heyday.connect().await?;
        for capability in ["sql", "blob", "kv"] {
            let grant =
                json!({ "subject": "probe", "capability": capability, "binding": "default" });
            let body = Bytes::from(grant.to_string());
            let method = Method::PUT;
            connection
                .send(method, "/api/v1/grants", "application/json", body)
                .await?;
        }
        let body = Bytes::copy_from_slice(probe);
        let uploaded = connection
            .send(
                Method::POST,
                "/api/v1/plugins?wait=60s&allow_missing=true",
                "application/wasm",
                body,
            )
            .await?;
        let uploaded: Value = serde_json::from_slice(&uploaded)?;
        if uploaded["active"] != true {
            bail!("the plugin is not active: {}", uploaded["missing_grants"]);
        }
        for flow in flows {
            let body = Bytes::copy_from_slice(flow.as_bytes());
            connection
                .send(Method::POST, "/api/v1/flows", "application/yaml", body)
                .await?;
        }
        Ok(heyday)
    }

    /// A connection with the token.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address, Some(&self.token)).await
    }

    /// Its process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Restate's server and a service on its SDK.
pub struct Restate {
    _server: Child,
    _service: Child,
    _folder: tempfile::TempDir,
    /// Where it takes calls.
    pub ingress: SocketAddr,
}

impl Restate {
    /// Starts both. `packages`: where npm put the packages. `service`: the program.
    pub async fn start(packages: &Path, service: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (ingress, admin, node, endpoint) = (
            free_address()?,
            free_address()?,
            free_address()?,
            free_address()?,
        );
        let config = folder.path().join("restate.toml");
        std::fs::write(
            &config,
            format!(
                "bind-ip = \"127.0.0.1\"\nbind-port = {}\nlisten-mode = \"tcp\"\n\
                 base-dir = {}\ndisable-telemetry = true\nlog-filter = \"error\"\n\n\
                 [ingress]\nbind-port = {}\n\n[admin]\nbind-port = {}\ndisable-web-ui = true\n",
                node.port(),
                json!(folder.path().join("data")),
                ingress.port(),
                admin.port(),
            ),
        )?;
        let program = native(packages)?;
        let log = folder.path().join("server.log");
        let mut command = Command::new(program);
        command
            .arg("--no-logo")
            .arg("--config-file")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut server = spawn(&mut command, &log)?;
        let log = folder.path().join("service.log");
        let mut command = Command::new("node");
        command
            .arg(service)
            .arg(packages)
            .arg(endpoint.port().to_string())
            .env("RESTATE_LOGGING", "ERROR")
            .env("NODE_ENV", "production")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut service = spawn(&mut command, &log)?;
        ready(&mut service, &log, || async move {
            Ok(tokio::net::TcpStream::connect(endpoint).await?)
        })
        .await?;
        let deployment = Bytes::from(json!({ "uri": format!("http://{endpoint}") }).to_string());
        let log = folder.path().join("server.log");
        ready(&mut server, &log, || {
            let body = deployment.clone();
            async move {
                let mut admin = Connection::open(admin, None).await?;
                admin
                    .send(Method::POST, "/deployments", "application/json", body)
                    .await
            }
        })
        .await?;
        ready(&mut server, &log, || async move {
            let mut ingress = Connection::open(ingress, None).await?;
            ingress.post("/bench/three", "7").await
        })
        .await?;
        Ok(Self {
            _server: server,
            _service: service,
            _folder: folder,
            ingress,
        })
    }
}

/// The server's program itself: the script beside it would leave it behind when ended.
fn native(packages: &Path) -> anyhow::Result<PathBuf> {
    let scope = packages.join("node_modules/@restatedev");
    for entry in std::fs::read_dir(&scope).with_context(|| scope.display().to_string())? {
        let program = entry?.path().join("bin/restate-server");
        if program.is_file() {
            return Ok(program);
        }
    }
    bail!("{} has no server for this machine", scope.display())
}

/// Temporal's dev server with its poll limit raised, and a worker on Python's SDK.
pub struct Temporal {
    _server: Child,
    _worker: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl Temporal {
    /// Starts both. `environment`: the virtual environment. `peer`: the program.
    pub async fn start(environment: &Path, peer: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let log = folder.path().join("server.log");
        let mut command = Command::new(environment.join("bin/temporal"));
        command
            .args(["server", "start-dev", "--headless", "--ip", "127.0.0.1"])
            .args(["--port", &address.port().to_string()])
            .args(["--log-level", "error"])
            // The default takes new tasks 20 times a second.
            .args([
                "--dynamic-config-value",
                "history.transferProcessorMaxPollRPS=2000",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut server = spawn(&mut command, &log)?;
        ready(&mut server, &log, || async move {
            Ok(tokio::net::TcpStream::connect(address).await?)
        })
        .await?;
        let log = folder.path().join("worker.log");
        let mut command = Command::new(environment.join("bin/python"));
        command
            .arg(peer)
            .arg(address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut worker = spawn(&mut command, &log)?;
        let orders = worker.stdin.take().context("the worker has no input")?;
        let answers = worker.stdout.take().context("the worker has no output")?;
        let mut answers = BufReader::new(answers).lines();
        let first = tokio::time::timeout(PATIENCE, answers.next_line()).await??;
        if first.as_deref() != Some("ready") {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("Temporal's worker does not start:\n{said}");
        }
        Ok(Self {
            _server: server,
            _worker: worker,
            orders,
            answers,
            _folder: folder,
        })
    }

    /// Runs workflows with one activity, so many at once, for so long; answers how many a
    /// second.
    pub async fn load(&mut self, at_once: usize, time: Duration) -> anyhow::Result<f64> {
        let order = format!("{at_once} {}\n", time.as_secs_f64());
        self.orders.write_all(order.as_bytes()).await?;
        // Those that have begun are waited for.
        let answer = tokio::time::timeout(time + PATIENCE, self.answers.next_line()).await??;
        let answer: Value = serde_json::from_str(&answer.context("Temporal's worker ended")?)?;
        let number = |name: &str| answer[name].as_f64().context("the worker's answer");
        Ok(number("runs")? / number("seconds")?)
    }
}
