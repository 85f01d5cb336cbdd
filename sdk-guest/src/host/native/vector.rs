//! Vector stores in memory: exact, and as strict as the host's.

mod check;
mod rank;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::CapabilityError;
use crate::test::state;
use crate::vector::{Filter, Hit, Item, Search, Specification};
use check::{check_ids, check_name, check_specification, check_tenant};
use rank::{bm25, far, passes, words};

type Result<T> = std::result::Result<T, CapabilityError>;

const COLLECTIONS: usize = 100;
const TEXT_BYTES: usize = 4_096;
const MOST_COUNTED: usize = 4_096;

/// The collections of a binding.
#[derive(Debug, Default)]
pub(crate) struct Collections {
    by_name: BTreeMap<String, Kept>,
    made: u64,
}

#[derive(Debug)]
struct Kept {
    /// Another one of the same name has another number.
    number: u64,
    specification: Specification,
    /// By tenant, and by id.
    items: BTreeMap<Option<String>, BTreeMap<String, Item>>,
}

fn refused<T>(code: &str, message: impl Into<String>) -> Result<T> {
    Err(CapabilityError::new(code, message))
}

fn answered(item: &Item, properties: Option<&[String]>, vectors: bool) -> Item {
    let mut item = item.clone();
    if let Some(properties) = properties {
        item.properties
            .retain(|(name, _)| properties.contains(name));
    }
    if !vectors {
        item.vector = None;
    }
    item
}

fn with<T>(binding: &str, f: impl FnOnce(&mut Collections) -> Result<T>) -> Result<T> {
    state::with(|state| match state.vectors.get_mut(binding) {
        Some(collections) => f(collections),
        None => refused(
            "capability-denied",
            format!(
                "no store {binding:?} is granted: in a native test, \
                 heyday_sdk::test::Context::vector grants one"
            ),
        ),
    })
}

impl Collections {
    fn find(&mut self, name: &str) -> Result<&mut Kept> {
        check_name(name, "-")?;
        match self.by_name.get_mut(name) {
            Some(kept) => Ok(kept),
            None => refused("not-found", format!("there is no collection {name}")),
        }
    }

    fn with_tenants(&mut self, name: &str) -> Result<&mut Kept> {
        let kept = self.find(name)?;
        if kept.specification.tenants {
            return Ok(kept);
        }
        refused(
            "invalid-specification",
            format!("the collection {name} has no tenants"),
        )
    }
}

#[derive(Debug)]
pub(crate) struct Store {
    binding: String,
}

impl Store {
    pub(crate) fn open(binding: &str) -> Result<Self> {
        with(binding, |_| Ok(()))?;
        Ok(Self {
            binding: binding.to_owned(),
        })
    }

    pub(crate) fn create(&self, name: &str, specification: &Specification) -> Result<bool> {
        check_name(name, "-")?;
        check_specification(specification)?;
        with(&self.binding, |collections| {
            if let Some(kept) = collections.by_name.get(name) {
                if kept.specification == *specification {
                    return Ok(false);
                }
                return refused(
                    "already-exists",
                    format!("there is another collection {name}"),
                );
            }
            if collections.by_name.len() >= COLLECTIONS {
                return refused("limit-exceeded", "a store has at most 100 collections here");
            }
            collections.made += 1;
            let kept = Kept {
                number: collections.made,
                specification: specification.clone(),
                items: BTreeMap::new(),
            };
            collections.by_name.insert(name.to_owned(), kept);
            Ok(true)
        })
    }

    pub(crate) fn collections(&self) -> Result<Vec<String>> {
        with(&self.binding, |collections| {
            Ok(collections.by_name.keys().cloned().collect())
        })
    }

    pub(crate) fn drop_collection(&self, name: &str) -> Result<bool> {
        check_name(name, "-")?;
        with(&self.binding, |collections| {
            Ok(collections.by_name.remove(name).is_some())
        })
    }

    pub(crate) fn collection(&self, name: &str, tenant: Option<&str>) -> Result<Collection> {
        tenant.map_or(Ok(()), check_tenant)?;
        with(&self.binding, |collections| {
            let kept = collections.find(name)?;
            if kept.specification.tenants != tenant.is_some() {
                return refused(
                    "invalid-specification",
                    "a tenant is named where the collection has tenants, and nowhere else",
                );
            }
            Ok(Collection {
                binding: self.binding.clone(),
                name: name.to_owned(),
                number: kept.number,
                specification: kept.specification.clone(),
                tenant: tenant.map(str::to_owned),
            })
        })
    }

