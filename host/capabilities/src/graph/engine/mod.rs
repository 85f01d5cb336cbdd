//! The embedded graph's own process: `kglite` behind Bolt.
//!
//! The host starts its own program once more with [`COMMAND`] (`embedded.rs`), because a
//! guest's query can take any amount of memory and stack, and an allocation that fails
//! ends a whole process. This one limits its own memory, opens one graph, and serves
//! connections on the socket that it was given as its standard input: `connection.rs`,
//! with two threads each, one of which reads on while a statement runs, so that a RESET
//! stops it. Writers get their turns in order (`turns.rs`). It ends with the first
//! connection, which the host keeps for as long as it lives.
//!
//! What is acknowledged is in the graph's log, flushed. The log is folded into the graph's
//! file when it has grown, after each change of the schema, and at an orderly end.

mod connection;
mod turns;
mod values;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kglite::api::cypher::{QueryWarningSink, set_query_warning_sink};
use kglite::api::durable::DurabilityLevel;
use kglite::api::session::{OpenSpec, Session, open_path};
use kglite::api::storage::StorageMode;
use serde::{Deserialize, Serialize};

use turns::Turns;

/// The argument that makes the program this process.
pub const COMMAND: &str = "graph-engine";
/// The graph's file in the binding's folder; its log and its lock lie beside it.
const FILE: &str = "graph.kgl";
/// How long is waited for a process before, which ends with its host.
const LEASE: Duration = Duration::from_secs(10);
/// kglite's version, which it tells nobody.
const KGLITE: &str = "0.21.5";
/// What the process takes beside the graph, its statements, and their stacks.
const OVERHEAD_BYTES: u64 = 128 << 20;
/// The stack of a thread that runs statements.
const STACK_BYTES: usize = 2 * kglite::api::session::QUERY_THREAD_STACK_SIZE;

/// What the host asks of the process, in one line of JSON on the first connection.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The binding's folder.
    pub(super) folder: PathBuf,
    /// The folder of the socket, which nobody needs after the end.
    pub(super) scratch: PathBuf,
    pub(super) read_only: bool,
    /// Bytes of the graph and the statements that run.
    pub(super) memory_bytes: u64,
    /// How long a writer waits for others.
    pub(super) busy_timeout_ms: u64,
    pub(super) connections: u32,
    /// The largest message.
    pub(super) message_bytes: u64,
    /// What every connection signs in with.
    pub(super) secret: String,
}

/// What the process answers to it, likewise.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ready {
    /// Why it cannot serve.
    pub(super) error: Option<String>,
}

/// One graph and what its connections share.
struct Engine {
    session: Session,
    turns: Arc<Turns>,
    order: Order,
    folding: AtomicBool,
}

/// The process. Its exit status is what it answers.
#[must_use]
pub fn main() -> u8 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            1
        }
    }
}

fn serve() -> std::io::Result<()> {
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let (control, _) = listener.accept()?;
    let mut reader = BufReader::new(control.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    restrain(&order)?;
    let opened = open(order);
    let ready = Ready {
        error: opened.as_ref().err().cloned(),
    };
    let mut answer = serde_json::to_string(&ready)?;
    answer.push('\n');
    (&control).write_all(answer.as_bytes())?;
    let Ok(engine) = opened else { return Ok(()) };
    let engine = Arc::new(engine);
    let accepting = Arc::clone(&engine);
    spawn("graph-accept", move || accept(&listener, &accepting))?;
    // The end of the host, or its word to end.
    let mut line = String::new();
    if reader.read_line(&mut line).is_ok_and(|count| count > 0) && !engine.order.read_only {
        // What cannot be folded now is in the log.
        let _ = engine.session.checkpoint_online();
    }
    let _ = std::fs::remove_dir_all(&engine.order.scratch);
    Ok(())
}

fn open(order: Order) -> Result<Engine, String> {
    set_query_warning_sink(QueryWarningSink::Silent);
    // A reader takes no lease, so that there may be several; then nothing may be logged.
    let spec = OpenSpec {
        storage: Some(StorageMode::Memory),
        durability: if order.read_only {
            DurabilityLevel::Off
        } else {
            DurabilityLevel::Full
        },
        durability_explicit: true,
        lease_timeout: (!order.read_only).then_some(LEASE),
        valid_time_default: None,
    };
    let opened = open_path(&order.folder.join(FILE), &spec).map_err(|error| error.to_string())?;
    for advice in &opened.advisories {
        let _ = writeln!(std::io::stderr(), "{}", advice.message);
    }
    // For as long as the process lives.
    std::mem::forget(opened.lease);
    Ok(Engine {
        session: opened.session,
        turns: Arc::default(),
        order,
        folding: AtomicBool::new(false),
    })
}

fn accept(listener: &UnixListener, engine: &Arc<Engine>) {
    while let Ok((stream, _)) = listener.accept() {
        let engine = Arc::clone(engine);
        // Where there is no thread, the connection ends, and the host tries again.
        let _ = spawn("graph-read", move || {
            let _ = connection::serve(stream, engine);
        });
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(run).map(drop)
}

impl Engine {
    /// Folds the log into the graph's file where it has grown, beside everything else.
    fn fold(self: &Arc<Self>) {
        if !self.session.needs_checkpoint() || self.folding.swap(true, Ordering::AcqRel) {
            return;
        }
        let engine = Arc::clone(self);
        let begun = spawn("graph-fold", move || {
            if let Err(error) = engine.session.maybe_checkpoint_online() {
                let _ = writeln!(std::io::stderr(), "the log was not folded: {error}");
            }
            engine.folding.store(false, Ordering::Release);
        });
        if begun.is_err() {
            self.folding.store(false, Ordering::Release);
        }
    }
}

/// Limits this process's memory, for good.
fn restrain(order: &Order) -> std::io::Result<()> {
    let stacks = u64::from(order.connections) * (STACK_BYTES as u64 + (4 << 20));
    let bytes = order.memory_bytes + OVERHEAD_BYTES + stacks;
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // Of what is its own: the program's text, which a debug build has much of, is shared.
    #[cfg(target_os = "linux")]
    let resource = libc::RLIMIT_DATA;
    #[cfg(not(target_os = "linux"))]
    let resource = libc::RLIMIT_AS;
    // SAFETY: the pointer is to a valid value that lives through the call.
    if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// A connection's socket may be closed by the host at any time, which is an error to
/// write to it and no signal: Rust's programs ignore SIGPIPE.
type Stream = UnixStream;

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_the_one_that_is_pinned() {
        let pinned = format!("kglite = {{ version = \"={}\"", super::KGLITE);
        // The SDK's is what plugins are tested on.
        for manifest in [
            include_str!("../../../../../Cargo.toml"),
            include_str!("../../../../../sdk-guest/Cargo.toml"),
        ] {
            assert!(manifest.contains(&pinned), "{pinned}");
        }
    }
}
