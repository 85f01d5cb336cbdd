//! Vectors as small whole numbers, searched so that nothing is missed.
//!
//! Of each vector eight bits a number are kept, with one scale for the vector, after the
//! middle of all was taken away: what differs is then what is kept well. Of each is also kept
//! how far it is from what is kept of it (`error`), so that a search knows between which two
//! numbers each true distance lies. What may be among the nearest are those whose lower bound
//! is not over the `limit`-th smallest upper bound: some tens of 100,000 at the usual lengths.
//! They are compared exactly elsewhere, and so the answers are those of comparing them all.
//!
//! The bounds hold, by the inequalities of Cauchy-Schwarz and of the triangle, also for the
//! rounding of who compares exactly: with floats one after the other, as sqlite-vec does. The
//! arithmetic here is of integers and of `f64`, whose own rounding is a part of the slack.
//!
//! The vectors lie in chunks by their rows. A clone shares them, and a change copies only the
//! chunk that it is in, so that a search goes on in what it began with.

mod best;
mod space;

use std::sync::Arc;

use pulp::Arch;

use self::best::Best;
use self::space::{Asked, Facts, Space, factor};
use super::Distance;

/// The most vectors of a chunk.
const CHUNK: usize = 1_024;
/// The most dimensions: the sum of a comparison is an `i32`.
pub(super) const MOST_DIMENSIONS: u32 = 65_536;

#[derive(Debug, Clone, Default)]
struct Chunk {
    /// In order.
    rows: Vec<i64>,
    facts: Vec<Facts>,
    codes: Vec<i8>,
}

/// The vectors of a collection, or of a tenant, by their rows.
#[derive(Debug, Clone)]
pub(super) struct Quantized {
    space: Arc<Space>,
    /// In the order of their rows; none is empty.
    chunks: Vec<Arc<Chunk>>,
    len: usize,
}

/// What may be among the nearest.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Rows, in no order.
    pub(super) rows: Vec<i64>,
    /// All others are farther than this.
    pub(super) beyond: f64,
}

