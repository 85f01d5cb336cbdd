//! What waits to be computed, in fair order, and batches of it.
//!
//! Every namespace has the same share of the device, and within it every plugin. A share is
//! counted in tokens: of those who have something to do, the one that had least so far is
//! next. Who comes back from idling begins where the least served one stands, so that nobody
//! saves up. It knows no clock, thread or model: those are its user's.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// The namespace.
    pub namespace: String,
    /// The plugin in it.
    pub plugin: String,
}

/// Something that waits.
#[derive(Debug)]
pub(crate) struct Item<G, T> {
    /// Only items of one group are computed together.
    pub(crate) group: G,
    /// Its tokens.
    pub(crate) cost: u64,
    pub(crate) since: Instant,
    pub(crate) value: T,
}

/// How large a batch is, and how long it waits for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// Sequences of one batch.
    pub(crate) sequences: usize,
    /// Tokens of one batch; one sequence may have more.
    pub(crate) tokens: u64,
    /// How long a sequence waits, at most, for others to be computed with.
    pub(crate) delay: Duration,
}

/// Whether there is something to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Empty,
    /// Not before this, unless more comes.
    At(Instant),
    Now,
}

#[derive(Debug)]
struct Share<V> {
    /// Tokens that it was given.
    given: u64,
    of: V,
}

type Waiting<G, T> = BTreeMap<G, VecDeque<Item<G, T>>>;
/// By the plugin's name.
type Plugins<G, T> = BTreeMap<String, Share<Waiting<G, T>>>;

/// Items by namespace, plugin and group.
#[derive(Debug)]
pub(crate) struct FairQueue<G, T> {
    namespaces: BTreeMap<String, Share<Plugins<G, T>>>,
    length: usize,
}

impl<G, T> Default for FairQueue<G, T> {
    fn default() -> Self {
        Self {
            namespaces: BTreeMap::new(),
            length: 0,
        }
    }
}

/// The share of that name; a new one begins where the least served one stands.
fn share<'a, V: Default>(
    shares: &'a mut BTreeMap<String, Share<V>>,
    name: &str,
) -> &'a mut Share<V> {
    if !shares.contains_key(name) {
        let given = shares.values().map(|share| share.given).min();
        let share = Share {
            given: given.unwrap_or_default(),
            of: V::default(),
        };
        shares.insert(name.to_owned(), share);
    }
    // It was put there.
    shares.entry(name.to_owned()).or_insert_with(|| Share {
        given: 0,
        of: V::default(),
    })
}

impl<G: Ord + Copy, T> FairQueue<G, T> {
    pub(crate) fn push(&mut self, caller: &Caller, item: Item<G, T>) {
        let namespace = share(&mut self.namespaces, &caller.namespace);
        let plugin = share(&mut namespace.of, &caller.plugin);
        plugin.of.entry(item.group).or_default().push_back(item);
        self.length += 1;
    }

    #[cfg(test)]
    pub(crate) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The next item; of that group, if one is given.
    pub(crate) fn pop(&mut self, group: Option<G>) -> Option<Item<G, T>> {
        let has = |waiting: &Waiting<G, T>| match group {
            Some(group) => waiting.contains_key(&group),
            None => !waiting.is_empty(),
        };
        let name = self
            .namespaces
            .iter()
            .filter(|(_, share)| share.of.values().any(|plugin| has(&plugin.of)))
            .min_by_key(|(_, share)| share.given)?
            .0
            .clone();
        let namespace = self.namespaces.get_mut(&name)?;
        let plugin_name = namespace
            .of
            .iter()
            .filter(|(_, share)| has(&share.of))
            .min_by_key(|(_, share)| share.given)?
            .0
            .clone();
        let plugin = namespace.of.get_mut(&plugin_name)?;
        let oldest = plugin
            .of
            .iter()
            .filter(|(of, _)| group.is_none_or(|group| group == **of))
            .filter_map(|(of, items)| Some((items.front()?.since, *of)))
            .min_by_key(|(since, _)| *since)?
            .1;
        let items = plugin.of.get_mut(&oldest)?;
        let item = items.pop_front()?;
        if items.is_empty() {
            plugin.of.remove(&oldest);
        }
        let cost = item.cost.max(1);
        plugin.given += cost;
        namespace.given += cost;
        self.length -= 1;
        self.forget_idle();
        Some(item)
    }

