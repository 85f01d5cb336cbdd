//! A way to a server that may fall silent: what is said on it waits, and neither side hears of
//! that. Bytes pass as they are, so that pings are answered by the server only.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Bytes that are read at once, where nothing waits.
const AT_ONCE: usize = 16 << 10;

/// A relay on a loopback port. It ends when it is dropped.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    /// Whether what is said waits.
    held: watch::Sender<bool>,
    /// The connections on which the client has said something, and that nobody has closed.
    open: Mutex<BTreeSet<u64>>,
}

impl Relay {
    /// Starts one before the server at that address.
    pub async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            held: watch::Sender::new(false),
            open: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let (upstream, within, stopped) = (upstream.to_owned(), Arc::clone(&shared), stop.clone());
        let accepting = async move {
            let mut number = 0;
            while let Ok((client, _)) = listener.accept().await {
                number += 1;
                let connection = serve(number, client, upstream.clone(), Arc::clone(&within));
                tokio::spawn(stopped.clone().run_until_cancelled_owned(connection));
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on nothing passes. Connections stay, and new ones are taken.
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// From now on everything passes again, first of all what waited.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// The connections that are open and on which the client has said something: the numbers in
    /// which they were made. One that a side closes is none of them at once, also while nothing
    /// passes.
    pub fn open(&self) -> BTreeSet<u64> {
        self.shared.open.lock().unwrap().clone()
    }
}

async fn serve(number: u64, client: TcpStream, upstream: String, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let said = || {
        shared.open.lock().unwrap().insert(number);
    };
    // Whoever ends it, it has ended.
    tokio::select! {
        _ = pass(from_client, to_server, shared.held.subscribe(), said) => {}
        _ = pass(from_server, to_client, shared.held.subscribe(), || {}) => {}
    }
    shared.open.lock().unwrap().remove(&number);
}

/// Passes on what is read, unless that is held; `said` is called when something was read.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut held: watch::Receiver<bool>,
    said: impl Fn(),
) -> std::io::Result<()> {
    let mut waiting: Vec<u8> = Vec::with_capacity(AT_ONCE);
    loop {
        if !*held.borrow_and_update() {
            to.write_all(&waiting).await?;
            waiting.clear();
        }
        // It is read on while it is held: only so an end is seen.
        tokio::select! {
            read = from.read_buf(&mut waiting) => match read? {
                0 => return Ok(()),
                _ => said(),
            },
            Ok(()) = held.changed() => {}
        }
    }
}
