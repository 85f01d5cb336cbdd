//! A real PostgreSQL server, and roles on it.
//!
//! `cargo xtask test` installs it, and names the folder of its programs in
//! `HEYDAY_POSTGRES`.

use std::ffi::CString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use heyday_capabilities::postgres::PostgresConfig;
use uuid::Uuid;

use super::fresh::Fresh;
use super::keeper::{Keeper, Kept};
use super::ports::free_port;
use super::server::PATIENCE;
use super::signals::signal;

/// Its superuser.
pub const USER: &str = "administrator";

/// The folder of PostgreSQL's programs. Without it the caller leaves out its tests, and they are
/// [listed](super::not_run).
pub fn programs() -> Option<PathBuf> {
    super::folder("HEYDAY_POSTGRES")
}

/// Waits until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "this never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(
        output.status.success(),
        "{:?}: {}{}",
        command.get_program(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// As whom PostgreSQL runs, which refuses root: as `postgres` there.
fn postgres_user() -> Option<(u32, u32)> {
    // SAFETY: it has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let name = CString::new("postgres").expect("no zero in it");
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut buffer = vec![0; 16_384];
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the length is the buffer's.
    let failed = unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        )
    };
    assert!(failed == 0 && !found.is_null(), "there is no user postgres");
    // SAFETY: the call succeeded and found an entry, so it was written.
    let entry = unsafe { entry.assume_init() };
    Some((entry.pw_uid, entry.pw_gid))
}

/// The data of a new server, whose superuser is [`USER`].
static FRESH: Keeper<Fresh> = Keeper::new();

extern "C" fn forget_fresh() {
    FRESH.stop();
}

/// Makes them.
fn make_fresh() -> Option<Fresh> {
    let programs = programs()?;
    let folder = tempfile::tempdir().unwrap();
    own(folder.path());
    // Whoever could connect could run programs as its user.
    let password = Uuid::new_v4().to_string();
    let file = folder.path().join("password");
    std::fs::write(&file, &password).unwrap();
    own(&file);
    run(program(&programs, folder.path(), "initdb")
        .args(["--no-sync", "--auth", "scram-sha-256", "--locale", "C"])
        .args(["--encoding", "UTF8", "--username", USER, "--pwfile"])
        .arg(&file)
        .arg("--pgdata")
        .arg(folder.path().join("data")));
    Some(Fresh::new(folder, "data", password))
}

/// A PostgreSQL server of its own. Stopped when it is dropped.
pub struct Postgres {
    child: Child,
    programs: PathBuf,
    /// On 127.0.0.1.
    pub port: u16,
    /// Of the superuser [`USER`].
    pub password: String,
    /// Its data, and what tests put beside it.
    folder: tempfile::TempDir,
    settings: Vec<String>,
    frozen: bool,
}

impl Postgres {
    /// Starts one with further settings (`NAME=VALUE`), and waits until it answers;
    /// `None` where there is none to start.
    pub fn start(settings: &[&str]) -> Option<Self> {
        let programs = programs()?;
        let folder = tempfile::tempdir().unwrap();
        own(folder.path());
        let fresh = FRESH.get(make_fresh, forget_fresh);
        let password = fresh?.copy_to(folder.path());
        let port = free_port();
        let mut server = Self {
            child: launch(&programs, folder.path(), port, settings),
            programs,
            port,
            password,
            folder,
            settings: settings.iter().map(|&it| it.to_owned()).collect(),
            frozen: false,
        };
        server.wait_until_ready();
        Some(server)
    }

    fn wait_until_ready(&mut self) {
        until("PostgreSQL is ready", || {
            let ended = self.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "PostgreSQL ended: {}", self.log());
            let asked = Command::new(self.programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status();
            asked.expect("pg_isready starts").success()
        });
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its folder, where tests may put files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it at once, as a crash would; its data stays.
    pub fn kill(&mut self) {
        self.quit();
    }

    /// It ends at once and leaves no shared memory, which it would where it is killed.
    fn quit(&mut self) {
        // Once waited for, its number may be another's.
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
            // SAFETY: it is our child, and was not waited for.
            unsafe { libc::kill(pid, libc::SIGQUIT) };
            let _ = self.child.wait();
        }
    }

    /// Stops all of its processes where they are, or lets them go on.
    pub fn freeze(&mut self, frozen: bool) {
        let first = self.child.id();
        // Frozen, it starts none, and waits for none that has ended: their numbers stay theirs.
        if frozen {
            signal(first, libc::SIGSTOP);
            self.frozen = true;
        }
        let each = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
        for process in children(first) {
            signal(process, each);
        }
        if !frozen {
            signal(first, libc::SIGCONT);
            self.frozen = false;
        }
    }

    /// Starts it again on the same data and port.
    pub fn launch(&mut self) {
        let settings: Vec<_> = self.settings.iter().map(String::as_str).collect();
        self.child = launch(&self.programs, self.folder.path(), self.port, &settings);
        self.wait_until_ready();
    }

    /// psql as the superuser, which reads its script from a pipe and prints unaligned.
    fn client(&self, database: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command
            .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"])
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-U", USER, "-d", database])
            .env("PGPASSWORD", &self.password)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    }

