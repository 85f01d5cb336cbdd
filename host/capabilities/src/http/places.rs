//! How many requests go at once to what one rule allows, of all attempts of a namespace.
//!
//! A rule is to requests what a binding is to other calls: a site that does not answer fills
//! the places of the rules that lead to it, and no others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::HttpError;
use crate::places::Places;

/// How long is waited for a place.
const WAIT: Duration = Duration::from_secs(10);

/// The places of all rules.
#[derive(Debug)]
pub struct HttpPlaces {
    most: u32,
    rules: Mutex<HashMap<Key, Arc<Places>>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    rule: String,
}

/// A request's place; it is given back when it is dropped.
#[derive(Debug)]
pub struct HttpPlace {
    _place: OwnedSemaphorePermit,
}

impl HttpPlaces {
    /// So many for each rule, but at least one.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            most,
            rules: Mutex::default(),
        }
    }

    /// A place among the requests that the rule allows.
    ///
    /// # Errors
    /// [`HttpError::Busy`] where as many wait already as there are places, or none became
    /// free in time.
    pub async fn take(&self, namespace: &str, rule: &str) -> Result<HttpPlace, HttpError> {
        let place = self.of(namespace, rule).take(WAIT).await;
        let place = place.ok_or_else(|| HttpError::Busy(rule.to_owned()))?;
        Ok(HttpPlace { _place: place })
    }

    fn of(&self, namespace: &str, rule: &str) -> Arc<Places> {
        let key = Key {
            namespace: namespace.to_owned(),
            rule: rule.to_owned(),
        };
        // A panic while it was held leaves nothing half-done.
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = rules.get(&key) {
            return Arc::clone(places);
        }
        // Rules come and go with grants.
        rules.retain(|_, places| Arc::strong_count(places) > 1 || !places.is_idle());
        let places = Arc::new(Places::new(self.most));
        rules.insert(key, Arc::clone(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rule_of_a_namespace_has_places_of_its_own() {
        let places = HttpPlaces::new(1);
        let held = places.take("default", "GET:a").await.expect("free");
        let mut waits = Box::pin(places.take("default", "GET:a"));
        assert!(futures::poll!(&mut waits).is_pending());
        let busy = places.take("default", "GET:a").await.err();
        assert_eq!(busy, Some(HttpError::Busy("GET:a".to_owned())));
        let other = places.take("default", "GET:b").await.expect("another rule");
        let elsewhere = places.take("elsewhere", "GET:a").await;
        drop((held, other, elsewhere.expect("another namespace")));
        drop(waits.await.expect("given back"));
        // What nobody uses any more is forgotten.
        let _used = places.take("default", "GET:c").await.expect("free");
        places.take("default", "GET:d").await.expect("free");
        assert_eq!(places.rules.lock().expect("no panic").len(), 2);
    }
}