    pub(crate) fn tenants(
        &self,
        name: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Vec<String>> {
        with(&self.binding, |collections| {
            let kept = collections.with_tenants(name)?;
            let names = kept.items.keys().flatten();
            let names = names.filter(|name| after.is_none_or(|after| name.as_str() > after));
            Ok(names
                .take(limit.clamp(1, 1_000) as usize)
                .cloned()
                .collect())
        })
    }

    pub(crate) fn drop_tenant(&self, name: &str, tenant: &str) -> Result<bool> {
        check_tenant(tenant)?;
        with(&self.binding, |collections| {
            let kept = collections.with_tenants(name)?;
            Ok(kept.items.remove(&Some(tenant.to_owned())).is_some())
        })
    }
}

#[derive(Debug)]
pub(crate) struct Collection {
    binding: String,
    name: String,
    number: u64,
    specification: Specification,
    tenant: Option<String>,
}

impl Collection {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Item>) -> Result<T>) -> Result<T> {
        with(&self.binding, |collections| {
            let kept = collections.find(&self.name)?;
            if kept.number != self.number {
                return refused("not-found", "the collection was dropped");
            }
            match kept.items.get_mut(&self.tenant) {
                Some(items) => f(items),
                // A tenant is there from its first item on.
                None => {
                    let mut items = BTreeMap::new();
                    let answer = f(&mut items)?;
                    if !items.is_empty() {
                        kept.items.insert(self.tenant.clone(), items);
                    }
                    Ok(answer)
                }
            }
        })
    }

    pub(crate) fn specification(&self) -> Specification {
        self.specification.clone()
    }

    pub(crate) fn upsert(&self, items: Vec<Item>) -> Result<()> {
        check_ids(items.iter().map(|item| item.id.as_str()))?;
        let items: Result<Vec<Item>> = items
            .into_iter()
            .map(|item| self.specification.item(item))
            .collect();
        let items = items?;
        self.with(|kept| {
            kept.extend(items.into_iter().map(|item| (item.id.clone(), item)));
            Ok(())
        })
    }

    pub(crate) fn get(
        &self,
        ids: Vec<String>,
        properties: Option<&[String]>,
        vectors: bool,
    ) -> Result<Vec<Option<Item>>> {
        check_ids(ids.iter().map(String::as_str))?;
        self.specification.check_answered(properties)?;
        self.with(|kept| {
            let found = ids.iter().map(|id| kept.get(id));
            let found = found.map(|item| item.map(|item| answered(item, properties, vectors)));
            Ok(found.collect())
        })
    }

    pub(crate) fn delete(&self, ids: Vec<String>) -> Result<u64> {
        check_ids(ids.iter().map(String::as_str))?;
        self.with(|kept| {
            let deleted = ids.iter().filter(|id| kept.remove(*id).is_some());
            Ok(deleted.count() as u64)
        })
    }

    pub(crate) fn delete_where(&self, filter: &Filter) -> Result<u64> {
        if filter.nodes.is_empty() {
            return refused("invalid-filter", "what is deleted must be said");
        }
        self.specification.check_filter(filter)?;
        self.with(|kept| {
            let before = kept.len();
            kept.retain(|_, item| !passes(filter, item));
            Ok((before - kept.len()) as u64)
        })
    }

    pub(crate) fn count(&self, filter: &Filter) -> Result<u64> {
        self.specification.check_filter(filter)?;
        self.with(|kept| Ok(kept.values().filter(|item| passes(filter, item)).count() as u64))
    }

    /// Whatever has a vector, with its distance, the closest first.
    fn ranked_by_vector(&self, vector: &[f32], filter: &Filter) -> Result<Vec<(f32, String)>> {
        self.with(|kept| {
            let passing = kept.values().filter(|item| passes(filter, item));
            let distance = self.specification.distance;
            let mut found: Vec<(f32, String)> = passing
                .filter_map(|item| {
                    let distance = far(distance, item.vector.as_ref()?, vector);
                    Some((distance, item.id.clone()))
                })
                .collect();
            found.sort_by(|one, other| one.0.total_cmp(&other.0));
            Ok(found)
        })
    }

    /// Whatever has one of the words, with its score, the best first.
    fn ranked_by_words(
        &self,
        text: &str,
        properties: &[String],
        filter: &Filter,
    ) -> Result<Vec<(f32, String)>> {
        let properties = self.specification.searched(properties)?;
        if text.len() > TEXT_BYTES {
            return refused("limit-exceeded", "at most 4,096 bytes are searched for");
        }
        let query = words(text);
        let different: BTreeSet<&String> = query.iter().collect();
        if different.len() * properties.len() > MOST_COUNTED {
            return refused(
                "limit-exceeded",
                "a search counts at most 4,096 words in properties",
            );
        }
        self.with(|kept| {
            let texts: Vec<(&Item, Vec<Vec<String>>)> = kept
                .values()
                .map(|item| {
                    let texts = properties.iter().map(|name| item.text(name));
                    let texts = texts.map(|text| text.map(words).unwrap_or_default());
                    (item, texts.collect())
                })
                .collect();
            let mut found: Vec<(f32, String)> = bm25(&query, &texts)
                .into_iter()
                .zip(&texts)
                .filter(|(score, (item, _))| *score > 0.0 && passes(filter, item))
                .map(|(score, (item, _))| (score, item.id.clone()))
                .collect();
            found.sort_by(|one, other| other.0.total_cmp(&one.0));
            Ok(found)
        })
    }

    fn hits(
        &self,
        found: Vec<(f32, String)>,
        search: &Search,
        hit: impl Fn(Item, f32) -> Hit,
    ) -> Result<Vec<Hit>> {
        let properties = search.properties.as_deref();
        self.with(|kept| {
            let best = found.into_iter().take(search.limit as usize);
            let best = best.filter_map(|(number, id)| {
                let item = answered(kept.get(&id)?, properties, search.vectors);
                Some(hit(item, number))
            });
            Ok(best.collect())
        })
    }

    pub(crate) fn nearest(
        &self,
        vector: &[f32],
        within: Option<f32>,
        search: &Search,
    ) -> Result<Vec<Hit>> {
        self.specification.check_search(search)?;
        self.specification.check_vector(vector)?;
        if within.is_some_and(f32::is_nan) {
            return refused("invalid-search", "a distance is a number");
        }
        let mut found = self.ranked_by_vector(vector, &search.filter)?;
        found.retain(|(distance, _)| within.is_none_or(|within| *distance <= within));
        self.hits(found, search, |item, distance| Hit {
            item,
            distance: Some(distance),
            score: None,
        })
    }

    pub(crate) fn keywords(
        &self,
        text: &str,
        properties: &[String],
        search: &Search,
    ) -> Result<Vec<Hit>> {
        self.specification.check_search(search)?;
        let found = self.ranked_by_words(text, properties, &search.filter)?;
        self.hits(found, search, scored)
    }

    pub(crate) fn hybrid(
        &self,
        text: &str,
        properties: &[String],
        vector: &[f32],
        alpha: f32,
        search: &Search,
    ) -> Result<Vec<Hit>> {
        self.specification.check_search(search)?;
        self.specification.check_vector(vector)?;
        if !(0.0..=1.0).contains(&alpha) {
            return refused("invalid-search", "alpha is 0 to 1");
        }
        let words = self.ranked_by_words(text, properties, &search.filter)?;
        let vectors = self.ranked_by_vector(vector, &search.filter)?;
        let mut scores: BTreeMap<String, f32> = BTreeMap::new();
        for (weight, ranked) in [(alpha, vectors), (1.0 - alpha, words)] {
            if weight == 0.0 {
                continue;
            }
            let best = ranked.into_iter().take(search.limit.max(100) as usize);
            for (index, (_, id)) in best.enumerate() {
                *scores.entry(id).or_default() += weight / (61.0 + index as f32);
            }
        }
        let mut found: Vec<(f32, String)> =
            scores.into_iter().map(|(id, score)| (score, id)).collect();
        found.sort_by(|one, other| other.0.total_cmp(&one.0));
        self.hits(found, search, scored)
    }
}

fn scored(item: Item, score: f32) -> Hit {
    Hit {
        item,
        distance: None,
        score: Some(score),
    }
}
