//! An emulator of Google Cloud Storage, behind what stands in for the rest of Google.
//!
//! `cargo xtask test` builds it (fake-gcs-server), and names the folder of its program in
//! `HEYDAY_GCS_EMULATOR`.

use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use heyday_capabilities::blob::gcs_config::GcsConfig;

use super::google_stand_in::GoogleStandIn;
use super::ports::free_port;
use super::postgres::until;

/// An emulator of its own, with one bucket, in memory. Stopped when it is dropped.
pub struct GoogleStorage {
    child: Child,
    program: PathBuf,
    port: u16,
    folder: tempfile::TempDir,
    /// What is before it.
    pub google: GoogleStandIn,
}

impl GoogleStorage {
    /// Starts one; `None` where there is none to start.
    pub fn start() -> Option<Self> {
        let program = super::folder("HEYDAY_GCS_EMULATOR")?.join("fake-gcs-server");
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("data/bucket")).unwrap();
        let port = free_port();
        let google = GoogleStandIn::start(port);
        let path = folder.path().join("credentials.json");
        std::fs::write(path, google.credentials().to_string()).unwrap();
        let child = launch(&program, folder.path(), port, &google);
        let mut storage = Self {
            child,
            program,
            port,
            folder,
            google,
        };
        storage.wait_until_ready();
        Some(storage)
    }

    fn wait_until_ready(&mut self) {
        until("the emulator is ready", || {
            let ended = self.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "the emulator ended: {}", self.log());
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it at once, as a crash would, with all that it has.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    /// Starts it again, on the same port.
    pub fn launch(&mut self) {
        self.child = launch(&self.program, self.folder.path(), self.port, &self.google);
        self.wait_until_ready();
    }

    /// Stops it where it is (`SIGSTOP`), or lets it go on (`SIGCONT`).
    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: it is our child, and was not waited for.
        unsafe { libc::kill(pid, signal) };
    }

    /// The file with the credentials of its only account.
    pub fn credentials_file(&self) -> PathBuf {
        self.folder.path().join("credentials.json")
    }

    /// How a binding names a prefix of its bucket.
    pub fn config(&self, prefix: &str) -> GcsConfig {
        serde_json::from_value(serde_json::json!({
            "bucket": "bucket",
            "prefix": prefix,
            "endpoint": self.endpoint(),
            "credentials_file": self.credentials_file(),
        }))
        .expect("a configuration")
    }

    /// The same, signed in as the machine.
    pub fn machines_config(&self, prefix: &str) -> GcsConfig {
        GcsConfig {
            credentials_file: None,
            metadata_endpoint: Some(self.endpoint()),
            iam_endpoint: Some(self.endpoint()),
            ..self.config(prefix)
        }
    }

    fn endpoint(&self) -> String {
        format!("http://localhost:{}", self.google.address.port())
    }

    /// As members of a binding's table in the configuration.
    pub fn toml(&self, prefix: &str) -> String {
        format!(
            "gcs = {{ bucket = 'bucket', prefix = '{prefix}', endpoint = '{}', \
             credentials_file = '{}' }}\n",
            self.endpoint(),
            self.credentials_file().display()
        )
    }
}

fn launch(program: &Path, folder: &Path, port: u16, google: &GoogleStandIn) -> Child {
    let mut options = std::fs::OpenOptions::new();
    let log = options.create(true).append(true).open(folder.join("log"));
    let log = log.unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .args(["-backend", "memory", "-scheme", "http"])
        .args(["-host", "127.0.0.1", "-log-level", "error"])
        .arg("-port")
        .arg(port.to_string())
        // Whom clients know it as.
        .arg("-public-host")
        .arg(format!("localhost:{}", google.address.port()))
        .arg("-data")
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
    command.spawn().expect("the emulator starts")
}

impl Drop for GoogleStorage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
