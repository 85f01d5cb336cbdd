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
    use std::collections::HashMap;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use kglite::api::session::{CommitOutcome, ExecuteOptions, execute_mut};

    use super::{Order, connection, open};
    use crate::graph::bolt::Value;
    use crate::graph::bolt::frame::{self, Frames};
    use crate::graph::bolt::message::{
        BEGIN, COMMIT, LOGON, PREAMBLE, PULL, RUN, SUCCESS, VERSION, map, text,
    };

    /// How long is waited for what must come.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// The host's end of a connection.
    struct Client {
        stream: UnixStream,
        frames: Frames,
    }

    impl Client {
        fn new(mut stream: UnixStream) -> Self {
            stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
            stream.write_all(&PREAMBLE).expect("written");
            let mut version = [0; VERSION.len()];
            stream.read_exact(&mut version).expect("a version");
            assert_eq!(version, VERSION);
            let frames = Frames::new(1 << 20);
            Self { stream, frames }
        }

        fn say<const N: usize>(&mut self, messages: [(u8, Vec<Value>); N]) {
            let mut bytes = Vec::new();
            for (tag, fields) in messages {
                frame::write(&Value::Struct(tag, fields), &mut bytes);
            }
            self.stream.write_all(&bytes).expect("written");
        }

        /// Hears that so many messages were done.
        fn hear(&mut self, count: usize) {
            let mut buffer = [0; 1_024];
            let mut heard = 0;
            while heard < count {
                match self.frames.next().expect("a message") {
                    Some(Value::Struct(SUCCESS, _)) => heard += 1,
                    Some(other) => panic!("{other:?}"),
                    None => {
                        let bytes = self.stream.read(&mut buffer).expect("in time");
                        assert!(bytes > 0, "it ended");
                        self.frames.input.extend_from_slice(&buffer[..bytes]);
                    }
                }
            }
        }
    }

    #[test]
    fn who_waits_to_write_lets_others_write_in_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let order = Order {
            folder: folder.path().to_owned(),
            scratch: folder.path().join("scratch"),
            read_only: false,
            memory_bytes: 1 << 30,
            busy_timeout_ms: 600_000,
            connections: 1,
            message_bytes: 1 << 20,
            secret: "secret".to_owned(),
        };
        let engine = Arc::new(open(order).expect("opened"));
        let holders = || Arc::strong_count(&engine.session.snapshot());
        // What it prints tells a graph from changes that are kept beside one.
        let shown = || format!("{:?}", engine.session.snapshot().graph);
        let alone = holders();
        let turn = engine.turns.take(PATIENCE, || false).expect("free");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let serving = std::thread::spawn({
            let engine = Arc::clone(&engine);
            move || connection::serve(theirs, engine)
        });
        let mut client = Client::new(ours);
        let credentials = map([("credentials", text("secret"))]);
        client.say([(LOGON, vec![credentials]), (BEGIN, vec![map([])])]);
        client.hear(2);
        assert_eq!(holders(), alone + 1);
        let create = text("CREATE (:A {i: 2})");
        let all = map([("n", Value::Integer(-1))]);
        client.say([
            (RUN, vec![create, map([]), map([])]),
            (PULL, vec![all]),
            (COMMIT, vec![]),
        ]);
        let deadline = Instant::now() + PATIENCE;
        while holders() > alone {
            assert!(Instant::now() < deadline, "it holds what it has not seen");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut transaction = engine.session.begin();
        let working = transaction.working_mut().expect("a graph");
        let params = HashMap::new();
        execute_mut(
            working,
            "CREATE (:A {i: 1})",
            &ExecuteOptions::eager(&params),
        )
        .expect("written");
        let outcome = engine.session.commit(transaction, true);
        assert!(
            matches!(outcome, CommitOutcome::Committed { .. }),
            "{outcome:?}"
        );
        assert!(shown().contains("(Memory(1 nodes"), "{}", shown());
        drop(turn);
        client.hear(3);
        // It saw what was written while it waited, and wrote in place, too.
        assert!(shown().contains("(Memory(2 nodes"), "{}", shown());
        drop(client);
        serving.join().expect("no panic").expect("served");
    }

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
