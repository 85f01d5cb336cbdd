//! A real Weaviate.
//!
//! `cargo xtask test` builds it, and names the folder of its program in `HEYDAY_WEAVIATE`.
//! Its gRPC and the port of its cluster listen on every address, which no setting changes.
//! So it runs in a network namespace of its own where that can be had (root on Linux), and
//! is reached through forwarders on 127.0.0.1; elsewhere it is as it is, behind a key.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heyday_capabilities::vector::weaviate::WeaviateConfig;
use uuid::Uuid;

use super::keeper::{Keeper, Kept};
use super::ports::free_ports;
use super::postgres::until;

/// The folder of the program. Without it the caller leaves out its tests, and they are
/// [listed](super::not_run).
fn program() -> Option<PathBuf> {
    Some(super::folder("HEYDAY_WEAVIATE")?.join("weaviate-server"))
}

/// Users beside the one who may do everything.
const OTHERS: [&str; 2] = ["reader", "nobody"];

/// The key of such a user.
fn of_user(key: &str, user: &str) -> String {
    format!("{key}-{user}")
}

/// A Weaviate of its own. Stopped when it is dropped.
pub struct Weaviate {
    child: Child,
    forwarders: Vec<Forwarder>,
    program: PathBuf,
    /// REST, gRPC, and four that only it uses.
    ports: [u16; 6],
    /// Of the user who may do everything.
    pub key: String,
    /// A file with it.
    pub key_file: PathBuf,
    /// The file of a user who may only read.
    pub reader_key_file: PathBuf,
    /// The file of a user without any right.
    pub nobody_key_file: PathBuf,
    folder: tempfile::TempDir,
}

impl Weaviate {
    /// Starts one, and waits until it answers; `None` where there is none to start.
    pub fn start() -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        let key = Uuid::new_v4().to_string();
        let key_file = folder.path().join("key");
        std::fs::write(&key_file, format!("{key}\n")).unwrap();
        let [reader_key_file, nobody_key_file] = OTHERS.map(|user| {
            let file = folder.path().join(user);
            std::fs::write(&file, of_user(&key, user)).unwrap();
            file
        });
        // A node on its own machine finds its own by adding one.
        let ports = free_ports();
        let (child, forwarders) = launch(&program, folder.path(), ports, &key);
        let mut server = Self {
            child,
            forwarders,
            program,
            ports,
            key,
            key_file,
            reader_key_file,
            nobody_key_file,
            folder,
        };
        server.wait_until_ready();
        Some(server)
    }

    fn wait_until_ready(&mut self) {
        until("Weaviate is ready", || {
            let ended = self.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "Weaviate ended: {}", self.log());
            ready(self.ports[0]).unwrap_or(false)
        });
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it at once, as a crash would; its data stays.
    pub fn kill(&mut self) {
        self.forwarders.clear();
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// Starts it again on the same data and ports.
    pub fn launch(&mut self) {
        let made = launch(&self.program, self.folder.path(), self.ports, &self.key);
        (self.child, self.forwarders) = made;
        self.wait_until_ready();
    }

    /// Stops its clock: it holds its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        super::signals::signal(self.child.id(), signal);
    }

    /// How a binding names it.
    pub fn config(&self) -> WeaviateConfig {
        WeaviateConfig {
            url: format!("http://127.0.0.1:{}", self.ports[0]),
            grpc_url: Some(format!("http://127.0.0.1:{}", self.ports[1])),
            api_key_file: Some(self.key_file.clone()),
            ..WeaviateConfig::default()
        }
    }

    /// As a member of a binding's table in the configuration.
    pub fn toml(&self) -> String {
        format!(
            "weaviate = {{ url = 'http://127.0.0.1:{}', grpc_url = 'http://127.0.0.1:{}', \
             api_key_file = '{}' }}\n",
            self.ports[0],
            self.ports[1],
            self.key_file.display()
        )
    }
}

