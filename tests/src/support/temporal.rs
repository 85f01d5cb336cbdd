//! Temporal's dev server, one for all tests of this process but those that have schedules, which
//! have another, and a namespace of its own for each.
//!
//! `cargo xtask test` installs it and names it in `HEYDAY_TEMPORAL`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::keeper::Keeper;
use super::ports::free_port;
use super::server::{PATIENCE, end_with_parent};

/// Namespaces that the shared server has; each test takes one.
const NAMESPACES: usize = 235;
/// Those of the one that has schedules.
const WITH_SCHEDULES: usize = 25;

/// Nobody does what Temporal itself does in a namespace, which is schedules: each would have a
/// worker for that, whose polls and memory, of hundreds that only wait, keep half a core busy.
const WITHOUT_SCHEDULES: &str = "worker.perNamespaceWorkerCount=0";

/// Its one shard gives out tasks, timers and what lists show 20 times a second otherwise, and
/// fires no timer within a second of the one before; and its queues have four parts each, which
/// wait for each other.
const SETTINGS: [&str; 6] = [
    "history.transferProcessorMaxPollRPS=2000",
    "history.timerProcessorMaxPollRPS=2000",
    "history.visibilityProcessorMaxPollRPS=2000",
    "history.timerProcessorMaxTimeShift=\"10ms\"",
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
];

/// The built `temporal`. Without one the caller leaves out its tests, and they are
/// [listed](super::not_run).
pub fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("HEYDAY_TEMPORAL") {
        return Some(PathBuf::from(path));
    }
    let why = "HEYDAY_TEMPORAL is set by `cargo xtask test`";
    super::not_run("Temporal's dev server", why);
    None
}

/// Whether Temporal's own command line gave up before it asked anything: it waits 5 seconds for
/// the server's first word, which is less than a loaded machine may need.
pub fn has_asked_nothing(error: &str) -> bool {
    error.contains("failed reaching server")
}

/// A dev server. Killed when it is dropped.
pub struct DevServer {
    child: Child,
    port: u16,
    /// Where it keeps its cluster's id, which it would put among this user's settings.
    _home: tempfile::TempDir,
}

impl DevServer {
    /// Starts one on that port, with these namespaces besides `default`, in memory or on
    /// a file, and waits until it answers.
    pub fn start(port: u16, namespaces: &[String], file: Option<&Path>) -> Self {
        Self::start_with(port, namespaces, file, &[])
    }

    /// The same with further settings (`NAME=VALUE`).
    fn start_with(
        port: u16,
        namespaces: &[String],
        file: Option<&Path>,
        settings: &[&str],
    ) -> Self {
        let mut command = Command::new(binary().expect("the caller has asked for it"));
        let home = tempfile::tempdir().unwrap();
        command
            .env("HOME", home.path())
            .args(["server", "start-dev", "--headless", "--ip", "127.0.0.1"])
            .args(["--log-level", "error", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        for setting in SETTINGS.iter().chain(settings) {
            command.args(["--dynamic-config-value", setting]);
        }
        for namespace in namespaces {
            command.args(["--namespace", namespace]);
        }
        if let Some(file) = file {
            command.arg("--db-filename").arg(file);
        }
        end_with_parent(&mut command);
        let child = command.spawn().expect("temporal starts");
        let mut server = Self {
            child,
            port,
            _home: home,
        };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                panic!("temporal ended with {status}");
            }
            assert!(Instant::now() < deadline, "temporal is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for DevServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The one that tests share.
static SHARED: Keeper<DevServer> = Keeper::new();
/// The one for those that have schedules.
static SCHEDULING: Keeper<DevServer> = Keeper::new();

extern "C" fn stop_shared() {
    SHARED.stop();
}

extern "C" fn stop_scheduling() {
    SCHEDULING.stop();
}

/// Starts one with so many namespaces.
fn start_of(namespaces: usize, settings: &[&str]) -> DevServer {
    let namespaces: Vec<_> = (0..namespaces).map(|n| format!("test-{n}")).collect();
    DevServer::start_with(free_port(), &namespaces, None, settings)
}

/// A server's address, and the next of its namespaces.
fn next(server: &DevServer, taken: &AtomicUsize, namespaces: usize) -> (String, String) {
    let number = taken.fetch_add(1, Ordering::Relaxed);
    assert!(number < namespaces, "there are more tests than namespaces");
    (server.address(), format!("test-{number}"))
}

/// The address of the shared server, and a namespace that nobody else has; `None` where
/// there is no `temporal`. A schedule there never starts anything: whoever makes one takes
/// [another namespace](namespace_with_schedules).
pub fn namespace() -> Option<(String, String)> {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    binary()?;
    let start = || Some(start_of(NAMESPACES, &[WITHOUT_SCHEDULES]));
    let server = SHARED.get(start, stop_shared)?;
    Some(next(&server, &TAKEN, NAMESPACES))
}

/// The same on a server that has schedules.
pub fn namespace_with_schedules() -> Option<(String, String)> {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    binary()?;
    let start = || Some(start_of(WITH_SCHEDULES, &[]));
    let server = SCHEDULING.get(start, stop_scheduling)?;
    Some(next(&server, &TAKEN, WITH_SCHEDULES))
}
