//! The embedded graph: a folder of this machine, and the process that has it open.
//!
//! The process (`engine`) is started at the first use and again whenever it is gone; what
//! it acknowledged is in the graph's log. Its end is told from its last words: for want of
//! memory or stack, if it was alone with one statement, that statement is over the binding's limit;
//! otherwise whoever was there may try again.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex as Words, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::GraphLimits;
use super::bolt::{BoltError, Connector, SignIn, Wire};
use super::engine::{COMMAND, Order, Ready};
use super::session::Graph;

/// Bytes of memory of a graph whose binding says nothing else.
const MEMORY_BYTES: u64 = 1 << 30;
/// How long the process may take to open its graph: a log may have to be replayed.
const OPENING: Duration = Duration::from_secs(60);
/// How long it may take to fold its log at an orderly end.
const ENDING: Duration = Duration::from_secs(20);
/// How long the end of a process is waited for after its connections ended.
const DYING: Duration = Duration::from_secs(2);
/// How much of its last words is kept, in bytes.
const WORDS: usize = 4 << 10;
/// What the names of folders with sockets begin with.
const SCRATCH: &str = "heyday-graph-";

/// How the process of an embedded graph is started.
#[derive(Debug, Clone)]
pub struct EngineCommand {
    /// The program: usually the running binary itself.
    pub program: PathBuf,
    /// Its arguments, up to where `engine::main` takes over.
    pub args: Vec<OsString>,
}

impl EngineCommand {
    /// The running program's own.
    ///
    /// # Errors
    /// Where the system does not know its path.
    pub fn own() -> std::io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            args: vec![COMMAND.into()],
        })
    }
}

/// Why a folder cannot be a graph's.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be made.
    #[error("the folder {} cannot be made: {source}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is to be read only, and there is none.
    #[error("there is no folder {}, and the binding is read-only", .0.display())]
    Missing(PathBuf),
    /// There is something else.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// The program does not know its own path.
    #[error("the path of the running program is not known: {0}")]
    Program(std::io::Error),
}

/// Names an embedded graph. Its process is started at its first use.
///
/// # Errors
/// When the folder cannot be a graph's.
pub fn open(
    folder: &Path,
    read_only: bool,
    limits: GraphLimits,
    command: EngineCommand,
    runtime: Handle,
) -> Result<Graph, OpenError> {
    if folder.exists() && !folder.is_dir() {
        return Err(OpenError::NotAFolder(folder.to_owned()));
    }
    if !folder.exists() {
        if read_only {
            return Err(OpenError::Missing(folder.to_owned()));
        }
        std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
            folder: folder.to_owned(),
            source,
        })?;
    }
    let folder = std::path::absolute(folder).map_err(|source| OpenError::Folder {
        folder: folder.to_owned(),
        source,
    })?;
    let connector = Embedded {
        folder,
        read_only,
        limits: limits.clone(),
        command,
        process: Mutex::new(None),
    };
    Ok(Graph::new(
        Box::new(connector),
        "kglite",
        read_only,
        limits,
        runtime,
    ))
}

struct Embedded {
    folder: PathBuf,
    read_only: bool,
    limits: GraphLimits,
    command: EngineCommand,
    process: Mutex<Option<Arc<Process>>>,
}

/// A process that serves the graph.
struct Process {
    child: Mutex<Child>,
    /// It ends with this connection.
    control: Mutex<Option<BufReader<UnixStream>>>,
    scratch: Scratch,
    secret: String,
    said: Arc<Words<String>>,
}

/// A folder that nobody else may look into, with the socket in it. It lies among the
/// system's temporary ones: a socket's path has 108 bytes at most, and a binding's folder may
/// be anywhere.
struct Scratch {
    folder: PathBuf,
    /// The folder itself, locked for as long as this process lives, however it ends.
    _lock: Option<File>,
}

