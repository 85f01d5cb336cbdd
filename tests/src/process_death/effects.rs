//! What the runs did to the world outside: a small HTTP server in the test's process,
//! which writes each effect to a file and syncs it before it answers.
//!
//! Written on the bare socket, so that the test knows when nothing that the killed
//! process sent is on its way any more: then the next *life* begins, and each effect
//! belongs to the life of the process that caused it.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::server::PATIENCE;

/// One effect, a line of the file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Effect {
    /// Counts the effects, from 1.
    pub number: u64,
    /// Which process asked for it, from 0.
    pub life: u32,
    /// The run's id.
    pub workflow: String,
    /// The step's name.
    pub step: String,
    /// The request's `Idempotency-Key`.
    pub key: String,
}

#[derive(Debug, Deserialize)]
struct Asked {
    workflow: String,
    step: String,
    /// The numbers of the run's effects before this one.
    numbers: Vec<u64>,
}

struct Shared {
    path: PathBuf,
    /// The file, and how many effects it has.
    file: Mutex<(File, u64)>,
    life: AtomicU32,
    /// Connections that are open.
    open: watch::Sender<usize>,
}

/// The server and its file.
pub struct Effects {
    shared: Arc<Shared>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Effects {
    /// Starts it; it ends with the runtime.
    pub async fn start(path: &Path) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            path: path.to_path_buf(),
            file: Mutex::new((File::create(path)?, 0)),
            life: AtomicU32::new(0),
            open: watch::Sender::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, address })
    }

    /// Begins the next life. To be called when the process is dead; waits until all
    /// that it sent was dealt with.
    pub async fn next_life(&self) -> anyhow::Result<()> {
        // The kernel hands connections out in their order: once this one was accepted,
        // so were all of the dead process.
        let mut mine = TcpStream::connect(self.address).await?;
        mine.write_all(b"GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
            .await?;
        mine.read_u8().await?;
        drop(mine);
        let mut open = self.shared.open.subscribe();
        tokio::time::timeout(PATIENCE, open.wait_for(|open| *open == 0))
            .await
            .context("connections of a dead process stay open")??;
        self.shared.life.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// All effects, from the file.
    pub fn read(&self) -> anyhow::Result<Vec<Effect>> {
        let text = std::fs::read_to_string(&self.shared.path)?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("{line:?}")))
            .collect()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        shared.open.send_modify(|open| *open += 1);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A connection that breaks off is what this test is about.
            let _ = serve(stream, &shared).await;
            shared.open.send_modify(|open| *open -= 1);
        });
    }
}

/// Answers the requests of one connection, one after the other.
async fn serve(stream: TcpStream, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut key) = (0, String::new());
        let mut line = String::new();
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            } else if name.eq_ignore_ascii_case("idempotency-key") {
                key = value.trim().to_owned();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let answer = if body.is_empty() {
            json!({})
        } else {
            let shared = Arc::clone(shared);
            // All of the request has come, so it takes effect, whoever waits for it.
            tokio::task::spawn_blocking(move || take_effect(&shared, &body, key)).await??
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + &answer).as_bytes()).await?;
    }
}

fn take_effect(shared: &Shared, body: &[u8], key: String) -> anyhow::Result<Value> {
    let Asked {
        workflow,
        step,
        mut numbers,
    } = serde_json::from_slice(body)?;
    let mut file = shared.file.lock().unwrap();
    let (file, count) = &mut *file;
    *count += 1;
    numbers.push(*count);
    let effect = Effect {
        number: *count,
        life: shared.life.load(Ordering::SeqCst),
        workflow,
        step,
        key,
    };
    let line = serde_json::to_string(&effect)? + "\n";
    file.write_all(line.as_bytes())?;
    file.sync_data()?;
    Ok(json!({ "numbers": numbers }))
}
