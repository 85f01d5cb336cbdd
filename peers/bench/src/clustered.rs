//! Vectors in clusters, the same ones each time.

use std::iter::repeat_with;

/// Numbers of a vector.
pub const DIMENSIONS: usize = 384;
/// Vectors of a cluster, about.
const CLUSTER: usize = 100;
/// How far from its middle a vector is, by the middle's own length.
const SPREAD: f32 = 0.5;

/// Random numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// From this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below a number.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// About normally distributed, around zero.
    pub fn normal(&mut self) -> f32 {
        let sum: u32 = (0..4).map(|_| (self.next() >> 40) as u32).sum();
        (sum as f32 / (1 << 24) as f32) - 2.0
    }

    /// A vector of the length 1 in any direction.
    fn direction(&mut self) -> Vec<f32> {
        let mut vector: Vec<_> = repeat_with(|| self.normal()).take(DIMENSIONS).collect();
        normalize(&mut vector);
        vector
    }
}

fn normalize(vector: &mut [f32]) {
    let length = dot(vector, vector).sqrt();
    for number in vector {
        *number /= length;
    }
}

/// The product of two vectors; of those here also the cosine.
pub fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

/// Vectors that are stored, and others of the same clusters to search with.
pub struct Clustered {
    /// Those that are stored.
    pub stored: Vec<Vec<f32>>,
    /// Those that are searched with.
    pub searched: Vec<Vec<f32>>,
}

impl Clustered {
    /// So many of both.
    pub fn new(seed: u64, stored: usize, searched: usize) -> Self {
        let numbers = &mut Numbers::new(seed);
        let clusters = (stored / CLUSTER).max(1);
        let middles: Vec<_> = (0..clusters).map(|_| numbers.direction()).collect();
        let mut one = || {
            let middle = &middles[numbers.below(clusters)];
            let away = numbers.direction();
            let places = middle.iter().zip(away);
            let mut vector: Vec<_> = places.map(|(at, away)| at + SPREAD * away).collect();
            normalize(&mut vector);
            vector
        };
        Self {
            stored: repeat_with(&mut one).take(stored).collect(),
            searched: repeat_with(&mut one).take(searched).collect(),
        }
    }

    /// The numbers of the stored ones that are closest to a vector.
    pub fn closest(&self, vector: &[f32], count: usize) -> Vec<usize> {
        let mut all: Vec<_> = self
            .stored
            .iter()
            .map(|it| dot(it, vector))
            .enumerate()
            .collect();
        let count = count.min(all.len());
        if count < all.len() {
            all.select_nth_unstable_by(count, |(_, one), (_, other)| other.total_cmp(one));
        }
        all.truncate(count);
        all.into_iter().map(|(number, _)| number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_same_each_time_and_in_clusters() {
        let (one, other) = (Clustered::new(7, 1_000, 3), Clustered::new(7, 1_000, 3));
        assert_eq!(one.stored, other.stored);
        assert_eq!(one.searched, other.searched);
        for vector in &one.searched {
            assert!((dot(vector, vector) - 1.0).abs() < 1e-3);
            let closest = one.closest(vector, 10);
            assert_eq!(closest.len(), 10);
            let least = closest.iter().map(|&it| dot(&one.stored[it], vector));
            // Those of its own cluster; others are about at a right angle.
            assert!(least.fold(1.0, f32::min) > 0.6);
        }
    }
}
