//! Products with a model's weights on the CPU.
//!
//! Weights are packed once, when the model is loaded: in panels of as many outputs as a tile's
//! registers hold, in which the weights of one input lie beside each other, so that the
//! innermost loop reads them one after another. burn's backend packs them at each product,
//! which counts where rows are few: a short text, or the next token of one, whose product it
//! also leaves to one core. The inputs of a tile's rows are laid side by side before. A product
//! is split into jobs over rows and panels where several cores share it; jobs of the same rows
//! share what is laid of them.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Outputs that a tile goes through before the next one begins, whole panels: four registers of
/// AVX-512.
const WIDTH: usize = 64;
/// Rows of a tile, whose sums are in registers, as are an input and the weights of it.
const TILE_ROWS: usize = 6;
/// Rows of one job: their numbers stay in the cache.
const JOB_ROWS: usize = 16 * TILE_ROWS;
/// Jobs for each thread, so that none waits long for the last.
const JOBS: usize = 4;
/// Numbers that are laid by one thread: for fewer, others are not worth waking.
const FEW: usize = 1 << 15;

/// A matrix of weights, and what is added to its products.
#[derive(Debug)]
pub(super) struct Packed {
    panels: Vec<f32>,
    /// As long as the panels are wide.
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
    /// Outputs of one panel.
    width: usize,
}

impl Packed {
    /// Zeros.
    pub(super) fn new(inputs: usize, outputs: usize) -> Self {
        let padded = outputs.next_multiple_of(WIDTH);
        Self {
            panels: vec![0.0; inputs * padded],
            bias: vec![0.0; padded],
            inputs,
            outputs,
            width: Arch::new().dispatch(PanelWidth),
        }
    }

    /// Sets the weights of some outputs, a row for each, from that one on.
    pub(super) fn set_rows(&mut self, first: usize, rows: &[f32]) {
        for (number, row) in rows.chunks_exact(self.inputs).enumerate() {
            let from = self.place(first + number);
            let panel = self.panels[from..].iter_mut().step_by(self.width);
            for (weight, &value) in panel.zip(row) {
                *weight = value;
            }
        }
    }

    /// Sets what is added to some outputs, from that one on.
    pub(super) fn set_bias(&mut self, first: usize, bias: &[f32]) {
        self.bias[first..first + bias.len()].copy_from_slice(bias);
    }

    /// The weights of one output.
    pub(super) fn row(&self, output: usize) -> impl Iterator<Item = f32> {
        let panel = self.panels[self.place(output)..].iter();
        panel.step_by(self.width).take(self.inputs).copied()
    }

    pub(super) const fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) const fn outputs(&self) -> usize {
        self.outputs
    }

    const fn place(&self, output: usize) -> usize {
        output / self.width * self.inputs * self.width + output % self.width
    }

    /// The outputs of rows of inputs, by all threads.
    pub(super) fn apply(&self, input: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; input.len() / self.inputs * self.outputs];
        self.apply_to(input, &mut out, rayon::current_num_threads());
        out
    }

    /// The same to where there is room for them, by so many threads: by the caller's alone where
    /// it is one, since the others have work of their own then.
    pub(super) fn apply_to(&self, input: &[f32], out: &mut [f32], threads: usize) {
        let arch = Arch::new();
        let rows = input.len() / self.inputs;
        let panels = self.bias.len() / WIDTH;
        let blocks = rows.div_ceil(JOB_ROWS).max(1);
        let groups = match threads {
            0 | 1 => 1,
            threads => (JOBS * threads).div_ceil(blocks),
        };
        let group = panels.div_ceil(groups.min(panels)).max(1);
        // A job that has its rows to itself lays them when it begins: they are in its core's cache
        // then.
        let laid = (group < panels && rows > 1).then(|| tiled_blocks(input, self.inputs));
        // A single row lies as its tile does.
        let is_laid = laid.is_some() || rows == 1;
        let input = laid.as_deref().unwrap_or(input);
        let mut jobs = Vec::new();
        for (input, out) in input
            .chunks(JOB_ROWS * self.inputs)
            .zip(out.chunks_mut(JOB_ROWS * self.outputs))
        {
            let first = jobs.len();
            jobs.extend((0..panels).step_by(group).map(|first_panel| Job {
                packed: self,
                input,
                is_laid,
                first_panel,
                out: Vec::with_capacity(JOB_ROWS.min(rows)),
            }));
            for mut row in out.chunks_exact_mut(self.outputs) {
                for job in &mut jobs[first..] {
                    let (own, rest) = row.split_at_mut(row.len().min(group * WIDTH));
                    job.out.push(own);
                    row = rest;
                }
            }
        }
        if threads > 1 {
            jobs.into_par_iter().for_each(|job| arch.dispatch(job));
        } else {
            jobs.into_iter().for_each(|job| arch.dispatch(job));
        }
    }
}