impl Scratch {
    /// Makes one in that folder, and removes those there whose hosts are gone.
    fn new(parent: &Path) -> std::io::Result<Self> {
        sweep(parent);
        let name = random(8);
        let folder = parent.join(format!("heyday-{name}"));
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let mut made = Self {
            folder,
            _lock: None,
        };
        // Where folders cannot be locked, it keeps the name that is not swept.
        if let Ok(lock) = locked(&made.folder) {
            let folder = parent.join(format!("{SCRATCH}{name}"));
            std::fs::rename(&made.folder, &folder)?;
            made.folder = folder;
            made._lock = Some(lock);
        }
        Ok(made)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The process may have been faster.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A folder, locked; never through a link, and nothing else than a folder.
fn locked(folder: &Path) -> std::io::Result<File> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(folder)?;
    opened.try_lock()?;
    Ok(opened)
}

/// Removes the folders that nobody holds any more: a host that is killed together with its
/// processes leaves them behind. Those of others cannot be removed, and are left.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(SCRATCH))
            && let Ok(_lock) = locked(&entry.path())
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn random(bytes: usize) -> String {
    (0..bytes)
        .map(|_| format!("{:02x}", rand::random::<u8>()))
        .collect()
}

impl Embedded {
    /// The process, started where there is none.
    async fn process(&self) -> Result<Arc<Process>, BoltError> {
        let mut known = self.process.lock().await;
        if let Some(process) = &*known
            && matches!(process.child.lock().await.try_wait(), Ok(None))
        {
            return Ok(Arc::clone(process));
        }
        *known = None;
        let process = self.start().await?;
        let process = Arc::new(process);
        *known = Some(Arc::clone(&process));
        Ok(process)
    }

    async fn start(&self) -> Result<Process, BoltError> {
        let io = |error: std::io::Error| BoltError::Refused(format!("its process: {error}"));
        let scratch = Scratch::new(&std::env::temp_dir()).map_err(io)?;
        let listener = UnixListener::bind(scratch.socket()).map_err(io)?;
        let mut command = Command::new(&self.command.program);
        command
            .args(&self.command.args)
            .env_clear()
            .current_dir(&self.folder)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // An interrupt at a terminal is for the host, which ends it in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(io)?;
        let said = Arc::new(Words::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(listen(stderr, Arc::clone(&said)));
        }
        let secret = random(32);
        let order = Order {
            folder: self.folder.clone(),
            scratch: scratch.folder.clone(),
            read_only: self.read_only,
            memory_bytes: self.limits.memory_bytes.unwrap_or(MEMORY_BYTES),
            busy_timeout_ms: self.limits.busy_timeout_ms,
            connections: self.limits.connections,
            message_bytes: message_bytes(&self.limits),
            secret: secret.clone(),
        };
        let socket = scratch.socket();
        let asking = async {
            let stream = UnixStream::connect(socket).await?;
            let mut control = BufReader::new(stream);
            let mut line = serde_json::to_string(&order)?;
            line.push('\n');
            control.get_mut().write_all(line.as_bytes()).await?;
            line.clear();
            control.read_line(&mut line).await?;
            let ready: Ready = serde_json::from_str(&line)?;
            Ok::<_, std::io::Error>((control, ready))
        };
        let process = |control| Process {
            child: Mutex::new(child),
            control: Mutex::new(control),
            scratch,
            secret,
            said,
        };
        match timeout(OPENING, asking).await {
            Ok(Ok((control, Ready { error: None }))) => Ok(process(Some(control))),
            Ok(Ok((_, Ready { error: Some(error) }))) => Err(BoltError::Refused(error)),
            Ok(Err(error)) => {
                let said = process(None).ended().await.map(|(_, said)| said);
                let said = said.unwrap_or_default();
                Err(BoltError::Refused(format!("its process: {error}: {said}")))
            }
            Err(_) => Err(BoltError::Away("its process does not answer".to_owned())),
        }
    }
}

/// What a message of the host may have: a number takes at most thrice what it takes in JSON.
fn message_bytes(limits: &GraphLimits) -> u64 {
    limits
        .result_bytes
        .saturating_mul(3)
        .saturating_add(1 << 20)
}

impl Process {
    /// How it ended and its last words, if it does within a moment.
    async fn ended(&self) -> Option<(ExitStatus, String)> {
        let mut child = self.child.lock().await;
        let status = timeout(DYING, child.wait()).await.ok()?.ok()?;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        Some((status, said.trim().to_owned()))
    }
}

/// Keeps the last words of a process.
async fn listen(mut stderr: ChildStderr, said: Arc<Words<String>>) {
    let mut buffer = [0; 1_024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let words = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&words);
        let surplus = said.len().saturating_sub(WORDS);
        if let Some(rest) = (surplus..said.len()).find_map(|at| said.get(at..)) {
            *said = rest.to_owned();
        }
    }
}

