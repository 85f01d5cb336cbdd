//! A flow whose only request is never answered, and how soon it feels what is granted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use tokio::sync::Semaphore;

use super::http_server;
use super::server::{Client, PATIENCE};

/// Within this a changed grant is felt wherever runs work.
pub const SOON: Duration = Duration::from_secs(1);
/// How often a change is timed. Each time is judged: what the system itself waits for may be
/// in some of them only.
const TIMES: usize = 5;
/// As many runs as the slowest beside it may be in what is timed, beyond the second: it has the
/// requests and the steps of one or two runs in it, and those of other tests, which keep the
/// machine busy, are in all.
const RUNS: u32 = 4;
/// Its name.
const FLOW: &str = "tests.asks";
/// That of the same without a grant, ever.
const BEAT: &str = "tests.beats";

/// The flow, and what it asks.
pub struct Held {
    rule: String,
    /// Has a permit for each request that came.
    came: Arc<Semaphore>,
}

impl Held {
    /// Uploads it, without its grant.
    pub async fn push(client: &Client) -> Self {
        let (address, came) = http_server::held().await.unwrap();
        for name in ["asks", "beats"] {
            let flow = format!(
                "document: {{dsl: 1.0.3, namespace: tests, name: {name}, version: 1.0.0}}\ndo:\n  \
                 - ask: {{call: http, with: {{method: get, endpoint: 'http://{address}/held'}}}}\n"
            );
            let pushed = client.push_flow(&flow).await.unwrap();
            assert_eq!(pushed.status(), StatusCode::CREATED);
        }
        let rule = format!("GET:{address}");
        Self { rule, came }
    }

    /// Grants the request at one server and takes that back, again and again, and runs the flow
    /// at the other, or the same. Panics where that is not felt soon, or a request in flight does
    /// not end by it.
    pub async fn feels(&self, granting: &Client, running: &Client) {
        for _ in 0..TIMES {
            let (felt, slowest) = beside(running, self.felt(granting, running)).await;
            eprintln!("a change of grants was felt after {felt:?}; a run took {slowest:?}");
            let most = SOON + slowest * RUNS;
            assert!(felt < most, "{felt:?}, while a run took {slowest:?}");
        }
    }

    /// After how long a grant is felt by a run that begins, or being taken back by one that waits:
    /// the longer of both.
    async fn felt(&self, granting: &Client, running: &Client) -> Duration {
        let granted = granting.grant(FLOW, "http", &self.rule, None);
        granted.await.unwrap();
        let since = Instant::now();
        // Again and again without a pause, which would be in what is timed.
        let id = loop {
            if let Some(id) = self.begin(running).await {
                break id;
            }
            assert!(since.elapsed() < PATIENCE, "the grant is never felt");
        };
        let begun = since.elapsed();
        let revoked = granting.revoke(FLOW, "http", &self.rule);
        revoked.await.unwrap();
        let since = Instant::now();
        let outcome = running.result(&id).await.unwrap();
        let ended = since.elapsed();
        assert_eq!(outcome.status, "Failed", "{}", outcome.body);
        let told = outcome.body.to_string();
        assert!(told.contains("has no grant"), "{told}");
        // Once it is known it stays known.
        let again = self.begin(running).await;
        assert!(again.is_none(), "its grant was known to be gone");
        begun.max(ended)
    }

    /// Starts a run and answers it as soon as its request came; none where the grant was not
    /// known yet.
    async fn begin(&self, running: &Client) -> Option<String> {
        let id = running.start(FLOW, &json!({})).await.unwrap();
        tokio::select! {
            came = self.came.acquire() => came.unwrap().forget(),
            outcome = running.result(&id) => {
                let outcome = outcome.unwrap();
                assert_eq!(outcome.status, "Failed", "{}", outcome.body);
                return None;
            }
        }
        Some(id)
    }
}

/// Does something, and answers how long the slowest run took that began beside it: one that asks
/// for what it was never granted, and so goes the same way without any change.
async fn beside<T>(running: &Client, doing: impl Future<Output = T>) -> (T, Duration) {
    tokio::pin!(doing);
    let mut slowest = Duration::ZERO;
    loop {
        let since = Instant::now();
        let beat = async {
            let id = running.start(BEAT, &json!({})).await.unwrap();
            let outcome = running.result(&id).await.unwrap();
            assert_eq!(outcome.status, "Failed", "{}", outcome.body);
        };
        tokio::select! {
            done = &mut doing => return (done, slowest.max(since.elapsed())),
            () = beat => slowest = slowest.max(since.elapsed()),
        }
    }
}