/// Registers of a tile's row: the processor has room for [`TILE_ROWS`] times as many sums, the
/// weights and an input.
#[inline(always)]
const fn registers<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 4 } else { 2 }
}

/// Outputs of a panel: of [`WIDTH`] a whole part.
struct PanelWidth;

impl WithSimd for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        registers::<S>() * S::F32_LANES
    }
}

/// Some rows' products with some panels.
struct Job<'a> {
    packed: &'a Packed,
    input: &'a [f32],
    /// Whether that lies tile by tile already.
    is_laid: bool,
    /// In numbers of [`WIDTH`] outputs.
    first_panel: usize,
    /// Where each row's outputs go.
    out: Vec<&'a mut [f32]>,
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let inputs = self.packed.inputs;
        let width = self.out.first().map_or(0, |row| row.len());
        let own = (!self.is_laid).then(|| tiled(self.input, inputs));
        let tiled = own.as_deref().unwrap_or(self.input);
        for (number, first) in (0..width).step_by(WIDTH).enumerate() {
            let number = self.first_panel + number;
            let panels = Panels {
                weights: &self.packed.panels[number * inputs * WIDTH..][..inputs * WIDTH],
                bias: &self.packed.bias[number * WIDTH..][..WIDTH],
                inputs,
                first,
            };
            for rows in tiles(self.out.len()) {
                let input = &tiled[rows.start * inputs..rows.end * inputs];
                let out = &mut self.out[rows];
                if registers::<S>() == 4 {
                    panels.rows::<S, 4>(simd, input, out);
                } else {
                    panels.rows::<S, 2>(simd, input, out);
                }
            }
        }
    }
}

/// Rows in tiles. Each sum waits for the one before it, so fewer than four rows leave the
/// processor idle for a part of the time: the last tiles have four and five where they can.
#[inline(always)]
fn tiles(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let size = match rows - from {
            0 => return None,
            7 | 8 => 4,
            9 | 13 => 5,
            left => left.min(TILE_ROWS),
        };
        from += size;
        Some(from - size..from)
    })
}

/// The inputs of the rows of each tile side by side, tile after tile, so that the innermost loop
/// reads them one after another. From where they lie, in as many places as a tile has rows, it
/// has less than half of its speed.
fn tiled(input: &[f32], inputs: usize) -> Vec<f32> {
    let mut tiled = vec![0.0; input.len()];
    for (rows, tile) in each_tile(input, &mut tiled, inputs) {
        lay(rows, tile, inputs);
    }
    tiled
}

/// The same of the rows of each job, job after job, by all threads.
fn tiled_blocks(input: &[f32], inputs: usize) -> Vec<f32> {
    let mut tiled = vec![0.0; input.len()];
    let block = JOB_ROWS * inputs;
    let blocks = input.chunks(block).zip(tiled.chunks_mut(block));
    let each = blocks.flat_map(|(input, tiled)| each_tile(input, tiled, inputs));
    if input.len() <= FEW {
        each.for_each(|(rows, tile)| lay(rows, tile, inputs));
    } else {
        let each: Vec<_> = each.collect();
        each.into_par_iter()
            .for_each(|(rows, tile)| lay(rows, tile, inputs));
    }
    tiled
}

/// The rows of each tile, and where they are laid.
fn each_tile<'a>(
    mut input: &'a [f32],
    mut tiled: &'a mut [f32],
    inputs: usize,
) -> impl Iterator<Item = (&'a [f32], &'a mut [f32])> {
    tiles(input.len() / inputs).map(move |rows| {
        let (rows, others) = input.split_at(rows.len() * inputs);
        let (tile, left) = std::mem::take(&mut tiled).split_at_mut(rows.len());
        (input, tiled) = (others, left);
        (rows, tile)
    })
}

fn lay(rows: &[f32], tile: &mut [f32], inputs: usize) {
    let count = rows.len() / inputs;
    for (at, row) in rows.chunks_exact(inputs).enumerate() {
        let tile = tile[at..].iter_mut().step_by(count);
        for (to, &value) in tile.zip(row) {
            *to = value;
        }
    }
}

/// Panels of [`WIDTH`] outputs together.
struct Panels<'a> {
    weights: &'a [f32],
    bias: &'a [f32],
    inputs: usize,
    /// Their first output among those of the job.
    first: usize,
}

