//! What burn's CPU backend does slowly: attention, activations and norms, on the bare numbers.
//! Products with weights are in [`packed`](super::packed).
//!
//! Loops over arrays of [`LANES`] numbers, which the compiler makes vector instructions of;
//! `pulp` picks, when the program runs, the widest that the processor has. Sequences lie
//! one after another without padding, so that nothing is computed for nobody. Those of the
//! encoder are told how many threads share their work: the caller alone computes it where that is
//! one, since the others have work of their own then.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Numbers that are computed side by side: one register of AVX-512.
pub(super) const LANES: usize = 16;
/// Query rows that share what is loaded of keys and values.
pub(super) const ROWS: usize = 4;
/// Query rows of one task that others share the work with, at most and at least: each lays out the
/// sequence's keys anew.
const TASK_ROWS: usize = 64;
const FEW_ROWS: usize = 16;
/// Numbers of one task of an activation.
const CHUNK: usize = 16_384;

pub(super) type Lanes = [f32; LANES];

/// `e^x` for x up to 0, to 2e-7 of the result, without a branch. NaN stays that: `max` drops it.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding this leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let power = x * std::f32::consts::LOG2_E;
    let power = if power < -126.0 { -126.0 } else { power };
    let rounded = power + ROUND;
    let rest = power - (rounded - ROUND);
    // 2^rest for -0.5 to 0.5.
    let fraction = rest
        .mul_add(1.333_355_8e-3, 9.618_129e-3)
        .mul_add(rest, 5.550_411e-2)
        .mul_add(rest, 2.402_265e-1)
        .mul_add(rest, 6.931_472e-1)
        .mul_add(rest, 1.0);
    fraction * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// The error function by Abramowitz and Stegun 7.1.26: to 1.5e-7.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let z = x.abs().min(9.0);
    let t = 1.0 / z.mul_add(0.327_591_1, 1.0);
    let polynomial = t
        .mul_add(1.061_405_4, -1.453_152)
        .mul_add(t, 1.421_413_7)
        .mul_add(t, -0.284_496_74)
        .mul_add(t, 0.254_829_6)
        * t;
    (1.0 - polynomial * exp(-z * z)).copysign(x)
}

struct Gelu<'a>(&'a mut [f32]);

impl WithSimd for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.0 {
            *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

/// GELU, by the error function, in place.
pub(super) fn gelu(values: &mut [f32], threads: usize) {
    let arch = Arch::new();
    if threads < 2 {
        return arch.dispatch(Gelu(values));
    }
    values
        .par_chunks_mut(CHUNK)
        .for_each(|chunk| arch.dispatch(Gelu(chunk)));
}

struct Swiglu<'a> {
    wide: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (gates, values) = self.wide.split_at(self.out.len());
        for ((out, &gate), &value) in self.out.iter_mut().zip(gates).zip(values) {
            let power = exp(-gate.abs());
            let share = if gate < 0.0 { power } else { 1.0 } / (1.0 + power);
            *out = gate * share * value;
        }
    }
}

/// SwiGLU of rows that have a gate and then a value for each of `width` numbers.
pub(super) fn swiglu(wide: &[f32], width: usize) -> Vec<f32> {
    let arch = Arch::new();
    let mut out = vec![0.0; wide.len() / 2];
    out.par_chunks_mut(width)
        .zip(wide.par_chunks(2 * width))
        .for_each(|(out, wide)| arch.dispatch(Swiglu { wide, out }));
    out
}

struct AddNorm<'a> {
    values: &'a mut [f32],
    others: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
}

impl WithSimd for AddNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.gamma.len();
        let rows = self.values.chunks_exact_mut(width);
        for (values, others) in rows.zip(self.others.chunks_exact(width)) {
            for (value, other) in values.iter_mut().zip(others) {
                *value += other;
            }
            let mean = total(values, |value| value) / width as f32;
            let square = total(values, |value| (value - mean) * (value - mean));
            let inverse = 1.0 / (square / width as f32 + self.epsilon).sqrt();
            let weights = self.gamma.iter().zip(self.beta);
            for (value, (gamma, beta)) in values.iter_mut().zip(weights) {
                *value = ((*value - mean) * inverse).mul_add(*gamma, *beta);
            }
        }
    }
}

/// The sum of what is made of each number.
#[inline(always)]
fn total(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += of(value);
        }
    }
    let rest: f32 = rest.iter().map(|&value| of(value)).sum();
    sums.iter().sum::<f32>() + rest
}