#[async_trait]
impl Connector for Embedded {
    fn identity(&self) -> String {
        self.folder.display().to_string()
    }

    fn patience(&self) -> Duration {
        OPENING + DYING
    }

    async fn connect(&self) -> Result<Wire, BoltError> {
        let process = self.process().await?;
        let stream = UnixStream::connect(process.scratch.socket()).await;
        let stream = stream.map_err(|error| BoltError::Away(error.to_string()))?;
        let sign_in = SignIn {
            user: "heyday".to_owned(),
            password: process.secret.clone(),
        };
        let limit = usize::try_from(message_bytes(&self.limits)).unwrap_or(usize::MAX);
        Wire::open(Box::new(stream), sign_in, None, limit).await
    }

    /// A statement that does not heed that it was told to stop takes its process with it.
    async fn stuck(&self) {
        let process = self.process.lock().await.clone();
        if let Some(process) = process {
            tracing::error!(
                folder = self.identity(),
                "an embedded graph's statement does not end: its process is killed"
            );
            let _ = process.child.lock().await.start_kill();
        }
    }

    async fn explain(&self, error: BoltError, alone: bool) -> BoltError {
        let BoltError::Away(cause) = &error else {
            return error;
        };
        let process = self.process.lock().await.clone();
        let Some(process) = process else { return error };
        let Some((status, said)) = process.ended().await else {
            return error;
        };
        tracing::error!(
            folder = self.identity(),
            %status,
            cause,
            said,
            "an embedded graph's process ended"
        );
        let exhausted = ["memory allocation of", "overflowed its stack"];
        if alone && exhausted.iter().any(|words| said.contains(words)) {
            return BoltError::Memory;
        }
        error
    }

    async fn close(&self) {
        let process = self.process.lock().await.take();
        let Some(process) = process else { return };
        if let Some(control) = &mut *process.control.lock().await {
            let _ = control.get_mut().write_all(b"end\n").await;
        }
        let mut child = process.child.lock().await;
        if timeout(ENDING, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_hosts_that_are_gone_are_removed_and_no_others() {
        let parent = tempfile::tempdir().expect("a folder");
        let at = |name: &str| parent.path().join(name);
        let held = Scratch::new(parent.path()).expect("made");
        std::fs::write(held.socket(), "").expect("written");
        // As it stays behind when a host is killed: the lock went with its process.
        let left = at("heyday-graph-0123456789abcdef");
        let link = at("heyday-graph-link");
        for folder in [left.clone(), at("heyday-0123"), at("other")] {
            std::fs::create_dir(&folder).expect("made");
            std::fs::write(folder.join("s"), "").expect("written");
        }
        std::os::unix::fs::symlink(at("other"), &link).expect("a link");
        std::fs::write(at("heyday-graph-file"), "").expect("written");

        let next = Scratch::new(parent.path()).expect("made");
        assert!(!left.exists());
        for kept in [held.socket(), next.folder.clone(), link] {
            assert!(kept.exists(), "{}", kept.display());
        }
        for kept in ["heyday-0123/s", "other/s", "heyday-graph-file"] {
            assert!(at(kept).exists(), "{kept}");
        }
        let folders = [held.folder.clone(), next.folder.clone()];
        drop((held, next));
        for gone in folders {
            assert!(!gone.exists(), "{}", gone.display());
        }
    }
}
