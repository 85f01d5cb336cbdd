//! A real Neo4j server, Community Edition.
//!
//! `cargo xtask test` fetches it, and names the folder of its jars in `HEYDAY_NEO4J`. It
//! has one database, so that whoever tests on a shared one has it alone.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use heyday_capabilities::Mode;
use heyday_capabilities::graph::GraphLimits;
use heyday_capabilities::graph::neo4j::{Neo4jConfig, SETTINGS, open};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::fresh::Fresh;
use super::keeper::Keeper;
use super::ports::free_port;
use super::postgres::run;
use super::server::PATIENCE;

/// What it may take of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Java's options.
    pub java: &'static [&'static str],
    /// Of the data, in its own notation.
    pub cache: &'static str,
}

/// Little, and soon ready.
const SMALL: Size = Size {
    java: &["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"],
    cache: "16m",
};

/// A server of its own. Stopped when it is dropped.
pub struct Neo4j {
    child: Child,
    size: Size,
    jars: PathBuf,
    /// Of Bolt, on 127.0.0.1.
    pub port: u16,
    /// Of the user `neo4j`, which nobody may see.
    pub password: String,
    /// The file that has it.
    pub password_file: PathBuf,
    folder: tempfile::TempDir,
    settings: Vec<String>,
}

fn java(jars: &Path, home: &Path, size: Size) -> Command {
    let mut command = Command::new("java");
    command
        .args(size.java)
        // What Java and its libraries put elsewhere would stay there where it is killed.
        .arg("-XX:-UsePerfData")
        .arg(format!("-Djava.io.tmpdir={}", home.display()))
        .arg(format!("-Djna.tmpdir={}", home.display()))
        .arg("-cp")
        .arg(jars.join("*"))
        .env("NEO4J_HOME", home);
    command
}

/// The home of a new server.
static FRESH: Keeper<Fresh> = Keeper::new();

extern "C" fn forget_fresh() {
    FRESH.stop();
}

/// Makes it, by a Java of its own.
fn make_fresh() -> Option<Fresh> {
    let jars = super::folder("HEYDAY_NEO4J")?;
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let password = Uuid::new_v4().to_string();
    let mut command = java(&jars, &home, SMALL);
    command.args(["org.neo4j.cli.AdminTool", "dbms", "set-initial-password"]);
    run(command.arg(&password));
    Some(Fresh::new(folder, "home", password))
}

impl Neo4j {
    /// Starts one with further settings (`NAME=VALUE`), and waits until it answers; `None`
    /// where there is none to start.
    pub fn start(settings: &[&str]) -> Option<Self> {
        Self::start_of(SMALL, settings)
    }

    /// As [`start`](Self::start), of that size.
    pub fn start_of(size: Size, settings: &[&str]) -> Option<Self> {
        let jars = super::folder("HEYDAY_NEO4J")?;
        let folder = tempfile::tempdir().unwrap();
        let fresh = FRESH.get(make_fresh, forget_fresh);
        let password = fresh?.copy_to(folder.path());
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, format!("{password}\n")).unwrap();
        let settings: Vec<_> = settings.iter().map(|&it| it.to_owned()).collect();
        let port = free_port();
        let child = launch(&jars, folder.path(), port, size, &settings);
        let server = Self {
            child,
            size,
            jars,
            port,
            password,
            password_file,
            folder,
            settings,
        };
        server.wait_until_ready();
        Some(server)
    }

    /// Until it answers a statement, or says that the password is wrong.
    fn wait_until_ready(&self) {
        let config = self.config();
        // The caller may be within a runtime of its own.
        let asking = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let limits = GraphLimits::default();
            let graph = open(&config, true, limits, runtime.handle().clone()).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                let asked = graph.query(Mode::ReadOnly, "RETURN 1".into(), "{}".into());
                match runtime.block_on(asked) {
                    Err(error) if !error.message.contains("operator") => {}
                    _ => return true,
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            false
        });
        let ready = asking.join().unwrap();
        assert!(ready, "Neo4j does not answer: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it at once, as power loss would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, where it was.
    pub fn launch(&mut self) {
        self.child = launch(
            &self.jars,
            self.folder.path(),
            self.port,
            self.size,
            &self.settings,
        );
        self.wait_until_ready();
    }

    /// Stops it from doing anything, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
        super::signals::signal(self.child.id(), signal);
    }

    /// How a binding names it.
    pub fn config(&self) -> Neo4jConfig {
        Neo4jConfig {
            url: format!("neo4j://neo4j@127.0.0.1:{}", self.port),
            password_file: Some(self.password_file.clone()),
            ..Neo4jConfig::default()
        }
    }

    /// As members of a binding's table in the configuration.
    pub fn toml(&self) -> String {
        format!(
            "neo4j = {{ url = 'neo4j://neo4j@127.0.0.1:{}', password_file = '{}' }}\n",
            self.port,
            self.password_file.display()
        )
    }
}

