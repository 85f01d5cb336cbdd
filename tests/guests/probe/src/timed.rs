//! Calls of capabilities, timed from inside, for the benchmark of host calls.

use std::hint::black_box;
use std::io::Read as _;
use std::time::Instant;

use heyday_sdk::prelude::*;
use heyday_sdk::vector::Search;

/// What is called; each has a binding of its capability.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Operation {
    /// A query that has the call's number as its only parameter, and one row.
    SqlRow,
    /// All rows of a query, streamed.
    SqlRows,
    /// The value of a key.
    KvGet,
    /// An object at once.
    BlobGet,
    /// An object in pieces.
    BlobRead,
    /// The ten nearest items.
    VectorNearest,
    /// As [`Self::SqlRow`]; its parameter is `n`.
    GraphRow,
    /// As [`Self::SqlRows`].
    GraphRows,
}

#[derive(Deserialize, JsonSchema)]
pub struct Timed {
    operation: Operation,
    binding: String,
    /// The statement, the key, or the collection.
    what: String,
    #[serde(default)]
    vector: Vec<f32>,
    /// How often.
    count: u32,
}

/// Calls a capability so often; answers how long each call took, in nanoseconds.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn time_calls(input: Timed) -> Result<Vec<u64>> {
    let Timed { binding, what, .. } = &input;
    match input.operation {
        Operation::SqlRow => {
            let db = sql::Connection::open(binding)?;
            timed(input.count, |number| {
                let rows = db.query(what, &[number.into()])?;
                let row = rows.first().ok_or_else(nothing)?;
                black_box((row.get::<i64>(0)?, row.get::<String>(1)?));
                black_box(row.get::<f64>(2)?);
                Ok(())
            })
        }
        Operation::SqlRows => {
            let db = sql::Connection::open(binding)?;
            timed(input.count, |_| {
                for row in db.query_stream(what, &[])? {
                    let row = row?;
                    black_box((row.get::<i64>(0)?, row.get::<String>(1)?));
                    black_box(row.get::<f64>(2)?);
                }
                Ok(())
            })
        }
        Operation::KvGet => {
            let store = kv::Store::open(binding)?;
            timed(input.count, |_| {
                black_box(store.get(what)?.ok_or_else(nothing)?);
                Ok(())
            })
        }
        Operation::BlobGet => {
            let container = blob::Container::open(binding)?;
            timed(input.count, |_| {
                black_box(container.get(what)?);
                Ok(())
            })
        }
        Operation::BlobRead => {
            let container = blob::Container::open(binding)?;
            let mut piece = vec![0; 1 << 20];
            timed(input.count, |_| {
                let mut reader = container.read(what)?;
                let failed = |error: std::io::Error| Error::permanent("read", error.to_string());
                while reader.read(&mut piece).map_err(failed)? > 0 {
                    black_box(&piece);
                }
                Ok(())
            })
        }
        Operation::VectorNearest => {
            let collection = vector::Store::open(binding)?.collection(what)?;
            let search = Search::new(10);
            timed(input.count, |_| {
                let hits = collection.nearest(&input.vector, &search)?;
                black_box(hits.first().ok_or_else(nothing)?);
                Ok(())
            })
        }
        Operation::GraphRow => {
            let graph = graph::Connection::open(binding)?;
            timed(input.count, |number| {
                let rows = graph.query(what, &[("n", number.into())])?;
                let row = rows.first().ok_or_else(nothing)?;
                black_box((row.get::<i64>(0)?, row.get::<String>(1)?));
                black_box(row.get::<f64>(2)?);
                Ok(())
            })
        }
        Operation::GraphRows => {
            let graph = graph::Connection::open(binding)?;
            timed(input.count, |_| {
                for row in graph.query_stream(what, &[])? {
                    let row = row?;
                    black_box((row.get::<i64>(0)?, row.get::<String>(1)?));
                    black_box(row.get::<f64>(2)?);
                }
                Ok(())
            })
        }
    }
}

fn nothing() -> Error {
    Error::permanent("nothing", "there is nothing to be read")
}

fn timed(count: u32, mut call: impl FnMut(i64) -> Result<()>) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(count as usize);
    for number in 0..i64::from(count) {
        let begun = Instant::now();
        call(number)?;
        times.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times)
}
