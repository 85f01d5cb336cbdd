//! A real gateway that speaks S3, in front of a folder.
//!
//! `cargo xtask test` builds it, and names the folder of its program in
//! `HEYDAY_S3_GATEWAY`.

use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use heyday_capabilities::blob::s3_config::S3Config;
use uuid::Uuid;

use super::ports::free_port;
use super::postgres::until;

/// The id of its only key.
const KEY: &str = "administrator";

/// A gateway of its own, with one bucket. Stopped when it is dropped.
pub struct Gateway {
    child: Child,
    program: PathBuf,
    port: u16,
    /// The secret of its key, which nobody may see.
    pub secret: String,
    folder: tempfile::TempDir,
    tls: Option<(String, String)>,
}

impl Gateway {
    /// Starts one; `None` where there is none to start.
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// Starts one with a certificate and its key, PEM.
    pub fn start_with(tls: Option<(&str, &str)>) -> Option<Self> {
        let program = super::folder("HEYDAY_S3_GATEWAY")?.join("versitygw");
        let folder = tempfile::tempdir().unwrap();
        for name in ["data/bucket", "metadata"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let secret = Uuid::new_v4().to_string();
        std::fs::write(folder.path().join("secret"), format!("{secret}\n")).unwrap();
        let tls = tls.map(|(certificate, key)| {
            let file = |name: &str, text: &str| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                path.display().to_string()
            };
            (file("server.pem", certificate), file("server.key", key))
        });
        let port = free_port();
        let child = launch(&program, folder.path(), port, &secret, tls.as_ref());
        let mut gateway = Self {
            child,
            program,
            port,
            secret,
            folder,
            tls,
        };
        gateway.wait_until_ready();
        Some(gateway)
    }

    fn wait_until_ready(&mut self) {
        until("the gateway is ready", || {
            let ended = self.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "the gateway ended: {}", self.log());
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it at once, as a crash would; its data stays.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    /// Starts it again on the same data and port.
    pub fn launch(&mut self) {
        self.child = launch(
            &self.program,
            self.folder.path(),
            self.port,
            &self.secret,
            self.tls.as_ref(),
        );
        self.wait_until_ready();
    }

    /// Stops it where it is (`SIGSTOP`), or lets it go on (`SIGCONT`).
    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: it is our child, and was not waited for.
        unsafe { libc::kill(pid, signal) };
    }

    /// The folder that its bucket is.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("data/bucket")
    }

    /// The file with its key's secret.
    pub fn secret_file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// Where it listens, `http://HOST:PORT`.
    pub fn address(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// How a binding names a prefix of its bucket.
    pub fn config(&self, prefix: &str) -> S3Config {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        serde_json::from_value(serde_json::json!({
            "bucket": "bucket",
            "prefix": prefix,
            "endpoint": format!("{scheme}://localhost:{}", self.port),
            "access_key_id": KEY,
            "secret_access_key_file": self.secret_file(),
        }))
        .expect("a configuration")
    }

    /// As members of a binding's table in the configuration.
    pub fn toml(&self, prefix: &str) -> String {
        format!(
            "s3 = {{ bucket = 'bucket', prefix = '{prefix}', endpoint = 'http://localhost:{}', \
             access_key_id = '{KEY}', secret_access_key_file = '{}' }}\n",
            self.port,
            self.secret_file().display()
        )
    }
}

fn launch(
    program: &Path,
    folder: &Path,
    port: u16,
    secret: &str,
    tls: Option<&(String, String)>,
) -> Child {
    let mut options = std::fs::OpenOptions::new();
    let log = options.create(true).append(true).open(folder.join("log"));
    let log = log.unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        // Whoever could connect could read and write the folder.
        .env("ROOT_ACCESS_KEY", KEY)
        .env("ROOT_SECRET_KEY", secret)
        .args(["--quiet", "--keep-alive", "--port"])
        .arg(format!("127.0.0.1:{port}"));
    if let Some((certificate, key)) = tls {
        command.args(["--cert", certificate, "--key", key]);
    }
    command
        .arg("posix")
        // Not every file system of tests has extended attributes.
        .arg("--sidecar")
        .arg(folder.join("metadata"))
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().expect("the gateway starts")
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
