//! Hybrid search: the fusion of two rankings.

use std::collections::HashMap;

use super::{Found, Query, Store, Target, VectorError, Want};

/// Of each ranking at least so many are counted.
const CANDIDATES: u32 = 100;
/// Added to each rank, so that the first few weigh alike.
const SMOOTHING: f32 = 60.0;

/// What is searched for by its words.
pub(super) struct Words {
    /// At least one, or nothing is found by them.
    pub(super) words: Vec<String>,
    /// Numbers of searchable properties.
    pub(super) properties: Vec<usize>,
}

/// The best of both searches, with their scores.
pub(super) async fn hybrid(
    store: &dyn Store,
    target: &Target,
    words: Words,
    vector: Vec<f32>,
    alpha: f32,
    query: Query,
) -> Result<Vec<Found>, VectorError> {
    let of_each = Query {
        limit: query.limit.max(CANDIDATES),
        filter: query.filter,
        want: Want::default(),
    };
    let by_vector = async {
        if alpha == 0.0 {
            return Ok(Vec::new());
        }
        store.nearest(target, vector, None, of_each.clone()).await
    };
    let by_words = async {
        if alpha == 1.0 || words.words.is_empty() {
            return Ok(Vec::new());
        }
        let Words { words, properties } = words;
        store
            .keywords(target, words, properties, of_each.clone())
            .await
    };
    let (by_vector, by_words) = futures::try_join!(by_vector, by_words)?;
    let best = fuse([(alpha, by_vector), (1.0 - alpha, by_words)], query.limit);
    let ids = best.iter().map(|(id, _)| id.clone()).collect();
    let entries = store.get(target, ids, query.want).await?;
    let found = entries.into_iter().zip(best);
    // One may have been deleted meanwhile.
    Ok(found
        .filter_map(|(entry, (_, number))| {
            Some(Found {
                entry: entry?,
                number,
            })
        })
        .collect())
}

/// The ids with the highest sums, the highest first.
fn fuse(rankings: [(f32, Vec<Found>); 2], limit: u32) -> Vec<(String, f32)> {
    let mut scores: HashMap<String, f32> = HashMap::new();
    for (weight, ranking) in rankings {
        let mut rank = 0.0;
        for found in ranking {
            rank += 1.0;
            *scores.entry(found.entry.id).or_default() += weight / (SMOOTHING + rank);
        }
    }
    let mut best: Vec<(String, f32)> = scores.into_iter().collect();
    // By their ids where they are as good, so that an answer is the same again.
    best.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    best.truncate(limit as usize);
    best
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::*;

    fn ranking(ids: &[&str]) -> Vec<Found> {
        let found = ids.iter().map(|id| Found {
            entry: Entry {
                id: (*id).to_owned(),
                ..Entry::default()
            },
            number: 0.0,
        });
        found.collect()
    }

    #[test]
    fn what_both_rank_well_comes_first() {
        let best = |alpha: f32, limit| {
            let both = [
                (alpha, ranking(&["a", "b", "c"])),
                (1.0 - alpha, ranking(&["c", "b", "d"])),
            ];
            let best = fuse(both, limit);
            best.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(best(0.5, 10), ["c", "b", "a", "d"]);
        assert_eq!(best(0.9, 2), ["b", "c"]);
        assert_eq!(best(0.1, 2), ["c", "b"]);
    }
}
