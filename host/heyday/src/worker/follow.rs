//! The stream of active versions and grants, and the lease that it gives.
//!
//! Whatever comes on the stream, a comment that it is there included, renews the lease. A
//! worker that has heard nothing for longer takes no new tasks: what it knows of grants
//! may be wrong. What it took goes on. The stream is opened again and again, and goes on
//! after the last revision that was told.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catalogue::RemoteRegistry;
use super::client::{ServerClient, ServerError};
use super::wire::NewsBody;
use crate::registry::feed::Revision;
use heyday_capabilities::http::sse::Parser;

/// Longest wait between two tries to open the stream.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Follows a server.
pub(super) struct Follower {
    /// Whom.
    pub(super) client: ServerClient,
    /// Of which namespaces.
    pub(super) namespaces: Vec<String>,
    /// What is told.
    pub(super) registry: RemoteRegistry,
    /// How long a silent server is believed.
    pub(super) lease: Duration,
    /// When the server was last heard.
    pub(super) heard: watch::Sender<Option<Instant>>,
}

/// How long the server may be silent: so that one lost message costs no lease.
fn keep_alive(lease: Duration) -> Duration {
    (lease / 4).clamp(Duration::from_millis(100), Duration::from_secs(15))
}

impl Follower {
    /// Follows until `stop`.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut wait = Duration::from_millis(50);
        let mut told = String::new();
        loop {
            let opened = Instant::now();
            let error = tokio::select! {
                error = self.follow() => error,
                () = stop.cancelled() => return,
            };
            // Once for each reason: it may be away for long.
            let text = error.to_string();
            match &error {
                _ if told == text => {}
                ServerError::Token { .. } => tracing::error!(%error, "the worker is cut off"),
                error => tracing::warn!(%error, "the server's stream ended; opening it again"),
            }
            told = text;
            if opened.elapsed() > LONGEST_WAIT {
                wait = Duration::from_millis(50);
                told.clear();
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Follows one stream to its end, whatever ends it.
    async fn follow(&self) -> ServerError {
        let after = self.registry.seen().borrow().map(|seen| seen.to_string());
        let silent = keep_alive(self.lease);
        let opened = self
            .client
            .stream(&self.namespaces, silent, after.as_deref());
        // A server that takes the connection and says nothing is as good as away.
        let opened = tokio::time::timeout(self.lease, opened).await;
        let mut chunks = match opened {
            Ok(Ok(response)) => response.bytes_stream(),
            Ok(Err(error)) => return error,
            Err(_) => return self.away("it does not answer"),
        };
        let mut parser = Parser::default();
        loop {
            let chunk = match tokio::time::timeout(silent * 3, chunks.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => return self.away(&error.to_string()),
                Ok(None) => return self.away("the stream ended"),
                Err(_) => return self.away("it is silent"),
            };
            let events = match parser.feed(&chunk) {
                Ok(events) => events,
                Err(error) => return self.client.answer(&error.to_string()),
            };
            for event in events {
                let whole = match event.event.as_str() {
                    "snapshot" => true,
                    "changes" => false,
                    // Of a newer server.
                    _ => continue,
                };
                let news: NewsBody = match serde_json::from_str(&event.data) {
                    Ok(news) => news,
                    Err(error) => return self.client.answer(&error.to_string()),
                };
                match news.revision.parse::<Revision>() {
                    Ok(revision) => self.registry.take(whole, news.changes, revision),
                    Err(error) => return self.client.answer(&error.to_string()),
                }
            }
            // Only a server that has told everything is heard.
            if self.registry.seen().borrow().is_some() {
                self.heard.send_replace(Some(Instant::now()));
            }
        }
    }

    fn away(&self, cause: &str) -> ServerError {
        ServerError::Away {
            server: self.client.server().to_owned(),
            cause: cause.to_owned(),
        }
    }
}

/// Keeps `admission` true while the lease holds, until `stop`.
pub(super) async fn watch_lease(
    mut heard: watch::Receiver<Option<Instant>>,
    lease: Duration,
    admission: watch::Sender<bool>,
    stop: CancellationToken,
) {
    loop {
        let last = *heard.borrow_and_update();
        let until = last.map(|last| last + lease);
        let holds = until.is_some_and(|until| Instant::now() < until);
        if admission.send_if_modified(|now| std::mem::replace(now, holds) != holds) {
            if holds {
                tracing::info!("the lease holds: tasks are taken");
            } else {
                tracing::warn!(
                    ?lease,
                    "the server was not heard for longer: no tasks are taken"
                );
            }
        }
        let over = async {
            match until.filter(|_| holds) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = heard.changed() => if heard.is_err() { return },
            () = over => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_ends_when_nothing_is_heard_and_comes_back() {
        let (heard, hears) = watch::channel(None);
        let (admission, mut admitted) = watch::channel(false);
        let stop = CancellationToken::new();
        let lease = Duration::from_millis(50);
        let watching = tokio::spawn(watch_lease(hears, lease, admission, stop.clone()));
        for _ in 0..2 {
            let begun = Instant::now();
            heard.send_replace(Some(begun));
            admitted.wait_for(|may| *may).await.expect("watched");
            admitted.wait_for(|may| !may).await.expect("watched");
            assert!(begun.elapsed() >= lease, "{:?}", begun.elapsed());
        }
        stop.cancel();
        watching.await.expect("ended");
    }

    #[test]
    fn a_silent_server_says_often_enough_that_it_is_there() {
        for (lease, expected) in [(30, 7_500), (1, 250), (600, 15_000)] {
            let often = keep_alive(Duration::from_secs(lease));
            assert_eq!(often.as_millis(), expected);
        }
    }
}