/// Adds others, and gives each row the mean 0 and the variance 1, and then the scale and the
/// shift of its numbers; in place.
pub(super) fn add_norm(
    values: &mut [f32],
    others: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    threads: usize,
) {
    let arch = Arch::new();
    let compute = |(values, others): (&mut [f32], &[f32])| {
        arch.dispatch(AddNorm {
            values,
            others,
            gamma,
            beta,
            epsilon,
        });
    };
    if threads < 2 {
        return compute((values, others));
    }
    let rows = (CHUNK / gamma.len()).max(1) * gamma.len();
    values
        .par_chunks_mut(rows)
        .zip(others.par_chunks(rows))
        .for_each(compute);
}

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: usize,
    /// Numbers of one head.
    pub(super) size: usize,
}

/// Query rows of one sequence, and where their answers go.
struct Job<'a> {
    /// The sequence's rows: queries, keys and values beside each other.
    sequence: &'a [f32],
    first_row: usize,
    out: &'a mut [f32],
}

/// Attention of every sequence to itself. `qkv` has for each token its query, key and value,
/// all heads of each; `out` has room for all heads' values of each token.
pub(super) fn attention(
    qkv: &[f32],
    lengths: &[usize],
    heads: Heads,
    out: &mut [f32],
    scratch: &mut Scratch,
    threads: usize,
) {
    let hidden = heads.count * heads.size;
    let task_rows = if threads < 2 {
        usize::MAX
    } else {
        let tokens: usize = lengths.iter().sum();
        let each = tokens.div_ceil(threads).next_multiple_of(ROWS);
        each.clamp(FEW_ROWS, TASK_ROWS)
    };
    let mut jobs = Vec::new();
    let (mut input, mut output) = (qkv, out);
    for &length in lengths {
        let (sequence, rest) = input.split_at(length * 3 * hidden);
        let (mut rows, others) = output.split_at_mut(length * hidden);
        (input, output) = (rest, others);
        let mut first_row = 0;
        while first_row < length {
            let count = task_rows.min(length - first_row);
            let (out, left) = rows.split_at_mut(count * hidden);
            rows = left;
            jobs.push(Job {
                sequence,
                first_row,
                out,
            });
            first_row += count;
        }
    }
    let arch = Arch::new();
    let attend = |scratch: &mut Scratch, job: Job<'_>| {
        arch.dispatch(Attend {
            job,
            heads,
            scratch,
        });
    };
    if threads < 2 {
        for job in jobs {
            attend(scratch, job);
        }
    } else {
        jobs.into_par_iter().for_each_init(Scratch::default, attend);
    }
}

/// What attention needs room for, once for all layers.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// One head's keys, a row for each of its numbers.
    keys: Vec<f32>,
    /// The scores of [`ROWS`] queries.
    scores: Vec<f32>,
}

struct Attend<'a, 'b> {
    job: Job<'a>,
    heads: Heads,
    scratch: &'b mut Scratch,
}

impl WithSimd for Attend<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self {
            job,
            heads,
            scratch,
        } = self;
        let (size, hidden) = (heads.size, heads.count * heads.size);
        let stride = 3 * hidden;
        let length = job.sequence.len() / stride;
        let rows = job.out.len() / hidden;
        // Scores are made whole registers at a time; what is over is never read.
        // Rows of keys begin in different sets of the cache.
        let padded = (length.div_ceil(LANES) | 1) * LANES;
        scratch.keys.clear();
        scratch.keys.resize(size * padded, 0.0);
        scratch.scores.clear();
        scratch.scores.resize(ROWS * padded, 0.0);
        let scale = 1.0 / (size as f32).sqrt();
        for head in 0..heads.count {
            let of = head * size;
            for block in (0..length).step_by(LANES) {
                let tokens = LANES.min(length - block);
                for first in (0..size).step_by(LANES) {
                    let numbers = LANES.min(size - first);
                    let mut square = [[0.0; LANES]; LANES];
                    for token in 0..tokens {
                        let from = (block + token) * stride + hidden + of + first;
                        let key = &job.sequence[from..from + numbers];
                        for (column, &value) in square.iter_mut().zip(key) {
                            column[token] = value;
                        }
                    }
                    for (number, column) in square.iter().take(numbers).enumerate() {
                        let to = (first + number) * padded + block;
                        scratch.keys[to..to + LANES].copy_from_slice(column);
                    }
                }
            }
            let mut row = 0;
            while row < rows {
                let count = ROWS.min(rows - row);
                let mut queries = [&[][..]; ROWS];
                for (at, query) in queries.iter_mut().enumerate() {
                    // The last rows may be fewer: the last one is computed again for nobody.
                    let from = (job.first_row + row + at.min(count - 1)) * stride + of;
                    *query = &job.sequence[from..from + size];
                }
                score(&queries, &scratch.keys, padded, &mut scratch.scores);
                for scores in scratch.scores.chunks_exact_mut(padded) {
                    softmax(&mut scores[..length], scale);
                }
                let values = &job.sequence[2 * hidden + of..];
                for block in (0..size).step_by(LANES) {
                    let width = LANES.min(size - block);
                    let sums = weigh(
                        &scratch.scores,
                        padded,
                        length,
                        values,
                        stride,
                        block,
                        width,
                    );
                    for (at, sums) in sums.iter().take(count).enumerate() {
                        let to = (row + at) * hidden + of + block;
                        job.out[to..to + width].copy_from_slice(&sums[..width]);
                    }
                }
                row += count;
            }
        }
    }
}

