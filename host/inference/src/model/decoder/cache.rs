//! What was read of a text: its keys and values, and attention over them, on bare numbers.
//!
//! Keys lie in blocks of [`LANES`] tokens, number by number, so that a query meets a block's
//! keys side by side; values lie token by token. Both are turned to their positions already.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::model::kernels::{LANES, Lanes, ROWS, softmax};

/// Keys and values of one head in one layer.
#[derive(Debug)]
struct Head {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Head {
    fn push(&mut self, at: usize, key: &[f32], value: &[f32]) {
        let (block, lane) = (at / LANES, at % LANES);
        let from = block * LANES * key.len();
        if lane == 0 {
            self.keys.resize(from + LANES * key.len(), 0.0);
        }
        for (number, &value) in key.iter().enumerate() {
            self.keys[from + number * LANES + lane] = value;
        }
        self.values.extend_from_slice(value);
    }
}

/// What was read of one text.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<Vec<Head>>,
    length: usize,
}

impl Cache {
    /// With room for so many tokens, of heads of so many numbers: it takes what was counted
    /// for it, and no more as it grows.
    pub(crate) fn new(layers: usize, kv_heads: usize, size: usize, tokens: usize) -> Self {
        let numbers = tokens.next_multiple_of(LANES) * size;
        let head = |_| Head {
            keys: Vec::with_capacity(numbers),
            values: Vec::with_capacity(numbers),
        };
        Self {
            layers: (0..layers)
                .map(|_| (0..kv_heads).map(head).collect())
                .collect(),
            length: 0,
        }
    }

    /// Bytes of so many tokens, where each takes so many.
    pub(crate) const fn bytes(tokens: u64, each: u64) -> u64 {
        tokens.next_multiple_of(LANES as u64).saturating_mul(each)
    }

    /// Tokens in it.
    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// All layers have those tokens too.
    pub(super) const fn grew(&mut self, tokens: usize) {
        self.length += tokens;
    }
}

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Numbers of one head.
    pub(super) size: usize,
    /// How many of the latest tokens are attended to.
    pub(super) sliding: Option<usize>,
}

impl Sizes {
    /// Numbers of a token's queries, keys and values.
    const fn stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.size
    }

    /// Query heads that share one head of keys.
    pub(super) const fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// New tokens of one text.
pub(super) struct Span<'a> {
    pub(super) cache: &'a mut Cache,
    pub(super) tokens: usize,
}

struct Job<'a> {
    head: &'a mut Head,
    /// Which of the heads of keys.
    number: usize,
    first_row: usize,
    rows: usize,
    /// The position of the first row.
    start: usize,
}