    /// Those who wait for nothing have no share.
    fn forget_idle(&mut self) {
        self.namespaces.retain(|_, namespace| {
            namespace.of.retain(|_, plugin| !plugin.of.is_empty());
            !namespace.of.is_empty()
        });
    }

    /// Drops items that nobody waits for any more.
    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let mut length = 0;
        for namespace in self.namespaces.values_mut() {
            for plugin in namespace.of.values_mut() {
                plugin.of.retain(|_, items| {
                    items.retain(|item| keep(&item.value));
                    length += items.len();
                    !items.is_empty()
                });
            }
        }
        self.length = length;
        self.forget_idle();
    }

    #[cfg(test)]
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Takes everything out.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let namespaces = std::mem::take(self).namespaces;
        let plugins = namespaces
            .into_values()
            .flat_map(|share| share.of.into_values());
        let items = plugins.flat_map(|share| share.of.into_values().flatten());
        items.map(|item| item.value).collect()
    }

    fn waiting(&self) -> impl Iterator<Item = &Waiting<G, T>> {
        let plugins = self.namespaces.values().flat_map(|share| share.of.values());
        plugins.map(|share| &share.of)
    }

    /// Whether a batch should be computed now: one is full, or the oldest item has waited
    /// long enough.
    pub(crate) fn readiness(&self, now: Instant, limits: &BatchLimits) -> Readiness {
        let mut groups: BTreeMap<G, (usize, u64)> = BTreeMap::new();
        let mut oldest: Option<Instant> = None;
        for (group, items) in self.waiting().flatten() {
            let (sequences, tokens) = groups.entry(*group).or_default();
            *sequences += items.len();
            *tokens += items.iter().map(|item| item.cost).sum::<u64>();
            if *sequences >= limits.sequences || *tokens >= limits.tokens {
                return Readiness::Now;
            }
            let first = items.front().map(|item| item.since);
            oldest = oldest.into_iter().chain(first).min();
        }
        match oldest.map(|oldest| oldest + limits.delay) {
            None => Readiness::Empty,
            Some(at) if at <= now => Readiness::Now,
            Some(at) => Readiness::At(at),
        }
    }

    /// The next batch: who is next decides of which group, and all take turns to fill it.
    pub(crate) fn batch(&mut self, limits: &BatchLimits) -> Vec<Item<G, T>> {
        let Some(first) = self.pop(None) else {
            return Vec::new();
        };
        let group = first.group;
        let mut tokens = first.cost;
        let mut batch = vec![first];
        while batch.len() < limits.sequences && tokens < limits.tokens {
            let Some(item) = self.pop(Some(group)) else {
                break;
            };
            tokens += item.cost;
            batch.push(item);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(namespace: &str, plugin: &str) -> Caller {
        Caller {
            namespace: namespace.to_owned(),
            plugin: plugin.to_owned(),
        }
    }

    fn item(group: u8, cost: u64, since: Instant, value: &str) -> Item<u8, String> {
        Item {
            group,
            cost,
            since,
            value: value.to_owned(),
        }
    }

    const LIMITS: BatchLimits = BatchLimits {
        sequences: 4,
        tokens: 1_000,
        delay: Duration::from_millis(5),
    };

    fn values(items: Vec<Item<u8, String>>) -> Vec<String> {
        items.into_iter().map(|item| item.value).collect()
    }

    #[test]
    fn a_flood_of_one_plugin_does_not_hold_up_another() {
        let now = Instant::now();
        let mut queue = FairQueue::default();
        for n in 0..100 {
            queue.push(&caller("a", "flood"), item(0, 10, now, &format!("f{n}")));
        }
        queue.push(&caller("a", "small"), item(0, 10, now, "s0"));
        queue.push(&caller("b", "other"), item(0, 10, now, "o0"));
        queue.push(&caller("b", "other"), item(0, 10, now, "o1"));
        let batch = values(queue.batch(&LIMITS));
        assert_eq!(batch, ["f0", "o0", "s0", "o1"]);
    }

    #[test]
    fn namespaces_share_evenly_however_many_plugins_they_have() {
        let now = Instant::now();
        let mut queue = FairQueue::default();
        for n in 0..40 {
            for plugin in ["p", "q", "r"] {
                queue.push(&caller("many", plugin), item(0, 7, now, "many"));
            }
            queue.push(&caller("one", "p"), item(0, 7, now, &format!("one{n}")));
        }
        let taken: Vec<String> = (0..40)
            .filter_map(|_| queue.pop(None))
            .map(|item| item.value)
            .collect();
        let many = taken.iter().filter(|value| *value == "many").count();
        assert_eq!(many, 20);
    }

    #[test]
    fn a_share_is_counted_in_tokens() {
        let now = Instant::now();
        let mut queue = FairQueue::default();
        for _ in 0..50 {
            queue.push(&caller("a", "long"), item(0, 100, now, "long"));
            queue.push(&caller("a", "short"), item(0, 10, now, "short"));
        }
        let taken: Vec<String> = (0..22)
            .filter_map(|_| queue.pop(None))
            .map(|item| item.value)
            .collect();
        let long = taken.iter().filter(|value| *value == "long").count();
        assert!((2..=3).contains(&long), "{long} of {taken:?}");
    }

    #[test]
    fn nobody_saves_up_while_idle() {
        let now = Instant::now();
        let mut queue = FairQueue::default();
        for n in 0..30 {
            queue.push(&caller("a", "busy"), item(0, 10, now, &format!("b{n}")));
        }
        for _ in 0..20 {
            queue.pop(None);
        }
        for n in 0..5 {
            queue.push(&caller("a", "late"), item(0, 10, now, &format!("l{n}")));
        }
        assert_eq!(values(queue.batch(&LIMITS)), ["b20", "l0", "b21", "l1"]);
    }

    #[test]
    fn a_batch_is_of_one_group_and_within_its_limits() {
        let now = Instant::now();
        let mut queue = FairQueue::default();
        let who = caller("a", "p");
        queue.push(&who, item(1, 600, now, "x"));
        queue.push(&who, item(2, 10, now + Duration::from_millis(1), "y"));
        queue.push(&who, item(1, 600, now + Duration::from_millis(2), "z"));
        queue.push(&who, item(1, 600, now + Duration::from_millis(3), "w"));
        assert_eq!(values(queue.batch(&LIMITS)), ["x", "z"]);
        assert_eq!(values(queue.batch(&LIMITS)), ["y"]);
        assert_eq!(values(queue.batch(&LIMITS)), ["w"]);
        assert!(queue.batch(&LIMITS).is_empty());
        assert!(queue.is_empty());
    }

    #[test]
    fn a_batch_waits_for_more_until_it_is_full_or_late() {
        let now = Instant::now();
        let mut queue = FairQueue::default();
        assert_eq!(queue.readiness(now, &LIMITS), Readiness::Empty);
        queue.push(&caller("a", "p"), item(0, 10, now, "0"));
        let late = now + LIMITS.delay;
        assert_eq!(queue.readiness(now, &LIMITS), Readiness::At(late));
        assert_eq!(queue.readiness(late, &LIMITS), Readiness::Now);
        queue.push(&caller("b", "p"), item(1, 10, now, "other group"));
        for n in 1..3 {
            queue.push(&caller("c", "p"), item(0, 10, now, &n.to_string()));
        }
        assert_eq!(queue.readiness(now, &LIMITS), Readiness::At(late));
        queue.push(&caller("d", "p"), item(0, 10, now, "3"));
        assert_eq!(queue.readiness(now, &LIMITS), Readiness::Now);
        queue.retain(|value| value == "other group");
        assert_eq!(queue.readiness(now, &LIMITS), Readiness::At(late));
        assert_eq!(values(queue.batch(&LIMITS)), ["other group"]);
    }
}
