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
    /// A thread is at it.
    begun: bool,
    waiting: Vec<Asking>,
}

impl Loads {
    fn push(&mut self, asking: Asking) {
        if let Some(load) = self.0.iter_mut().find(|it| it.model == asking.model()) {
            load.waiting.push(asking);
            return;
        }
        self.0.push(Load {
            model: asking.model().to_owned(),
            begun: false,
            waiting: vec![asking],
        });
    }

    /// The next model; nobody else begins with it before its end.
    fn begin(&mut self) -> Option<String> {
        let load = self.0.iter_mut().find(|load| !load.begun)?;
        load.begun = true;
        Some(load.model.clone())
    }

    /// What waited for that model.
    fn end(&mut self, model: &str) -> Vec<Asking> {
        let at = self.0.iter().position(|load| load.model == model);
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
    shared.queues().loads.push(asking);
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
