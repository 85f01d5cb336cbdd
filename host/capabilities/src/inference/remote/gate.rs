//! How many calls an endpoint has at once, and how many wait.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use heyday_inference::{Caller, InferenceError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets so many in at once. Of those that are in or wait, one caller has half at most, and
/// one namespace three quarters.
#[derive(Debug)]
pub(super) struct Gate {
    running: Arc<Semaphore>,
    most: usize,
    admitted: Arc<Mutex<Admitted>>,
}

#[derive(Debug, Default)]
struct Admitted {
    all: usize,
    by_caller: HashMap<Caller, usize>,
    by_namespace: HashMap<String, usize>,
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admitted: Arc<Mutex<Admitted>>,
    caller: Caller,
    permit: Option<OwnedSemaphorePermit>,
}

impl Gate {
    pub(super) fn new(concurrent: usize, queue: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(concurrent)),
            most: concurrent + queue,
            admitted: Arc::default(),
        }
    }

    /// Waits for its turn.
    pub(super) async fn enter(&self, caller: &Caller) -> Result<Place, InferenceError> {
        let mut place = self.admit(caller)?;
        let permit = Arc::clone(&self.running).acquire_owned().await;
        // It is never closed.
        place.permit = Some(permit.map_err(|_| InferenceError::Stopping)?);
        Ok(place)
    }

    fn admit(&self, caller: &Caller) -> Result<Place, InferenceError> {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let own = admitted.by_caller.get(caller).copied().unwrap_or_default();
        let of_namespace = admitted.by_namespace.get(&caller.namespace).copied();
        let of_namespace = of_namespace.unwrap_or_default();
        let full = admitted.all >= self.most
            || own >= self.most.div_ceil(2)
            || of_namespace >= (self.most * 3).div_ceil(4);
        if full {
            return Err(InferenceError::Busy);
        }
        admitted.all += 1;
        admitted.by_caller.insert(caller.clone(), own + 1);
        let namespace = caller.namespace.clone();
        admitted.by_namespace.insert(namespace, of_namespace + 1);
        Ok(Place {
            admitted: Arc::clone(&self.admitted),
            caller: caller.clone(),
            permit: None,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permit = None;
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.all -= 1;
        take_one(&mut admitted.by_caller, &self.caller);
        take_one(&mut admitted.by_namespace, &self.caller.namespace);
    }
}

/// One less; what has none is forgotten.
fn take_one<K, Q>(held: &mut HashMap<K, usize>, key: &Q)
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    if let Some(count) = held.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(plugin: &str) -> Caller {
        Caller {
            namespace: "default".to_owned(),
            plugin: plugin.to_owned(),
        }
    }

    #[tokio::test]
    async fn over_its_bounds_it_is_busy() {
        let gate = Gate::new(1, 3);
        let first = gate.enter(&caller("a")).await.expect("free");
        let (one, two) = (caller("a"), caller("b"));
        let mut second = Box::pin(gate.enter(&one));
        let mut third = Box::pin(gate.enter(&two));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        // A caller has half of the four.
        assert_eq!(gate.admit(&one).err(), Some(InferenceError::Busy));
        // And their namespace three quarters, so that others have a place.
        assert_eq!(gate.admit(&caller("c")).err(), Some(InferenceError::Busy));
        let elsewhere = Caller {
            namespace: "elsewhere".to_owned(),
            ..caller("c")
        };
        let fourth = gate.admit(&elsewhere).expect("one place is left");
        assert_eq!(gate.admit(&two).err(), Some(InferenceError::Busy));
        drop(fourth);
        drop(first);
        drop(second.await.expect("its turn"));
        drop(third.await.expect("its turn"));
        let admitted = gate.admitted.lock().expect("no panic");
        assert_eq!(admitted.all, 0);
        assert!(admitted.by_caller.is_empty() && admitted.by_namespace.is_empty());
    }
}