/// The products of queries with all keys.
#[inline(always)]
fn score(queries: &[&[f32]; ROWS], keys: &[f32], padded: usize, scores: &mut [f32]) {
    for block in (0..padded).step_by(LANES) {
        let mut sums = [[0.0; LANES]; ROWS];
        for (number, keys) in keys.chunks_exact(padded).enumerate() {
            let keys: &Lanes = keys[block..].first_chunk().unwrap_or(&[0.0; LANES]);
            for (sums, query) in sums.iter_mut().zip(queries) {
                let query = query[number];
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = query.mul_add(*key, *sum);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let from = row * padded + block;
            scores[from..from + LANES].copy_from_slice(sums);
        }
    }
}

/// For [`ROWS`] rows of weights the sums of a block of all values.
#[inline(always)]
fn weigh(
    weights: &[f32],
    padded: usize,
    length: usize,
    values: &[f32],
    stride: usize,
    block: usize,
    width: usize,
) -> [Lanes; ROWS] {
    let mut sums = [[0.0; LANES]; ROWS];
    for token in 0..length {
        let from = token * stride + block;
        let mut part = [0.0; LANES];
        let values: &Lanes = if width == LANES {
            values[from..].first_chunk().unwrap_or(&part)
        } else {
            part[..width].copy_from_slice(&values[from..from + width]);
            &part
        };
        for (row, sums) in sums.iter_mut().enumerate() {
            let weight = weights[row * padded + token];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = weight.mul_add(*value, *sum);
            }
        }
    }
    sums
}

