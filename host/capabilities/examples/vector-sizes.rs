//! How long the embedded vector store takes to load and to search collections of several
//! sizes, for `docs/capabilities.md`:
//!
//! ```text
//! cargo run --release -p heyday-capabilities --example vector-sizes -- 384 1000 10000 100000
//! ```
//!
//! The first number is that of a vector's numbers, the others are those of vectors. Each size
//! is searched without copies in memory, and then with one.

#![allow(clippy::print_stdout, reason = "a command line")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heyday_capabilities::vector::sqlite::SqliteVectors;
use heyday_capabilities::vector::{
    Distance, Entry, Filter, Property, PropertyType, Query, Specification, Store as _, Target,
    Value, VectorLimits, Want,
};
use tokio::runtime::Handle;

const SEARCHES: usize = 21;

/// Numbers from -0.5 to 0.5, the same each time.
struct Numbers(u64);

impl Numbers {
    fn vector(&mut self, dimensions: usize) -> Vec<f32> {
        let next = || {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        std::iter::repeat_with(next).take(dimensions).collect()
    }
}

/// The middle one of the times that it takes.
async fn median(
    store: &SqliteVectors,
    target: &Target,
    filter: Option<Filter>,
    numbers: &mut Numbers,
) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..SEARCHES {
        let vector = numbers.vector(target.collection.specification.dimensions as usize);
        let query = Query {
            limit: 10,
            filter: filter.clone(),
            want: Want::default(),
        };
        let begin = Instant::now();
        store.nearest(target, vector, None, query).await?;
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dimensions: u32 = arguments
        .next()
        .unwrap_or_else(|| "384".to_owned())
        .parse()?;
    let sizes: Vec<usize> = arguments
        .map(|size| size.parse())
        .collect::<Result<_, _>>()?;
    println!(
        "vectors of {dimensions}; load; without a copy in memory and with one: p50 of the 10 \
         nearest of all, of a hundredth, and of all but a hundredth"
    );
    for size in sizes {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("v.db");
        let open = |memory_bytes| {
            let limits = VectorLimits {
                memory_bytes,
                ..VectorLimits::default()
            };
            SqliteVectors::new(&path, false, limits, Handle::current())
        };
        let store = open(0)?;
        let specification = Specification {
            dimensions,
            distance: Distance::Cosine,
            properties: vec![Property {
                name: "part".to_owned(),
                kind: PropertyType::Integer,
                filterable: true,
                searchable: false,
            }],
            tenants: false,
        };
        store.create("c".to_owned(), specification).await?;
        let collection = store.find("c".to_owned()).await?.ok_or("it was made")?;
        let target = Target {
            collection: Arc::new(collection),
            tenant: None,
        };
        let numbers = &mut Numbers(7);
        let begin = Instant::now();
        for first in (0..size).step_by(1_000) {
            let entries = (first..size.min(first + 1_000)).map(|number| Entry {
                id: number.to_string(),
                vector: Some(numbers.vector(dimensions as usize)),
                values: vec![Some(Value::Integer((number % 100) as i64))],
            });
            store.upsert(&target, entries.collect()).await?;
        }
        let load = begin.elapsed();
        print!("{size:>9}: {load:>10.1?}");
        let with_copy = open(u64::MAX)?;
        // It is made behind the first search.
        let begin = Instant::now();
        while begin.elapsed() < load / 4 + Duration::from_millis(500) {
            median(&with_copy, &target, None, numbers).await?;
        }
        for store in [&store, &with_copy] {
            let part = Filter::Equal(0, Value::Integer(42));
            let most = Filter::Not(Box::new(part.clone()));
            for filter in [None, Some(part), Some(most)] {
                let median = median(store, &target, filter, numbers).await?;
                print!(" {median:>10.1?}");
            }
            store.close().await;
        }
        println!();
    }
    Ok(())
}
