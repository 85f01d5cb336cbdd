//! Which token comes next.

use std::hash::{BuildHasher as _, RandomState};

use crate::generation::GenerateRequest;

/// How the tokens of one text are drawn. The draw of a token depends on nothing but the
/// seed, its number in the text and its logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sampler {
    temperature: f32,
    top_p: f32,
    top_k: usize,
    seed: u64,
}

impl Sampler {
    pub(crate) fn new(request: &GenerateRequest) -> Self {
        Self {
            temperature: request.temperature.unwrap_or(1.0),
            top_p: request.top_p.unwrap_or(1.0),
            top_k: request.top_k.map_or(usize::MAX, |most| {
                usize::try_from(most).unwrap_or(usize::MAX)
            }),
            // The standard library's hasher begins anew at random each time.
            seed: request
                .seed
                .unwrap_or_else(|| RandomState::new().hash_one(0)),
        }
    }

    /// The token after so many drawn ones.
    pub(crate) fn draw(&self, logits: &[f32], number: u64) -> u32 {
        let most = likeliest(logits);
        let id = if self.temperature == 0.0 {
            most
        } else {
            self.among(logits, logits[most], self.uniform(number))
        };
        // A vocabulary has at most two million.
        u32::try_from(id).unwrap_or_default()
    }

    fn among(&self, logits: &[f32], most: f32, uniform: f64) -> usize {
        // Not over e^0, the likeliest one's.
        let weight = |logit: f32| f64::from((logit - most) / self.temperature).exp();
        let mut found: Vec<(usize, f64)> = logits
            .iter()
            .enumerate()
            .map(|(id, &logit)| (id, weight(logit)))
            .collect();
        if self.top_k < found.len() {
            // Equal ones by their number, so that the same are kept each time.
            let order =
                |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
            found.select_nth_unstable_by(self.top_k, order);
            found.truncate(self.top_k);
            found.sort_unstable_by_key(|&(id, _)| id);
        }
        if self.top_p < 1.0 {
            nucleus(&mut found, f64::from(self.top_p));
        }
        let sum: f64 = found.iter().map(|(_, weight)| weight).sum();
        let mut left = uniform * sum;
        for &(id, weight) in &found {
            left -= weight;
            if left < 0.0 {
                return id;
            }
        }
        // Rounding: the last one that can be drawn.
        let last = found.iter().rev().find(|(_, weight)| *weight > 0.0);
        last.map_or(0, |(id, _)| *id)
    }

    /// From 0 to below 1: the generator SplitMix64 at that number.
    fn uniform(&self, number: u64) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self
            .seed
            .wrapping_mul(STEP)
            .rotate_left(32)
            .wrapping_add(STEP.wrapping_mul(number.wrapping_add(1)));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Leaves the likeliest tokens that together have this share, in the order of their numbers.
fn nucleus(found: &mut Vec<(usize, f64)>, share: f64) {
    let sum: f64 = found.iter().map(|(_, weight)| weight).sum();
    // All that weigh less do not make up the rest together, so that none is needed.
    let least = sum * (1.0 - share) / found.len() as f64;
    found.retain(|(_, weight)| *weight >= least);
    found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut reached = 0.0;
    let needed = found.iter().position(|(_, weight)| {
        reached += weight;
        reached >= sum * share
    });
    found.truncate(needed.map_or(found.len(), |last| last + 1));
    found.sort_unstable_by_key(|&(id, _)| id);
}

fn likeliest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_p: f32, top_k: Option<u32>, seed: u64) -> Sampler {
        Sampler::new(&GenerateRequest {
            temperature: Some(temperature),
            top_p: Some(top_p),
            top_k,
            seed: Some(seed),
            ..GenerateRequest::default()
        })
    }

    /// Logits of the probabilities 1/2, 1/4, 1/8, 1/8.
    fn logits() -> Vec<f32> {
        [0.125_f32, 0.5, 0.125, 0.25]
            .iter()
            .map(|p| p.ln())
            .collect()
    }

    fn counts(sampler: &Sampler) -> [u32; 4] {
        let mut counts = [0; 4];
        for number in 0..8_000 {
            counts[sampler.draw(&logits(), number) as usize] += 1;
        }
        counts
    }

    #[test]
    fn temperature_0_takes_the_likeliest() {
        assert_eq!(counts(&sampler(0.0, 1.0, None, 1)), [0, 8_000, 0, 0]);
        assert_eq!(sampler(0.0, 1.0, None, 1).draw(&[1.0, 3.0, 3.0], 0), 1);
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let near = |found: [u32; 4], wanted: [u32; 4]| {
            for (found, wanted) in found.into_iter().zip(wanted) {
                assert!(found.abs_diff(wanted) < 200, "{found} {wanted}");
            }
        };
        near(
            counts(&sampler(1.0, 1.0, None, 7)),
            [1_000, 4_000, 1_000, 2_000],
        );
        // Half the temperature squares: 1/64, 1/4, 1/64, 1/16 of 11/32.
        near(
            counts(&sampler(0.5, 1.0, None, 7)),
            [364, 5_818, 364, 1_454],
        );
        near(counts(&sampler(1.0, 0.7, None, 7)), [0, 5_333, 0, 2_667]);
        near(counts(&sampler(1.0, 0.49, None, 7)), [0, 8_000, 0, 0]);
        near(counts(&sampler(1.0, 0.000_1, None, 7)), [0, 8_000, 0, 0]);
        near(counts(&sampler(1.0, 1.0, Some(2), 7)), [0, 5_333, 0, 2_667]);
        near(
            counts(&sampler(1.0, 1.0, Some(3), 7)),
            [1_143, 4_571, 0, 2_286],
        );
        near(
            counts(&sampler(1.0, 1.0, Some(9), 7)),
            [1_000, 4_000, 1_000, 2_000],
        );
    }

    #[test]
    fn a_seed_says_which() {
        let draws = |seed| -> Vec<u32> {
            let sampler = sampler(1.0, 1.0, None, seed);
            (0..50)
                .map(|number| sampler.draw(&logits(), number))
                .collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        assert_ne!(draws(0), draws(1));
        let random = || Sampler::new(&GenerateRequest::default()).seed;
        assert_ne!(random(), random());
    }
}