/// Puts the new tokens' keys and values into a layer of the caches, and answers what each of
/// them attends to. `qkv` has for each token all heads' queries, then keys, then values;
/// `turns` its position's cosines and sines.
pub(super) fn attention(
    qkv: &[f32],
    turns: &[f32],
    layer: usize,
    spans: &mut [Span<'_>],
    sizes: Sizes,
) -> Vec<f32> {
    let mut jobs = Vec::new();
    let mut first_row = 0;
    for span in spans {
        let (rows, start) = (span.tokens, span.cache.length);
        for (number, head) in span.cache.layers[layer].iter_mut().enumerate() {
            jobs.push(Job {
                head,
                number,
                first_row,
                rows,
                start,
            });
        }
        first_row += rows;
    }
    let arch = Arch::new();
    let computed: Vec<(usize, usize, Vec<f32>)> = jobs
        .into_par_iter()
        .map_init(Scratch::default, |scratch, job| {
            let (number, first_row) = (job.number, job.first_row);
            let attend = Attend {
                job,
                qkv,
                turns,
                sizes,
                scratch,
            };
            (number, first_row, arch.dispatch(attend))
        })
        .collect();
    let (width, part) = (sizes.heads * sizes.size, sizes.group() * sizes.size);
    let mut out = vec![0.0; first_row * width];
    for (number, first_row, values) in computed {
        for (row, values) in values.chunks_exact(part).enumerate() {
            let to = (first_row + row) * width + number * part;
            out[to..to + part].copy_from_slice(values);
        }
    }
    out
}

/// Turns a head's numbers, the first half of them with the second, to a position.
#[inline(always)]
fn turn(from: &[f32], turns: &[f32], into: &mut Vec<f32>) {
    let half = from.len() / 2;
    let (first, second) = from.split_at(half);
    let (cosines, sines) = turns.split_at(half);
    let pairs = || first.iter().zip(second).zip(cosines.iter().zip(sines));
    into.extend(pairs().map(|((a, b), (cosine, sine))| a * cosine - b * sine));
    into.extend(pairs().map(|((a, b), (cosine, sine))| b * cosine + a * sine));
}

#[derive(Default)]
struct Scratch {
    turned: Vec<f32>,
    queries: Vec<f32>,
    scores: Vec<f32>,
}

struct Attend<'a, 'b> {
    job: Job<'b>,
    qkv: &'a [f32],
    turns: &'a [f32],
    sizes: Sizes,
    scratch: &'a mut Scratch,
}

impl WithSimd for Attend<'_, '_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f32> {
        let Self {
            job,
            qkv,
            turns,
            sizes,
            scratch,
        } = self;
        let (size, group) = (sizes.size, sizes.group());
        scratch.queries.clear();
        for row in 0..job.rows {
            let at = job.first_row + row;
            let own = &qkv[at * sizes.stride()..(at + 1) * sizes.stride()];
            let turns = &turns[at * size..(at + 1) * size];
            let part = |number: usize| &own[number * size..(number + 1) * size];
            scratch.turned.clear();
            turn(part(sizes.heads + job.number), turns, &mut scratch.turned);
            let value = part(sizes.heads + sizes.kv_heads + job.number);
            job.head.push(job.start + row, &scratch.turned, value);
            for query in job.number * group..(job.number + 1) * group {
                turn(part(query), turns, &mut scratch.queries);
            }
        }
        let queries = job.rows * group;
        let scale = 1.0 / (size as f32).sqrt();
        let mut out = vec![0.0; queries * size];
        for first in (0..queries).step_by(ROWS) {
            let count = ROWS.min(queries - first);
            // The last ones may be fewer: the last is computed again for nobody.
            let query = |at: usize| first + at.min(count - 1);
            let visible = |at: usize| {
                let end = job.start + query(at) / group + 1;
                let begin = sizes.sliding.map_or(0, |window| end.saturating_sub(window));
                (begin, end)
            };
            let (from, to) = (visible(0).0, visible(ROWS - 1).1);
            let first_block = from / LANES;
            let padded = to.next_multiple_of(LANES) - first_block * LANES;
            scratch.scores.clear();
            scratch.scores.resize(ROWS * padded, 0.0);
            let mut each = [&[][..]; ROWS];
            for (at, one) in each.iter_mut().enumerate() {
                *one = &scratch.queries[query(at) * size..(query(at) + 1) * size];
            }
            let keys = &job.head.keys[first_block * LANES * size..];
            score(&each, keys, padded, &mut scratch.scores);
            let offset = first_block * LANES;
            for (at, scores) in scratch.scores.chunks_exact_mut(padded).enumerate() {
                let (begin, end) = visible(at);
                softmax(&mut scores[begin - offset..end - offset], scale);
                scores[..begin - offset].fill(0.0);
                scores[end - offset..].fill(0.0);
            }
            let values = &job.head.values[from * size..to * size];
            for block in (0..size).step_by(LANES) {
                let width = LANES.min(size - block);
                let weights = &scratch.scores[from - offset..];
                let sums = weigh(weights, padded, values, size, block, width);
                for (at, sums) in sums.iter().take(count).enumerate() {
                    let to = (first + at) * size + block;
                    out[to..to + width].copy_from_slice(&sums[..width]);
                }
            }
        }
        out
    }
}

