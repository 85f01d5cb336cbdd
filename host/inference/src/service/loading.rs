//! The threads that load models, and what waits for that. Whoever asks for a model that is in
//! memory does not wait for one that is not.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::Shared;
use super::compute::Compute;
use super::queue::Item;
use super::reader::{Arrival, Asking};

/// Models that are not in memory, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Loads(Vec<Load>);

#[derive(Debug)]
struct Load {
    model: String,
    /// Which model had the name when it was asked for.
    digest: Option<String>,
    /// A thread is at it.
    begun: bool,
    waiting: Vec<Asking>,
}

impl Loads {
    /// Lets it wait for the model that has its name now, where it has that digest. Who asked for the
    /// one that had the name before is not waited with: that one may be what comes of it.
    fn push(&mut self, asking: Asking, digest: Option<String>) {
        let model = asking.model();
        let mut loads = self.0.iter_mut();
        if let Some(load) = loads.find(|it| it.model == model && it.digest == digest) {
            load.waiting.push(asking);
            return;
        }
        self.0.push(Load {
            model: model.to_owned(),
            digest,
            begun: false,
            waiting: vec![asking],
        });
    }

    /// The next model that somebody waits for; nobody else begins with one of its name before its
    /// end.
    fn begin(&mut self) -> Option<String> {
        self.retain(|asking| !asking.is_cancelled());
        let is_free = |model: &str| self.0.iter().all(|it| !it.begun || it.model != model);
        let at = self.0.iter().position(|load| is_free(&load.model))?;
        let load = &mut self.0[at];
        load.begun = true;
        Some(load.model.clone())
    }

    /// What waited for that model, which a thread is at.
    fn end(&mut self, model: &str) -> Vec<Asking> {
        let mut loads = self.0.iter();
        let at = loads.position(|load| load.begun && load.model == model);
        at.map(|at| self.0.remove(at).waiting).unwrap_or_default()
    }

    /// Drops what nobody waits for any more.
    pub(super) fn retain(&mut self, keep: impl Fn(&Asking) -> bool) {
        for load in &mut self.0 {
            load.waiting.retain(&keep);
        }
        self.0.retain(|load| load.begun || !load.waiting.is_empty());
    }

    /// How many wait for that model, where a thread is at it.
    #[cfg(test)]
    pub(super) fn under_way(&self, model: &str) -> usize {
        let load = self.0.iter().find(|load| load.model == model && load.begun);
        load.map_or(0, |load| load.waiting.len())
    }
}

/// Lets a request wait until its model was loaded, or could not be.
pub(super) fn wait(shared: &Shared, asking: Asking) {
    // Before the queues are held: it may read a file.
    let stored = shared.models.store.get(asking.model());
    let digest = stored.map(|model| model.digest.clone());
    shared.queues().loads.push(asking, digest);
    shared.loads.notify_one();
}

/// Loads what is waited for, until the end.
pub(super) fn run(shared: &Shared, compute: &dyn Compute) {
    while let Some(name) = next(shared) {
        let loaded = shared.models.load(&name, compute);
        let mut queues = shared.queues();
        let waiting = queues.loads.end(&name);
        match loaded {
            Ok(model) => {
                for asking in waiting {
                    let caller = asking.caller().clone();
                    let item = Item {
                        group: (),
                        // It was counted when it was taken first.
                        cost: 0,
                        since: Instant::now(),
                        value: Arrival {
                            asking,
                            model: Some(Arc::clone(&model)),
                        },
                    };
                    queues.arrived.push(&caller, item);
                }
                // Before anything is read: whoever is answered may ask for a model that takes
                // this one's place.
                drop(model);
                drop(queues);
                shared.arrived.notify_all();
            }
            Err(error) => {
                drop(queues);
                for asking in waiting {
                    asking.fail(error.clone());
                }
            }
        }
    }
}

/// Waits for a model that is to be loaded; none at the end.
fn next(shared: &Shared) -> Option<String> {
    let mut queues = shared.queues();
    loop {
        if queues.stopping {
            return None;
        }
        if let Some(model) = queues.loads.begin() {
            return Some(model);
        }
        queues = shared
            .loads
            .wait(queues)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::request::Request;
    use super::super::{Caller, Meter, Work};
    use super::*;
    use crate::error::InferenceError;
    use crate::model::LongText;

    fn request(model: &str) -> Arc<Request> {
        let work = Work::Embed {
            texts: Vec::new(),
            long: LongText::Refuse,
        };
        let caller = Caller {
            namespace: "default".to_owned(),
            plugin: "me".to_owned(),
        };
        let (reply, _answer) = oneshot::channel();
        let request = Request::new(model.to_owned(), work, caller, Meter::start(), reply);
        Arc::new(request)
    }

    fn push(loads: &mut Loads, model: &str, digest: &str) -> Arc<Request> {
        let request = request(model);
        let asking = Asking::Texts(Arc::clone(&request));
        loads.push(asking, Some(digest.to_owned()));
        request
    }

    #[test]
    fn who_asks_for_what_has_a_name_now_does_not_wait_for_what_had_it() {
        let mut loads = Loads::default();
        push(&mut loads, "m", "old");
        assert_eq!(loads.begin().as_deref(), Some("m"));
        push(&mut loads, "m", "new");
        push(&mut loads, "m", "old");
        push(&mut loads, "n", "old");
        // Two threads would load the same, where the first one finds the new model too.
        assert_eq!(loads.begin().as_deref(), Some("n"));
        assert_eq!(loads.begin(), None);
        assert_eq!(loads.end("m").len(), 2);
        assert_eq!(loads.begin().as_deref(), Some("m"));
        assert_eq!(loads.end("m").len(), 1);
        assert_eq!(loads.begin(), None);
        assert_eq!(loads.end("n").len(), 1);
        assert!(loads.0.is_empty());
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_loaded() {
        let mut loads = Loads::default();
        let gone = [push(&mut loads, "m", "one"), push(&mut loads, "m", "one")];
        push(&mut loads, "n", "one");
        for request in gone {
            request.answer(Err(InferenceError::Stopping));
        }
        assert_eq!(loads.begin().as_deref(), Some("n"));
        assert_eq!(loads.begin(), None);
    }
}
