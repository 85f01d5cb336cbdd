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
use tokio::process::{Child, Command};

use crate::http::Connection;

/// No server takes longer to answer for the first time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A port that is free now.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A process that ends with this one, however that ends, and writes to that file.
pub fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Child> {
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
pub async fn ready<T, F>(
    child: &mut Child,
    log: &Path,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T>
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

/// `heyday up`, or `heyday serve` on a Temporal cluster.
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
        let heyday = Self::launch(binary, &["up"]).await?;
        heyday.push(probe).await?;
        heyday.push_flows(flows).await?;
        Ok(heyday)
    }

    /// Starts it with that configuration, and nothing pushed.
    pub async fn configured(binary: &Path, config: &Path) -> anyhow::Result<Self> {
        let config = config.to_str().context("the path is not UTF-8")?;
        Self::launch(binary, &["up", "--config", config]).await
    }

    /// Starts one for workers, on the cluster at that address.
    pub async fn serve(binary: &Path, cluster: SocketAddr) -> anyhow::Result<Self> {
        let cluster = cluster.to_string();
        let arguments = [
            "serve",
            "--engine",
            "temporal",
            "--temporal-address",
            &cluster,
        ];
        let mut heyday = Self::launch(binary, &arguments).await?;
        let (address, token) = (heyday.address, heyday.token.clone());
        let log = heyday.folder.path().join("log");
        // Until it has reached the cluster it answers that that is away.
        ready(&mut heyday.child, &log, || {
            let token = token.clone();
            async move {
                let mut connection = Connection::open(address, Some(&token)).await?;
                connection.get("/api/v1/workflows").await
            }
        })
        .await?;
        Ok(heyday)
    }

    async fn launch(binary: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let address = free_address()?;
        let log = folder.path().join("log");
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .args(["--listen", &address.to_string(), "--data"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = spawn(&mut command, &log)?;
        ready(&mut child, &log, || async move {
            Connection::open(address, None).await?.get("/health").await
        })
        .await?;
        let token = std::fs::read_to_string(data.join("token"))?;
        Ok(Self {
            child,
            folder,
            address,
            token: token.trim().to_owned(),
        })
    }

    /// Uploads a plugin, whatever it lacks, and waits until it is active.
    pub async fn push(&self, component: &[u8]) -> anyhow::Result<()> {
        let body = Bytes::copy_from_slice(component);
        let path = "/api/v1/plugins?wait=60s&allow_missing=true";
        loop {
            // The same bytes again join the upload that is under way.
            let uploaded = self
                .connect()
                .await?
                .send(Method::POST, path, "application/wasm", body.clone())
                .await?;
            let uploaded: Value = serde_json::from_slice(&uploaded)?;
            match uploaded["active"].as_bool() {
                Some(true) => return Ok(()),
                Some(false) => bail!("the plugin is not active: {}", uploaded["missing_grants"]),
                None => println!("    it is still being compiled: {}", uploaded["state"]),
            }
        }
    }

    /// Uploads flows.
    pub async fn push_flows(&self, flows: &[&str]) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        for flow in flows {
            let body = Bytes::copy_from_slice(flow.as_bytes());
            connection
                .send(Method::POST, "/api/v1/flows", "application/yaml", body)
                .await?;
        }
        Ok(())
    }

    /// Starts a worker of this server on the cluster, with compiled code as the server has
    /// it; it may not be ready yet.
    pub async fn begin_worker(
        &self,
        binary: &Path,
        cluster: SocketAddr,
    ) -> anyhow::Result<HeydayWorker> {
        let body = Bytes::from_static(br#"{"kind":"worker","namespaces":[]}"#);
        let method = Method::POST;
        let made = self
            .connect()
            .await?
            .send(method, "/api/v1/tokens", "application/json", body)
            .await?;
        let made: Value = serde_json::from_slice(&made)?;
        let token = made["token"].as_str().context("no token was made")?;
        let address = free_address()?;
        let log = self
            .folder
            .path()
            .join(format!("worker-{}", address.port()));
        let mut command = Command::new(binary);
        command
            .args(["worker", "--server", &format!("http://{}", self.address)])
            .args(["--temporal-address", &cluster.to_string()])
            .args(["--listen", &address.to_string()])
            // As many at once as the native workers.
            .args(["--queue", "general-queue=200"])
            .arg("--data")
            .arg(self.folder.path().join("nothing"))
            .arg("--cache")
            .arg(self.folder.path().join("data/cache"))
            .env("HEYDAY_TOKEN", token)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let begun = Instant::now();
        Ok(HeydayWorker {
            child: spawn(&mut command, &log)?,
            begun,
            address,
            log,
        })
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

/// `heyday worker`.
pub struct HeydayWorker {
    child: Child,
    /// When its process was started.
    pub begun: Instant,
    address: SocketAddr,
    log: PathBuf,
}

impl HeydayWorker {
    /// Waits until it takes tasks.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        let address = self.address;
        ready(&mut self.child, &self.log, || async move {
            let mut connection = Connection::open(address, None).await?;
            connection.get("/health/ready").await
        })
        .await
        .map(drop)
    }

    /// Asks it to stop, and waits until it has. It tells the cluster, which ends its polls. Of
    /// one that is killed the cluster learns only as the connections break: a task that it
    /// gives to such a poll is lost, and comes again after a timeout.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let id = self.child.id().context("the worker has ended")?;
        // SAFETY: kill has no preconditions; the process is ours and not yet waited for.
        unsafe { libc::kill(id.cast_signed(), libc::SIGTERM) };
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.context("the worker does not stop")??;
        if !status.success() {
            bail!("the worker ended with {status}:\n{}", self.said()?);
        }
        Ok(())
    }

    /// What it has logged.
    pub fn said(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())
    }

    /// Its process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the worker has ended")
    }

    /// A connection to its own address.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address, None).await
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
