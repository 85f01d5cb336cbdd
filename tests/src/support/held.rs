//! A flow whose only request is never answered, and how soon it feels what is granted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use tokio::sync::Semaphore;

use super::http_server;
use super::server::Client;
use super::worker::eventually;

/// Within this a changed grant is felt wherever runs work.
pub const SOON: Duration = Duration::from_secs(1);
/// How often a change is timed at most, until it was felt so soon: other tests keep the machine busy,
/// by which one may be late, but not each. What the system itself waits for would be in all of them.
const TIMES: usize = 20;
/// Its name.
const FLOW: &str = "tests.asks";

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
        let flow = format!(
            "document: {{dsl: 1.0.3, namespace: tests, name: asks, version: 1.0.0}}\ndo:\n  \
             - ask: {{call: http, with: {{method: get, endpoint: 'http://{address}/held'}}}}\n"
        );
        let pushed = client.push_flow(&flow).await.unwrap();
        assert_eq!(pushed.status(), StatusCode::CREATED);
        let rule = format!("GET:{address}");
        Self { rule, came }
    }

    /// Grants the request at one server and takes that back, again and again, and runs the flow
    /// at the other, or the same. Panics where that is not felt soon, or a request in flight does
    /// not end by it.
    pub async fn feels(&self, granting: &Client, running: &Client) {
        let mut quickest = Duration::MAX;
        for _ in 0..TIMES {
            let granted = granting.grant(FLOW, "http", &self.rule, None);
            granted.await.unwrap();
            let since = Instant::now();
            let started = eventually(async || {
                let begun = since.elapsed();
                let id = self.begin(running).await?;
                Some((id, begun))
            });
            let (id, begun) = started.await;
            let revoked = granting.revoke(FLOW, "http", &self.rule);
            revoked.await.unwrap();
            let since = Instant::now();
            let outcome = running.result(&id).await.unwrap();
            let ended = since.elapsed();
            assert_eq!(outcome.status, "Failed", "{}", outcome.body);
            let told = outcome.body.to_string();
            assert!(told.contains("has no grant"), "{told}");
            // Once it is known it stays known: such a run takes what the machine takes by itself.
            let since = Instant::now();
            let again = self.begin(running).await;
            assert!(again.is_none(), "its grant was known to be gone");
            let usual = since.elapsed();
            quickest = quickest.min(begun.max(ended).saturating_sub(usual));
            if quickest < SOON {
                break;
            }
        }
        eprintln!("a change of grants was felt after {quickest:?}");
        assert!(quickest < SOON, "{quickest:?}");
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