impl Drop for Weaviate {
    fn drop(&mut self) {
        self.forwarders.clear();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The one that tests share.
static SHARED: Keeper<Weaviate> = Keeper::new();

extern "C" fn stop_shared() {
    SHARED.stop();
}

/// The server that tests share, for whoever does not stop it; `None` where there is none.
pub fn shared() -> Option<Kept<Weaviate>> {
    program()?;
    SHARED.get(Weaviate::start, stop_shared)
}

/// Whether its REST says that it is ready.
fn ready(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let asked = "GET /v1/.well-known/ready HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n";
    stream.write_all(asked.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

fn launch(program: &Path, folder: &Path, ports: [u16; 6], key: &str) -> (Child, Vec<Forwarder>) {
    let mut options = std::fs::OpenOptions::new();
    let log = options.create(true).append(true).open(folder.join("log"));
    let log = log.unwrap();
    let [rest, grpc, gossip, data, raft, raft_rpc] = ports;
    let [reader, nobody] = OTHERS.map(|user| of_user(key, user));
    let keys = format!("{key},{reader},{nobody}");
    let mut command = Command::new(program);
    command
        .args(["--scheme", "http", "--host", "127.0.0.1"])
        .args(["--port", &rest.to_string()])
        .current_dir(folder)
        .env_clear()
        .env("PERSISTENCE_DATA_PATH", folder.join("data"))
        .env("DEFAULT_VECTORIZER_MODULE", "none")
        .env("CLUSTER_HOSTNAME", "node1")
        .env("CLUSTER_IN_LOCALHOST", "true")
        .env("CLUSTER_BIND_ADDR", "127.0.0.1")
        .env("CLUSTER_ADVERTISE_ADDR", "127.0.0.1")
        .env("GRPC_PORT", grpc.to_string())
        .env("CLUSTER_GOSSIP_BIND_PORT", gossip.to_string())
        .env("CLUSTER_DATA_BIND_PORT", data.to_string())
        .env("RAFT_PORT", raft.to_string())
        .env("RAFT_INTERNAL_RPC_PORT", raft_rpc.to_string())
        .env("RAFT_BOOTSTRAP_EXPECT", "1")
        .env("RAFT_BOOTSTRAP_TIMEOUT", "60")
        // Ready in two seconds, not in nine.
        .env("RAFT_TIMEOUTS_MULTIPLIER", "1")
        .env("DISABLE_TELEMETRY", "true")
        // So many are found, and deleted, at once at most.
        .env("QUERY_MAXIMUM_RESULTS", "1000")
        .env("GO_PROFILING_DISABLE", "true")
        // Nothing is written where the disk is nearly full, which is no matter of the tests.
        .env("DISK_USE_READONLY_PERCENTAGE", "100")
        .env("DISK_USE_WARNING_PERCENTAGE", "100")
        .env("CLUSTER_BASIC_AUTH_USERNAME", "node")
        .env("CLUSTER_BASIC_AUTH_PASSWORD", key)
        .env("AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED", "false")
        .env("AUTHENTICATION_APIKEY_ENABLED", "true")
        .env("AUTHENTICATION_APIKEY_ALLOWED_KEYS", keys)
        .env("AUTHENTICATION_APIKEY_USERS", "tests,reader,nobody")
        .env("AUTHORIZATION_ADMINLIST_ENABLED", "true")
        .env("AUTHORIZATION_ADMINLIST_USERS", "tests")
        .env("AUTHORIZATION_ADMINLIST_READONLY_USERS", "reader")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let apart = has_namespaces();
    // SAFETY: only system calls, which are async-signal-safe and touch nothing of the
    // parent.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if apart { own_namespace() } else { Ok(()) }
        });
    }
    let child = command.spawn().expect("Weaviate starts");
    let forwarders = if apart {
        let path = format!("/proc/{}/ns/net", child.id());
        [rest, grpc]
            .iter()
            .map(|&port| Forwarder::start(port, File::open(&path).expect("its namespace")))
            .collect()
    } else {
        Vec::new()
    };
    (child, forwarders)
}

/// Whether a process may have a network of its own here.
fn has_namespaces() -> bool {
    let mut command = Command::new("true");
    // SAFETY: as in `launch`.
    unsafe { command.pre_exec(own_namespace) };
    command.status().is_ok_and(|status| status.success())
}

/// Gives the process a network of its own, with nothing but 127.0.0.1 in it.
fn own_namespace() -> io::Result<()> {
    let checked = |code: libc::c_int| {
        if code == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(code)
    };
    // SAFETY: system calls with valid arguments; the request is as large as the kernel
    // takes it to be, and its name ends with a zero.
    unsafe {
        checked(libc::unshare(libc::CLONE_NEWNET))?;
        let socket = checked(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
        let mut request: libc::ifreq = std::mem::zeroed();
        for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
            *place = libc::c_char::try_from(*byte).unwrap_or_default();
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
        checked(libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw mut request))?;
        checked(libc::close(socket))?;
    }
    Ok(())
}

/// Takes connections to a port of 127.0.0.1 to the same port of another network.
struct Forwarder {
    listener: Arc<TcpListener>,
    stopped: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Forwarder {
    fn start(port: u16, namespace: File) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let (listener, stopped) = (Arc::new(listener), Arc::<AtomicBool>::default());
        let (accepting, ended) = (Arc::clone(&listener), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            // SAFETY: a system call on an open file; it concerns this thread alone.
            let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "{}", io::Error::last_os_error());
            while let Ok((inner, _)) = accepting.accept() {
                if ended.load(Ordering::Acquire) {
                    break;
                }
                if let Ok(outer) = TcpStream::connect(("127.0.0.1", port)) {
                    join(inner, outer);
                }
            }
        });
        Self {
            listener,
            stopped,
            thread: Some(thread),
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // SAFETY: a system call on an open socket; it ends the waiting for connections.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies both ways, until both are closed.
fn join(one: TcpStream, other: TcpStream) {
    for (from, to) in [(&one, &other), (&other, &one)] {
        let _ = from.set_nodelay(true);
        let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else {
            return;
        };
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
            let _ = from.shutdown(Shutdown::Read);
        });
    }
}
