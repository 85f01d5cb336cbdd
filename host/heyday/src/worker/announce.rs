//! Tells the server, again and again, that the worker is there and which models it can serve.

use std::time::Duration;

use heyday_inference::Inference;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::client::ServerClient;
use super::wire::{AnnouncedModel, AnnouncementBody};
use crate::server::{blocking, chain};

/// Between two announcements.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The same where models have changed: how often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What is announced, and where.
pub(super) struct Announcer {
    pub(super) client: ServerClient,
    pub(super) inference: Inference,
    /// Without its models.
    pub(super) body: AnnouncementBody,
}

impl Announcer {
    /// Announces until it is stopped. A server that is away is told when it is back.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let client = self.client.impatient();
        let mut told: Option<(AnnouncementBody, tokio::time::Instant)> = None;
        loop {
            tokio::select! {
                now = ticks.tick() => {
                    let body = self.now().await;
                    let again = told.as_ref().is_none_or(|(last, at)| {
                        *last != body || now.duration_since(*at) >= INTERVAL
                    });
                    if !again {
                        continue;
                    }
                    // The token opens all of them, or the worker had not started.
                    let namespace = self.body.namespaces.first().map_or("", String::as_str);
                    let sent = client.post::<()>(namespace, &["announcements"], &body);
                    match sent.await {
                        Ok(()) => told = Some((body, now)),
                        Err(error) => {
                            tracing::debug!(error = chain(&error), "the worker is not announced");
                        }
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }

    async fn now(&self) -> AnnouncementBody {
        let inference = self.inference.clone();
        let models = blocking(move || {
            // The store may be a folder that others write to.
            if let Err(error) = inference.refresh() {
                tracing::debug!(error = chain(&error), "the models cannot be listed anew");
            }
            let (loaded, _) = inference.in_memory();
            let models = inference.models().into_iter().map(|model| AnnouncedModel {
                task: model.properties().task,
                digest: model.stored().map(|it| it.digest.clone()),
                loaded: loaded.iter().any(|name| name == model.name()),
                name: model.name().to_owned(),
            });
            models.collect()
        });
        AnnouncementBody {
            models: models.await,
            ..self.body.clone()
        }
    }
}