/// In place, of numbers that are multiplied with `scale` before. Where one of them ran over, or the
/// largest is infinite, all are no numbers: weights that look well would hide it.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32], scale: f32) {
    let mut most = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (most, &value) in most.iter_mut().zip(chunk) {
            *most = if value > *most { value } else { *most };
        }
    }
    let most = most.iter().chain(rest).copied();
    let most = most.fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = exp((*value - most) * scale);
            *sum += *value;
        }
    }
    for value in rest.iter_mut() {
        *value = exp((*value - most) * scale);
    }
    let sum: f32 = sums.iter().chain(rest.iter()).sum();
    let inverse = 1.0 / sum;
    for value in row {
        *value *= inverse;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Numbers between -2 and 2, the same for the same seed.
    pub(crate) fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 22) as f32 - 2.0
            })
            .collect()
    }

    /// The error function by its series, in double precision.
    fn erf64(x: f64) -> f64 {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn gelu_is_the_one_by_the_error_function() {
        let mut values: Vec<f32> = (-2_000..=2_000).map(|n| n as f32 / 100.0).collect();
        let expected: Vec<f64> = values
            .iter()
            .map(|&x| f64::from(x))
            .map(|x| 0.5 * x * (1.0 + erf64(x / std::f64::consts::SQRT_2)))
            .collect();
        let mut shared = values.clone();
        gelu(&mut values, 1);
        gelu(&mut shared, 2);
        assert_eq!(values, shared);
        for (found, expected) in values.iter().zip(expected) {
            let error = (f64::from(*found) - expected).abs();
            assert!(error < 3e-6, "{found} {expected}");
        }
    }

    #[test]
    fn swiglu_is_what_its_definition_says() {
        let wide = numbers(3 * 2 * 37, 5);
        let found = swiglu(&wide, 37);
        for (found, wide) in found.chunks_exact(37).zip(wide.chunks_exact(74)) {
            for (number, found) in found.iter().enumerate() {
                let (gate, value) = (f64::from(wide[number]), f64::from(wide[37 + number]));
                let expected = gate / (1.0 + (-gate).exp()) * value;
                assert!(
                    (f64::from(*found) - expected).abs() < 2e-6,
                    "{found} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_norm_of_sums_is_what_its_definition_says() {
        for width in [1, 15, 16, 37, 384] {
            let (mut values, others) = (numbers(5 * width, 8), numbers(5 * width, 9));
            let (gamma, beta) = (numbers(width, 10), numbers(width, 11));
            let sums: Vec<f64> = values
                .iter()
                .zip(&others)
                .map(|(a, b)| f64::from(*a) + f64::from(*b))
                .collect();
            let mut shared = values.clone();
            add_norm(&mut values, &others, &gamma, &beta, 1e-5, 1);
            add_norm(&mut shared, &others, &gamma, &beta, 1e-5, 2);
            assert_eq!(values, shared);
            for (sums, found) in sums.chunks_exact(width).zip(values.chunks_exact(width)) {
                let mean = sums.iter().sum::<f64>() / width as f64;
                let squares = sums.iter().map(|sum| (sum - mean).powi(2));
                let deviation = (squares.sum::<f64>() / width as f64 + 1e-5).sqrt();
                for (number, found) in found.iter().enumerate() {
                    let scaled = (sums[number] - mean) / deviation * f64::from(gamma[number]);
                    let expected = scaled + f64::from(beta[number]);
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 1e-5, "{width}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn weights_of_what_ran_over_are_no_numbers() {
        let is_none = |mut row: Vec<f32>| {
            softmax(&mut row, 0.5);
            row.iter().all(|weight| weight.is_nan())
        };
        for length in [1, 3, LANES, LANES + 3, 5 * LANES] {
            for at in 0..length {
                for odd in [f32::INFINITY, f32::NAN] {
                    let mut row = numbers(length, 13);
                    row[at] = odd;
                    assert!(is_none(row), "{odd} at {at} of {length}");
                }
            }
            assert!(is_none(vec![f32::NEG_INFINITY; length]), "{length}");
        }
        let mut row = [f32::NEG_INFINITY, 1.0, 1.0];
        softmax(&mut row, 0.5);
        assert!(row[0] < 1e-30 && row[1..] == [0.5, 0.5], "{row:?}");
    }

    fn reference(qkv: &[f32], lengths: &[usize], heads: Heads) -> Vec<f64> {
        let hidden = heads.count * heads.size;
        let mut out = vec![0.0; qkv.len() / 3];
        let mut begin = 0;
        for &length in lengths {
            let at = |token: usize, what: usize, number: usize| {
                f64::from(qkv[(begin + token) * 3 * hidden + what * hidden + number])
            };
            for head in 0..heads.count {
                let numbers = head * heads.size..(head + 1) * heads.size;
                for query in 0..length {
                    let scores: Vec<f64> = (0..length)
                        .map(|key| {
                            let products = numbers.clone().map(|n| at(query, 0, n) * at(key, 1, n));
                            products.sum::<f64>() / (heads.size as f64).sqrt()
                        })
                        .collect();
                    let most = scores.iter().copied().fold(f64::MIN, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for n in numbers.clone() {
                        let weighed = weights.iter().enumerate().map(|(t, w)| w * at(t, 2, n));
                        out[(begin + query) * hidden + n] = weighed.sum::<f64>() / sum;
                    }
                }
            }
            begin += length;
        }
        out
    }

    #[test]
    fn attention_is_what_its_definition_says_at_every_length_and_size() {
        for (count, size) in [(2, 32), (3, 16), (1, 64), (2, 24), (4, 5)] {
            let heads = Heads { count, size };
            let lengths = [1, 3, 16, 17, 63, 64, 65, 130];
            let tokens: usize = lengths.iter().sum();
            let qkv = numbers(tokens * 3 * count * size, 7);
            let expected = reference(&qkv, &lengths, heads);
            // As a part of a batch, as a text that two threads share, and as one of many threads.
            for threads in [1, 2, 100] {
                // What was there before does not count.
                let (mut found, mut scratch) = (numbers(qkv.len() / 3, 12), Scratch::default());
                for _ in 0..2 {
                    attention(&qkv, &lengths, heads, &mut found, &mut scratch, threads);
                }
                for (found, expected) in found.iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(
                        error < 1e-5,
                        "{count}x{size}, {threads}: {found} {expected}"
                    );
                }
            }
        }
    }
}