    /// Runs a script as the superuser; answers what it printed, unaligned.
    pub fn psql(&self, database: &str, script: &str) -> String {
        let mut child = self
            .client(database)
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let mut input = child.stdin.take().expect("it was piped");
        input.write_all(script.as_bytes()).expect("psql reads");
        drop(input);
        let output = child.wait_with_output().expect("psql ends");
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .expect("UTF-8")
            .trim()
            .to_owned()
    }

    /// Runs a script as the superuser in a session that stays open: what it locks stays
    /// locked until that is dropped.
    pub fn session(&self, database: &str, script: &str) -> Session {
        let mut child = self.client(database).spawn().expect("psql starts");
        let input = child.stdin.as_mut().expect("it was piped");
        writeln!(input, "{script}\n\\echo done").expect("psql reads");
        let session = Session(child.stdout.take().map(BufReader::new), child);
        session.wait()
    }

    /// A database of its own.
    pub fn database(&self) -> String {
        let name = format!("d{}", Uuid::new_v4().simple());
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// A role with a schema in that database, as `heyday binding setup` makes it.
    pub fn role(&self, database: &str) -> Role {
        let name = format!("r{}", Uuid::new_v4().simple());
        let script = heyday_capabilities::postgres::setup::sql(&name, &name, database, 64);
        self.psql(database, &script);
        self.role_of(database, &name)
    }

    /// Gives a role that there is a password.
    pub fn role_of(&self, database: &str, name: &str) -> Role {
        let password = Uuid::new_v4().to_string();
        self.psql(
            database,
            &format!("ALTER ROLE {name} PASSWORD '{password}'"),
        );
        let password_file = self.folder.path().join(format!("{name}.password"));
        std::fs::write(&password_file, format!("{password}\n")).unwrap();
        Role {
            name: name.to_owned(),
            url: format!("postgres://{name}@127.0.0.1:{}/{database}", self.port),
            password,
            password_file,
        }
    }
}

/// A session that is open. It ends when it is dropped.
pub struct Session(Option<BufReader<ChildStdout>>, Child);

impl Session {
    /// Waits until the script was run.
    fn wait(mut self) -> Self {
        let output = self.0.as_mut().expect("it was piped");
        let mut line = String::new();
        while line.trim() != "done" {
            line.clear();
            let read = output.read_line(&mut line).expect("psql tells");
            assert!(read > 0, "the script failed");
        }
        self
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.1.kill();
        let _ = self.1.wait();
    }
}

/// A role that a binding signs in as.
#[derive(Debug, Clone)]
pub struct Role {
    /// Its name, and its schema's.
    pub name: String,
    /// Where it signs in.
    pub url: String,
    /// Its password, which nobody may see.
    pub password: String,
    /// The file that has it.
    pub password_file: PathBuf,
}

impl Role {
    /// How a binding names it.
    pub fn config(&self) -> PostgresConfig {
        PostgresConfig {
            url: self.url.clone(),
            password_file: Some(self.password_file.clone()),
            ..PostgresConfig::default()
        }
    }

    /// As members of a binding's table in the configuration.
    pub fn toml(&self) -> String {
        format!(
            "postgres = {{ url = '{}', password_file = '{}' }}\n",
            self.url,
            self.password_file.display()
        )
    }
}

/// Gives a file to the user that PostgreSQL runs as.
pub fn own(path: &Path) {
    if let Some((uid, gid)) = postgres_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn program(programs: &Path, folder: &Path, name: &str) -> Command {
    let mut command = Command::new(programs.join(name));
    command.current_dir(folder);
    if let Some((uid, gid)) = postgres_user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn launch(programs: &Path, folder: &Path, port: u16, settings: &[&str]) -> Child {
    let mut options = std::fs::OpenOptions::new();
    let log = options.create(true).append(true).open(folder.join("log"));
    let log = log.unwrap();
    let mut command = program(programs, folder, "postgres");
    command
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-p", &port.to_string(), "-k", ""])
        .args(["-c", "listen_addresses=127.0.0.1"])
        // What is killed here is a server, never the machine.
        .args(["-c", "fsync=off"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    for setting in settings {
        command.args(["-c", setting]);
    }
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            // At once, but not so that its shared memory stays.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT);
            Ok(())
        });
    }
    command.spawn().expect("postgres starts")
}

/// The processes that this one has started.
pub fn children(of: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("it is there").flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|process| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
            // After the name, which may have anything in it, come the state and the parent.
            let after = stat.unwrap_or_default();
            let after = after.rsplit_once(") ").map_or("", |(_, after)| after);
            after.split(' ').nth(1) == Some(of.to_string().as_str())
        })
        .collect()
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.frozen {
            // It would not hear that it is to end.
            self.freeze(false);
        }
        self.quit();
    }
}

/// The one that tests share.
static SHARED: Keeper<Postgres> = Keeper::new();

extern "C" fn stop_shared() {
    SHARED.stop();
}

/// The server that tests share, for whoever does not stop it; `None` where there is none.
pub fn shared() -> Option<Kept<Postgres>> {
    programs()?;
    // Each server of a test has some of its own, of as many tests as run at once.
    SHARED.get(|| Postgres::start(&["max_connections=400"]), stop_shared)
}