/// The products of queries with all keys, a block of keys at a time.
#[inline(always)]
fn score(queries: &[&[f32]; ROWS], keys: &[f32], padded: usize, scores: &mut [f32]) {
    let size = queries[0].len();
    for (block, keys) in (0..padded)
        .step_by(LANES)
        .zip(keys.chunks_exact(size * LANES))
    {
        let mut sums = [[0.0; LANES]; ROWS];
        for (number, keys) in keys.as_chunks::<LANES>().0.iter().enumerate() {
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
    values: &[f32],
    size: usize,
    block: usize,
    width: usize,
) -> [Lanes; ROWS] {
    let mut sums = [[0.0; LANES]; ROWS];
    for (token, values) in values.chunks_exact(size).enumerate() {
        let mut part = [0.0; LANES];
        let values: &Lanes = if width == LANES {
            values[block..].first_chunk().unwrap_or(&part)
        } else {
            part[..width].copy_from_slice(&values[block..block + width]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::tests::numbers;

    /// Attention of a whole text by its definition, in double precision, without positions.
    fn reference(qkv: &[f32], sizes: Sizes) -> Vec<f64> {
        let tokens = qkv.len() / sizes.stride();
        let size = sizes.size;
        let at = |token: usize, head: usize, number: usize| {
            f64::from(qkv[token * sizes.stride() + head * size + number])
        };
        let mut out = Vec::new();
        for query in 0..tokens {
            let first = sizes.sliding.map_or(0, |w| (query + 1).saturating_sub(w));
            for head in 0..sizes.heads {
                let key_head = sizes.heads + head / sizes.group();
                let value_head = key_head + sizes.kv_heads;
                let weights: Vec<f64> = (first..=query)
                    .map(|key| {
                        let products = (0..size).map(|n| at(query, head, n) * at(key, key_head, n));
                        (products.sum::<f64>() / (size as f64).sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..size).map(|n| {
                    let weighed = weights.iter().enumerate();
                    weighed
                        .map(|(t, w)| w * at(first + t, value_head, n))
                        .sum::<f64>()
                        / sum
                }));
            }
        }
        out
    }

    #[test]
    fn attention_is_what_its_definition_says_however_the_text_comes() {
        for (heads, kv_heads, size, sliding) in [
            (4, 2, 16, None),
            (3, 1, 24, None),
            (2, 2, 64, Some(5)),
            (6, 2, 10, Some(16)),
            (1, 1, 2, Some(1)),
        ] {
            let sizes = Sizes {
                heads,
                kv_heads,
                size,
                sliding,
            };
            // Two texts, each in parts of its own.
            let steps = [[1, 30], [7, 1], [16, 1], [1, 2], [1, 3], [20, 1], [1, 1]];
            let lengths = [0, 1].map(|text| steps.iter().map(|step| step[text]).sum::<usize>());
            let texts = [
                numbers(lengths[0] * sizes.stride(), 3),
                numbers(lengths[1] * sizes.stride(), 4),
            ];
            let mut caches = lengths.map(|length| Cache::new(1, kv_heads, size, length));
            let mut found = [Vec::new(), Vec::new()];
            let width = heads * size;
            for step in steps {
                let mut qkv = Vec::new();
                let mut spans = Vec::new();
                for (number, (text, cache)) in texts.iter().zip(&mut caches).enumerate() {
                    let tokens = step[number];
                    let from = cache.length * sizes.stride();
                    qkv.extend_from_slice(&text[from..from + tokens * sizes.stride()]);
                    spans.push(Span { cache, tokens });
                }
                // No turn: cosines are 1, sines 0.
                let rows: usize = spans.iter().map(|span| span.tokens).sum();
                let turn = [vec![1.0; size / 2], vec![0.0; size / 2]].concat();
                let out = attention(&qkv, &turn.repeat(rows), 0, &mut spans, sizes);
                let (first, second) = out.split_at(step[0] * width);
                found[0].extend_from_slice(first);
                found[1].extend_from_slice(second);
                for span in spans {
                    span.cache.grew(span.tokens);
                }
            }
            for (text, found) in texts.iter().zip(&found) {
                let expected = reference(text, sizes);
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 1e-5, "{sizes:?}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_turn_is_a_rotation_of_pairs() {
        let mut turned = Vec::new();
        let (sine, cosine) = 0.5_f32.sin_cos();
        turn(
            &[1.0, 2.0, 3.0, 4.0],
            &[cosine, 1.0, sine, 0.0],
            &mut turned,
        );
        let expected = [cosine - 3.0 * sine, 2.0, 3.0 * cosine + sine, 4.0];
        assert_eq!(turned, expected);
    }
}