impl Panels<'_> {
    #[inline(always)]
    fn rows<S: Simd, const REGISTERS: usize>(
        &self,
        simd: S,
        input: &[f32],
        out: &mut [&mut [f32]],
    ) {
        match out.len() {
            TILE_ROWS => self.tile::<S, REGISTERS, TILE_ROWS>(simd, input, out),
            5 => self.tile::<S, REGISTERS, 5>(simd, input, out),
            4 => self.tile::<S, REGISTERS, 4>(simd, input, out),
            3 => self.tile::<S, REGISTERS, 3>(simd, input, out),
            2 => self.tile::<S, REGISTERS, 2>(simd, input, out),
            _ => self.tile::<S, REGISTERS, 1>(simd, input, out),
        }
    }

    /// A few rows' outputs, one panel after another.
    #[inline(always)]
    fn tile<S: Simd, const REGISTERS: usize, const ROWS: usize>(
        &self,
        simd: S,
        input: &[f32],
        out: &mut [&mut [f32]],
    ) {
        let width = REGISTERS * S::F32_LANES;
        let panels = self.weights.chunks_exact(self.inputs * width);
        for (number, weights) in panels.enumerate() {
            let at = number * width;
            let bias = S::as_simd_f32s(&self.bias[at..at + width]).0;
            let bias: [_; REGISTERS] = std::array::from_fn(|register| bias[register]);
            let mut sums = [bias; ROWS];
            let weights = S::as_simd_f32s(weights).0.as_chunks::<REGISTERS>().0;
            for (weights, inputs) in weights.iter().zip(input.as_chunks::<ROWS>().0) {
                let weights = *weights;
                for (sums, &input) in sums.iter_mut().zip(inputs) {
                    let input = simd.splat_f32s(input);
                    for (sum, &weight) in sums.iter_mut().zip(&weights) {
                        *sum = simd.mul_add_f32s(input, weight, *sum);
                    }
                }
            }
            for (sums, out) in sums.iter().zip(out.iter_mut()) {
                let sums: &[f32] = pulp::bytemuck::cast_slice(sums);
                let from = self.first + at;
                let width = out.len().saturating_sub(from).min(width);
                if width > 0 {
                    out[from..from + width].copy_from_slice(&sums[..width]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::tests::numbers;

    #[test]
    fn a_product_is_what_its_definition_says_at_every_size() {
        for (inputs, outputs) in [(1, 1), (7, 31), (16, 32), (33, 33), (64, 192), (5, 300)] {
            let weights = numbers(inputs * outputs, 3);
            let bias = numbers(outputs, 4);
            let mut packed = Packed::new(inputs, outputs);
            // In two parts.
            let half = outputs / 2;
            packed.set_rows(0, &weights[..half * inputs]);
            packed.set_rows(half, &weights[half * inputs..]);
            packed.set_bias(0, &bias);
            for output in 0..outputs {
                let row: Vec<f32> = packed.row(output).collect();
                assert_eq!(row, &weights[output * inputs..(output + 1) * inputs]);
            }
            for rows in (0..=20).chain([95, 96, 97, 98, 103, 200]) {
                let input = numbers(rows * inputs, 5);
                let found = packed.apply(&input);
                assert_eq!(found.len(), rows * outputs);
                for threads in 1..=3 {
                    // What was there before does not count.
                    let mut same = numbers(rows * outputs, 6);
                    packed.apply_to(&input, &mut same, threads);
                    assert_eq!(same, found, "{rows}x{inputs}x{outputs} by {threads}");
                }
                for (row, found) in found.chunks_exact(outputs).enumerate() {
                    let input = &input[row * inputs..(row + 1) * inputs];
                    for (output, &found) in found.iter().enumerate() {
                        let weights = &weights[output * inputs..(output + 1) * inputs];
                        let products = weights.iter().zip(input);
                        let sum: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        let expected = sum + f64::from(bias[output]);
                        assert!(
                            (f64::from(found) - expected).abs() < 1e-4,
                            "{rows}x{inputs}x{outputs}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_that_are_laid_together_lie_as_each_alone() {
        // By one thread and by several.
        for (inputs, rows) in [
            (1, 1),
            (1, 100),
            (7, 5),
            (7, 96),
            (7, 205),
            (384, 103),
            (384, 192),
        ] {
            let input = numbers(inputs * rows, 8);
            let together = tiled_blocks(&input, inputs);
            let blocks = input.chunks(JOB_ROWS * inputs);
            let alone: Vec<f32> = blocks.flat_map(|block| tiled(block, inputs)).collect();
            assert_eq!(together, alone, "{inputs}x{rows}");
        }
        assert_eq!(tiled(&[1.0, 2.0, 3.0], 3), [1.0, 2.0, 3.0], "one row stays");
        assert_eq!(tiled(&[1.0, 2.0, 3.0, 4.0], 2), [1.0, 3.0, 2.0, 4.0]);
    }

    #[test]
    fn tiles_are_all_rows_in_their_order() {
        for rows in 0..200 {
            let mut next = 0;
            for tile in tiles(rows) {
                assert_eq!(tile.start, next, "{rows}");
                assert!((1..=TILE_ROWS).contains(&tile.len()), "{rows}");
                assert!(tile.len() >= 4 || rows < 4 || rows == 7, "{rows}: {tile:?}");
                next = tile.end;
            }
            assert_eq!(next, rows);
        }
    }
}