impl Quantized {
    /// None yet; of the sample the middle is taken.
    pub(super) fn new(distance: Distance, dimensions: u32, sample: &[Vec<f32>]) -> Self {
        let mut center = vec![0.0; dimensions as usize];
        for vector in sample {
            let factor = factor(distance, vector) / sample.len() as f64;
            for (sum, number) in center.iter_mut().zip(vector) {
                *sum += factor * f64::from(*number);
            }
        }
        Self {
            space: Arc::new(Space { distance, center }),
            chunks: Vec::new(),
            len: 0,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> u64 {
        let chunks = self.chunks.iter().map(|chunk| {
            chunk.codes.capacity()
                + chunk.rows.capacity() * size_of::<i64>()
                + chunk.facts.capacity() * size_of::<Facts>()
        });
        (chunks.sum::<usize>() + self.space.center.len() * size_of::<f64>()) as u64
    }

    /// About how many bytes so many will have.
    pub(super) fn estimate(dimensions: u32, count: u64) -> u64 {
        let each = size_of::<i64>() + size_of::<Facts>() + dimensions as usize;
        count.saturating_mul(each as u64)
    }

    /// Gives back what was taken for more to come.
    pub(super) fn shrink(&mut self) {
        // The others are full.
        if let Some(last) = self.chunks.last_mut() {
            let last = Arc::make_mut(last);
            last.rows.shrink_to_fit();
            last.facts.shrink_to_fit();
            last.codes.shrink_to_fit();
        }
    }

    /// Puts a vector in the place of what its row has.
    pub(super) fn set(&mut self, row: i64, vector: &[f32]) {
        let dimensions = self.space.center.len();
        if vector.len() != dimensions {
            // No other ones are written.
            return;
        }
        let (facts, codes) = Arch::new().dispatch(|| self.space.encode(vector));
        let end = |chunk: &Arc<Chunk>| chunk.rows.len() == CHUNK;
        let last = self.chunks.last();
        let after_all = last.is_none_or(|last| end(last) && last.rows.last() < Some(&row));
        if after_all {
            self.chunks.push(Arc::default());
        }
        let mut number = if after_all {
            self.chunks.len() - 1
        } else {
            self.chunk_of(row)
        };
        let found = self.chunks[number].rows.binary_search(&row);
        if found.is_err() && end(&self.chunks[number]) {
            let half = Arc::make_mut(&mut self.chunks[number]).split_off(CHUNK / 2, dimensions);
            let second = half.rows[0] <= row;
            self.chunks.insert(number + 1, Arc::new(half));
            number += usize::from(second);
        }
        let chunk = Arc::make_mut(&mut self.chunks[number]);
        match chunk.rows.binary_search(&row) {
            Ok(place) => {
                chunk.facts[place] = facts;
                let first = place * dimensions;
                chunk.codes[first..first + dimensions].copy_from_slice(&codes);
            }
            Err(place) => {
                self.len += 1;
                chunk.rows.insert(place, row);
                chunk.facts.insert(place, facts);
                let first = place * dimensions;
                chunk.codes.splice(first..first, codes);
            }
        }
    }

    /// Removes what a row has.
    pub(super) fn remove(&mut self, row: i64) {
        if self.chunks.is_empty() {
            return;
        }
        let number = self.chunk_of(row);
        let Ok(place) = self.chunks[number].rows.binary_search(&row) else {
            return;
        };
        self.len -= 1;
        if self.chunks[number].rows.len() == 1 {
            self.chunks.remove(number);
            return;
        }
        let dimensions = self.space.center.len();
        let chunk = Arc::make_mut(&mut self.chunks[number]);
        chunk.rows.remove(place);
        chunk.facts.remove(place);
        chunk
            .codes
            .drain(place * dimensions..(place + 1) * dimensions);
        // Two that fit into one become one, or a few rows here and there keep them all.
        let (left, right) = match number {
            0 => (0, 1),
            _ => (number - 1, number),
        };
        let of = |number: usize| self.chunks.get(number).map(|chunk| chunk.rows.len());
        if let (Some(one), Some(other)) = (of(left), of(right))
            && one + other <= CHUNK / 2
        {
            let taken = self.chunks.remove(right);
            let chunk = Arc::make_mut(&mut self.chunks[left]);
            chunk.rows.extend(&taken.rows);
            chunk.facts.extend(&taken.facts);
            chunk.codes.extend(&taken.codes);
        }
    }

    /// The chunk that a row is in, if it is in one. There is one.
    fn chunk_of(&self, row: i64) -> usize {
        let after = self.chunks.partition_point(|chunk| chunk.rows[0] <= row);
        after.saturating_sub(1)
    }

    /// What may be among the `limit` nearest of all, or of some rows, which are in order, and
    /// is at most `within`. None where `stopped` says so meanwhile, or where the vector has
    /// no length.
    pub(super) fn nearest(
        &self,
        vector: &[f32],
        limit: usize,
        within: Option<f32>,
        among: Option<&[i64]>,
        stopped: impl Fn() -> bool,
    ) -> Option<Candidates> {
        let asked = Asked::new(&self.space, vector)?;
        let mut best = Best::new(limit, within.map_or(f64::INFINITY, f64::from));
        let arch = Arch::new();
        let (mut places, mut products) = (Vec::new(), Vec::new());
        for chunk in &self.chunks {
            if stopped() {
                return None;
            }
            places.clear();
            match among {
                None => places.extend(0..chunk.rows.len()),
                Some(rows) => chunk.places(rows, &mut places),
            }
            products.clear();
            arch.dispatch(|| chunk.products(&asked.codes, &places, &mut products));
            for (&place, &product) in places.iter().zip(&products) {
                let (lower, upper) = asked.bounds(&self.space, chunk.facts[place], product);
                best.offer(chunk.rows[place], lower, upper);
            }
        }
        Some(best.end())
    }
}

impl Chunk {
    /// Where those of some rows are that are in it. They are in order.
    fn places(&self, rows: &[i64], places: &mut Vec<usize>) {
        let (first, last) = (self.rows[0], self.rows[self.rows.len() - 1]);
        let begin = rows.partition_point(|row| *row < first);
        let end = rows.partition_point(|row| *row <= last);
        let mut from = 0;
        for row in &rows[begin..end] {
            match self.rows[from..].binary_search(row) {
                Ok(place) => {
                    places.push(from + place);
                    from += place + 1;
                }
                Err(place) => from += place,
            }
        }
    }

    /// The products of the small numbers at some places with those that are asked for. A
    /// plain loop: compiled for each kind of processor, it is as fast as one by hand.
    #[inline(always)]
    fn products(&self, asked: &[i16], places: &[usize], products: &mut Vec<i32>) {
        let dimensions = asked.len();
        for place in places {
            let codes = &self.codes[place * dimensions..][..dimensions];
            let each = codes.iter().zip(asked);
            products.push(
                each.map(|(one, other)| i32::from(*one) * i32::from(*other))
                    .sum(),
            );
        }
    }

    fn split_off(&mut self, place: usize, dimensions: usize) -> Self {
        Self {
            rows: self.rows.split_off(place),
            facts: self.facts.split_off(place),
            codes: self.codes.split_off(place * dimensions),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::numbers::Numbers;
    use super::super::sqlite_tables::length;
    use super::*;

    const DIMENSIONS: usize = 48;

    fn any_vector(numbers: &mut Numbers, scale: f32, middle: f32) -> Vec<f32> {
        let number = || numbers.below(2_001) as f32 / 1_000.0 - 1.0;
        let each = std::iter::repeat_with(number).take(DIMENSIONS);
        each.map(|it| middle + scale * it).collect()
    }

    /// A distance, with floats one after the other.
    fn far(distance: Distance, one: &[f32], other: &[f32]) -> f64 {
        let each = || one.iter().zip(other);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0_f32, |sum, (a, b)| sum + a * b);
        let cosine = || {
            let lengths = dot(one, one).sqrt() * dot(other, other).sqrt();
            f64::from(1.0 - dot(one, other) / lengths)
        };
        match distance {
            Distance::Cosine => cosine().max(0.0),
            Distance::Dot => (cosine() - 1.0) * length(one) * length(other),
            Distance::Euclidean => {
                let square = each().fold(0.0_f32, |sum, (a, b)| sum + (a - b) * (a - b));
                f64::from(square.sqrt())
            }
        }
    }

    const DISTANCES: [Distance; 3] = [Distance::Cosine, Distance::Dot, Distance::Euclidean];

    #[test]
    fn nothing_is_missed_and_little_is_compared() {
        for distance in DISTANCES {
            for (scale, middle) in [(1.0, 0.0), (1e-6, 0.0), (1e12, 3e12), (0.5, 5.0)] {
                let numbers = &mut Numbers(1);
                let all: Vec<_> = (0..1_500)
                    .map(|_| any_vector(numbers, scale, middle))
                    .collect();
                let sample: Vec<_> = all.iter().step_by(10).cloned().collect();
                let mut kept = Quantized::new(distance, DIMENSIONS as u32, &sample);
                for (row, vector) in all.iter().enumerate() {
                    kept.set(row as i64, vector);
                }
                for _ in 0..5 {
                    let asked = any_vector(numbers, scale, middle);
                    let mut true_ones: Vec<_> = (0_i64..)
                        .zip(&all)
                        .map(|(row, it)| (far(distance, it, &asked), row))
                        .collect();
                    true_ones.sort_by(|one, other| one.0.total_cmp(&other.0));
                    let found = kept.nearest(&asked, 10, None, None, || false);
                    let found = found.expect("it has a length");
                    for (far, row) in &true_ones[..10] {
                        assert!(found.rows.contains(row), "{distance:?} {scale} {middle}");
                        assert!(*far <= found.beyond);
                    }
                    let count = found.rows.len();
                    assert!(count < 300, "{distance:?} {scale} {middle}: {count}");
                    let half = true_ones[5].0 as f32;
                    let found = kept.nearest(&asked, 10, Some(half), None, || false);
                    let found = found.expect("it has a length").rows;
                    let within = true_ones.iter().filter(|it| it.0 <= f64::from(half));
                    for (_, row) in within.take(10) {
                        assert!(found.contains(row), "{distance:?} {scale} {middle}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_come_and_go() {
        let numbers = &mut Numbers(2);
        let mut kept = Quantized::new(Distance::Euclidean, DIMENSIONS as u32, &[]);
        let mut expected: BTreeMap<i64, Vec<f32>> = BTreeMap::new();
        let check = |kept: &Quantized, expected: &BTreeMap<i64, Vec<f32>>| {
            assert_eq!(kept.len(), expected.len());
            let rows = kept.chunks.iter().flat_map(|chunk| chunk.rows.iter());
            assert!(rows.eq(expected.keys()));
            for chunk in &kept.chunks {
                assert_eq!(chunk.rows.len(), chunk.facts.len());
                assert_eq!(chunk.rows.len() * DIMENSIONS, chunk.codes.len());
                assert!((1..=CHUNK).contains(&chunk.rows.len()));
            }
            for (row, vector) in expected.iter().step_by(97) {
                let found = kept
                    .nearest(vector, 1, None, None, || false)
                    .expect("found");
                assert!(found.rows.contains(row));
            }
        };
        for turn in 0..12 {
            let before = (kept.clone(), expected.clone());
            for _ in 0..1_500 {
                let row = numbers.below(4_000) as i64;
                // First it grows, then it shrinks, until there is nothing.
                if numbers.below(12) >= turn {
                    let vector = any_vector(numbers, 1.0, 0.0);
                    kept.set(row, &vector);
                    expected.insert(row, vector);
                } else {
                    kept.remove(row);
                    expected.remove(&row);
                }
            }
            check(&kept, &expected);
            // What others hold is as it was.
            check(&before.0, &before.1);
        }
        for row in 0..4_000 {
            kept.remove(row);
        }
        assert!(kept.chunks.is_empty());
        assert_eq!(kept.len(), 0);
    }

    #[test]
    fn some_rows_are_searched_and_a_search_is_stopped() {
        let numbers = &mut Numbers(3);
        let mut kept = Quantized::new(Distance::Cosine, DIMENSIONS as u32, &[]);
        for row in (0..6_000).step_by(2) {
            kept.set(row, &any_vector(numbers, 1.0, 0.0));
        }
        let asked = any_vector(numbers, 1.0, 0.0);
        // Some of them are there.
        let among = [3, 4, 5, 2_000, 2_046, 2_047, 2_048, 2_050, 5_998, 9_000];
        let found = kept.nearest(&asked, 10, None, Some(&among), || false);
        let mut rows = found.expect("it has a length").rows;
        rows.sort_unstable();
        assert_eq!(rows, [4, 2_000, 2_046, 2_048, 2_050, 5_998]);
        let stopped = kept.nearest(&asked, 10, None, None, || true);
        assert!(stopped.is_none());
        let nowhere = kept.nearest(&[0.0; DIMENSIONS], 10, None, None, || false);
        assert!(nowhere.is_none());
    }

    #[test]
    fn what_floats_cannot_compare_is_always_compared() {
        let mut kept = Quantized::new(Distance::Dot, DIMENSIONS as u32, &[]);
        for (row, number) in [(1, 1.0), (2, 0.0), (3, 1e-30), (4, 2.0), (5, 1e-40)] {
            kept.set(row, &[number; DIMENSIONS]);
        }
        let found = kept.nearest(&[1.0; DIMENSIONS], 1, None, None, || false);
        let mut rows = found.expect("it has a length").rows;
        rows.sort_unstable();
        assert_eq!(rows, [3, 4, 5]);
    }
}
