//! The embedded vector store against Weaviate, on the same vectors: how long it takes to
//! load them, to find the ten nearest of all and of those that a filter leaves, and how
//! many of the true ten are found. Both are called by the capability's own trait, with the
//! defaults of a binding.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use heyday_capabilities::vector::sqlite::SqliteVectors;
use heyday_capabilities::vector::weaviate::WeaviateVectors;
use heyday_capabilities::vector::{
    Distance, Entry, Filter, Property, PropertyType, Query, Specification, Store, Target, Value,
    VectorLimits, Want,
};
use tokio::runtime::Handle;

use crate::clustered::{Clustered, DIMENSIONS};
use crate::report::{Figure, Report, Sides, Times, shown};
use crate::support;
use crate::support::weaviate::Weaviate;

const SEED: u64 = 0x5eed;
/// How many are asked for.
const NEAREST: usize = 10;
/// A filter leaves one of so many.
const PARTS: usize = 100;
/// Items of one write.
const BATCH: usize = 1_000;
const PEER: &str = "Weaviate";

/// How much.
struct Size {
    stored: usize,
    searched: usize,
    /// Searches of one turn.
    turn: usize,
}

/// One store with its collection.
struct Side {
    store: Arc<dyn Store>,
    target: Target,
}

/// Measures all of it.
pub async fn run(report: &mut Report, quick: bool) -> anyhow::Result<()> {
    let size = if quick {
        Size {
            stored: 1_000,
            searched: 10,
            turn: 5,
        }
    } else {
        Size {
            stored: 100_000,
            searched: 200,
            turn: 20,
        }
    };
    let data = Clustered::new(SEED, size.stored, size.searched);
    let truth: Vec<HashSet<_>> = data
        .searched
        .iter()
        .map(|it| data.closest(it, NEAREST).into_iter().collect())
        .collect();
    println!(
        "{} clustered vectors of {DIMENSIONS}, {} others searched with",
        size.stored, size.searched
    );
    let folder = tempfile::tempdir()?;
    let runtime = Handle::current();
    let limits = VectorLimits::default();
    let path = folder.path().join("vectors.db");
    let embedded = SqliteVectors::new(&path, false, limits.clone(), runtime.clone())?;
    let ours = Side::new(Arc::new(embedded)).await?;
    let server = support::started(PEER, Weaviate::start);
    let theirs = match &server {
        None => None,
        Some(server) => {
            let config = server.config();
            let store = WeaviateVectors::new(&config, "default/vector/x", false, limits, runtime)?;
            Some(Side::new(Arc::new(store)).await?)
        }
    };
    let sides = || std::iter::once(&ours).chain(theirs.as_ref());

    let mut loads = Vec::new();
    for side in sides() {
        let begun = Instant::now();
        side.load(&data).await?;
        loads.push(begun.elapsed().as_secs_f64());
    }
    add(report, "vector.load", "s", &loads);
    for (name, filter) in [
        ("vector.nearest", None),
        (
            "vector.nearest_filtered",
            Some(Filter::Equal(0, Value::Integer(7))),
        ),
    ] {
        let mut hits = [0; 2];
        let mut times = [Times::default(), Times::default()];
        let mut turns = Sides::default();
        for (number, some) in data.searched.chunks(size.turn).enumerate() {
            let mut turn = [Times::default(), Times::default()];
            for (place, side) in sides().enumerate() {
                for (vector, truth) in some.iter().zip(&truth[number * size.turn..]) {
                    let begun = Instant::now();
                    let found = side.nearest(vector.clone(), filter.clone()).await?;
                    turn[place].push(begun.elapsed());
                    hits[place] += found.iter().filter(|it| truth.contains(it)).count();
                }
            }
            let ms = turn
                .each_mut()
                .map(|it| it.percentile(50.0).as_secs_f64() * 1e3);
            turns.push(ms[0], ms[1]);
            for (all, turn) in times.iter_mut().zip(turn) {
                all.extend(turn);
            }
        }
        let (value, peer) = turns.medians();
        let medians: &[f64] = if theirs.is_some() {
            &[value, peer]
        } else {
            &[value]
        };
        add(report, name, "ms", medians);
        let [mut mine, mut others] = times;
        println!("    ours {}", mine.text());
        if theirs.is_some() {
            println!("    {PEER} {}; {}", others.text(), turns.spread());
        }
        if filter.is_none() {
            let of = (NEAREST * data.searched.len()) as f64;
            let recalls: Vec<_> = sides()
                .zip(hits)
                .map(|(_, hits)| hits as f64 / of)
                .collect();
            add(report, "vector.recall_at_10", "of 1", &recalls);
        }
    }
    for side in sides() {
        side.store.close().await;
    }
    Ok(())
}

fn add(report: &mut Report, name: &str, unit: &'static str, sides: &[f64]) {
    report.add(Figure {
        name: name.to_owned(),
        value: sides[0],
        unit,
        peer: sides.get(1).map(|&value| (PEER, value)),
        goal: None,
    });
}

impl Side {
    async fn new(store: Arc<dyn Store>) -> anyhow::Result<Self> {
        let specification = Specification {
            dimensions: DIMENSIONS as u32,
            distance: Distance::Cosine,
            properties: vec![Property {
                name: "part".to_owned(),
                kind: PropertyType::Integer,
                filterable: true,
                searchable: false,
            }],
            tenants: false,
        };
        let name = "bench".to_owned();
        store.create(name.clone(), specification).await?;
        let collection = store.find(name).await?;
        let target = Target {
            collection: Arc::new(collection.context("the collection was made")?),
            tenant: None,
        };
        Ok(Self { store, target })
    }

    async fn load(&self, data: &Clustered) -> anyhow::Result<()> {
        let begun = Instant::now();
        for (number, some) in data.stored.chunks(BATCH).enumerate() {
            let entries = some.iter().enumerate().map(|(place, vector)| {
                let number = number * BATCH + place;
                Entry {
                    id: number.to_string(),
                    vector: Some(vector.clone()),
                    values: vec![Some(Value::Integer((number % PARTS) as i64))],
                }
            });
            let entries = entries.collect();
            self.store.upsert(&self.target, entries).await?;
        }
        println!(
            "    {}: loaded in {}",
            self.store.backend(),
            shown(begun.elapsed())
        );
        Ok(())
    }

    async fn nearest(
        &self,
        vector: Vec<f32>,
        filter: Option<Filter>,
    ) -> anyhow::Result<Vec<usize>> {
        let query = Query {
            limit: NEAREST as u32,
            filter,
            want: Want::default(),
        };
        let nearest = self.store.nearest(&self.target, vector, None, query);
        let found = nearest.await?;
        let number = |id: &str| id.parse().context("an id that was stored");
        found.iter().map(|it| number(&it.entry.id)).collect()
    }
}