fn launch(jars: &Path, folder: &Path, port: u16, size: Size, settings: &[String]) -> Child {
    let mut options = std::fs::OpenOptions::new();
    let log = options.create(true).append(true).open(folder.join("log"));
    let log = log.unwrap();
    let home = folder.join("home");
    let mut command = java(jars, &home, size);
    command
        .arg("org.neo4j.server.CommunityEntryPoint")
        .arg(format!("--home-dir={}", home.display()))
        .arg(format!("--config-dir={}", home.join("conf").display()))
        .args([
            "-c",
            &format!("server.bolt.listen_address=127.0.0.1:{port}"),
        ])
        .args(["-c", "server.http.enabled=false"])
        .args([
            "-c",
            &format!("server.memory.pagecache.size={}", size.cache),
        ])
        .args(["-c", "db.tx_log.preallocate=false"])
        .args(["-c", "dbms.usage_report.enabled=false"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let hardening = SETTINGS.map(|(name, value)| (name, format!("{name}={value}")));
    let said = |name: &str| settings.iter().any(|it| it.starts_with(name));
    for (_, setting) in hardening.iter().filter(|(name, _)| !said(name)) {
        command.args(["-c", setting]);
    }
    for setting in settings {
        command.args(["-c", setting]);
    }
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().expect("java starts")
}

impl Drop for Neo4j {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Those that tests share, one after the other: two, as who waits for one waits long.
static SHARED: [Mutex<Option<Neo4j>>; 2] = [Mutex::const_new(None), Mutex::const_new(None)];

/// Stops the shared ones with the process: nothing drops a static.
extern "C" fn stop_shared() {
    for shared in &SHARED {
        if let Ok(mut shared) = shared.try_lock() {
            drop(shared.take());
        }
    }
}

/// A server that tests share, for as long as it is held, with nothing in it; `None`
/// where there is none.
pub async fn shared() -> Option<Shared> {
    super::folder("HEYDAY_NEO4J")?;
    let [one, other] = &SHARED;
    // The other is started only where somebody has the first.
    let mut shared = tokio::select! {
        biased;
        shared = one.lock() => shared,
        shared = other.lock() => shared,
    };
    if shared.is_none() {
        // The kernel ends the server with the thread that started it, so that one stays.
        let (started, server) = std::sync::mpsc::channel();
        let keeping = std::thread::Builder::new().name("neo4j".to_owned());
        keeping
            .spawn(move || {
                let _ = started.send(Neo4j::start(&[]));
                loop {
                    std::thread::park();
                }
            })
            .unwrap();
        *shared = tokio::task::block_in_place(|| server.recv()).expect("the server starts");
        // SAFETY: it may be called at any time until the process exits.
        unsafe { libc::atexit(stop_shared) };
    }
    if let Some(server) = &*shared {
        // A test that failed may have left it frozen.
        server.freeze(false);
    }
    shared.is_some().then_some(Shared(shared))
}

/// A shared server.
pub struct Shared(MutexGuard<'static, Option<Neo4j>>);

impl std::ops::Deref for Shared {
    type Target = Neo4j;

    fn deref(&self) -> &Neo4j {
        self.0.as_ref().expect("it was started")
    }
}
