//! Products with a model's weights on the CPU.
//!
//! Weights are packed once, when the model is loaded: in panels of [`WIDTH`] outputs, in which
//! the weights of one input lie beside each other, as the innermost loop reads them. burn's
//! backend packs them at each product, which counts where rows are few: a short text, or the
//! next token of one, whose product it also leaves to one core. A product is split into
//! jobs over rows and panels, so that every core has some of either.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Outputs of a panel: four registers of AVX-512.
const WIDTH: usize = 64;
/// Rows of a tile, whose sums are in registers, as are an input and the weights of it.
const TILE_ROWS: usize = 6;
/// Rows of one job: their numbers stay in the cache.
const JOB_ROWS: usize = 16 * TILE_ROWS;
/// Jobs for each thread, so that none waits long for the last.
const JOBS: usize = 4;

/// A matrix of weights, and what is added to its products.
#[derive(Debug)]
pub(super) struct Packed {
    panels: Vec<f32>,
    /// As long as the panels are wide.
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
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
        }
    }

    /// Sets the weights of some outputs, a row for each, from that one on.
    pub(super) fn set_rows(&mut self, first: usize, rows: &[f32]) {
        for (number, row) in rows.chunks_exact(self.inputs).enumerate() {
            let from = self.place(first + number);
            let panel = self.panels[from..].iter_mut().step_by(WIDTH);
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
        let panel = self.panels[self.place(output)..].iter().step_by(WIDTH);
        panel.take(self.inputs).copied()
    }

    pub(super) const fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) const fn outputs(&self) -> usize {
        self.outputs
    }

    const fn place(&self, output: usize) -> usize {
        output / WIDTH * self.inputs * WIDTH + output % WIDTH
    }

    /// The outputs of rows of inputs.
    pub(super) fn apply(&self, input: &[f32]) -> Vec<f32> {
        let arch = Arch::new();
        let rows = input.len() / self.inputs;
        let tiled = self.tiled(input);
        let mut out = vec![0.0; rows * self.outputs];
        let panels = self.bias.len() / WIDTH;
        let blocks = rows.div_ceil(JOB_ROWS).max(1);
        let groups = (JOBS * rayon::current_num_threads()).div_ceil(blocks);
        let group = panels.div_ceil(groups.min(panels)).max(1);
        let mut jobs = Vec::new();
        for (tiled, out) in tiled
            .chunks(JOB_ROWS * self.inputs)
            .zip(out.chunks_mut(JOB_ROWS * self.outputs))
        {
            let first = jobs.len();
            jobs.extend((0..panels).step_by(group).map(|first_panel| Job {
                packed: self,
                tiled,
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
        jobs.into_par_iter().for_each(|job| arch.dispatch(job));
        out
    }

    /// The inputs of the rows of each tile side by side, tile after tile.
    fn tiled(&self, input: &[f32]) -> Vec<f32> {
        let mut tiled = vec![0.0; input.len()];
        let block = JOB_ROWS * self.inputs;
        let blocks = tiled.par_chunks_mut(block).zip(input.par_chunks(block));
        blocks.for_each(|(tiled, input)| {
            let (mut tiled, mut input) = (tiled, input);
            for rows in tiles(input.len() / self.inputs) {
                let (tile, rest) = tiled.split_at_mut(rows.len() * self.inputs);
                let (own, others) = input.split_at(rows.len() * self.inputs);
                (tiled, input) = (rest, others);
                for (at, row) in own.chunks_exact(self.inputs).enumerate() {
                    let tile = tile[at..].iter_mut().step_by(rows.len());
                    for (to, &value) in tile.zip(row) {
                        *to = value;
                    }
                }
            }
        });
        tiled
    }
}

/// Some rows' products with some panels.
struct Job<'a> {
    packed: &'a Packed,
    /// The rows, in tiles.
    tiled: &'a [f32],
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
        for (number, first) in (0..width).step_by(WIDTH).enumerate() {
            let number = self.first_panel + number;
            let panel = Panel {
                weights: &self.packed.panels[number * inputs * WIDTH..][..inputs * WIDTH],
                bias: &self.packed.bias[number * WIDTH..][..WIDTH],
                first,
            };
            let mut tiled = self.tiled;
            for rows in tiles(self.out.len()) {
                let (own, rest) = tiled.split_at(rows.len() * inputs);
                tiled = rest;
                let out = &mut self.out[rows];
                if S::REGISTER_COUNT >= 32 {
                    panel.rows::<S, 4>(simd, own, out);
                } else {
                    panel.rows::<S, 2>(simd, own, out);
                }
            }
        }
    }
}

/// Rows in tiles of the sizes that there are.
#[inline(always)]
fn tiles(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let size = match rows - from {
            0 => return None,
            left if left >= TILE_ROWS => TILE_ROWS,
            left if left >= 4 => 4,
            left if left >= 2 => 2,
            _ => 1,
        };
        from += size;
        Some(from - size..from)
    })
}

struct Panel<'a> {
    weights: &'a [f32],
    bias: &'a [f32],
    /// Its first output among those of the job.
    first: usize,
}

impl Panel<'_> {
    #[inline(always)]
    fn rows<S: Simd, const REGISTERS: usize>(
        &self,
        simd: S,
        input: &[f32],
        out: &mut [&mut [f32]],
    ) {
        match out.len() {
            TILE_ROWS => self.tile::<S, REGISTERS, TILE_ROWS>(simd, input, out),
            4 => self.tile::<S, REGISTERS, 4>(simd, input, out),
            2 => self.tile::<S, REGISTERS, 2>(simd, input, out),
            _ => self.tile::<S, REGISTERS, 1>(simd, input, out),
        }
    }

    /// A few rows' outputs, so many registers of them at a time.
    #[inline(always)]
    fn tile<S: Simd, const REGISTERS: usize, const ROWS: usize>(
        &self,
        simd: S,
        input: &[f32],
        out: &mut [&mut [f32]],
    ) {
        let width = REGISTERS * S::F32_LANES;
        for at in (0..WIDTH).step_by(width) {
            let registers = |row: &[f32]| {
                let row = S::as_simd_f32s(&row[at..at + width]).0;
                std::array::from_fn::<_, REGISTERS, _>(|number| row[number])
            };
            let mut sums = [registers(self.bias); ROWS];
            let weights = self.weights.chunks_exact(WIDTH);
            for (weights, inputs) in weights.zip(input.as_chunks::<ROWS>().0) {
                let weights = registers(weights);
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
            for rows in [0, 1, 2, 3, 5, 6, 11, 12, 13, 95, 96, 97, 200] {
                let input = numbers(rows * inputs, 5);
                let found = packed.apply(&input);
                assert_eq!(found.len(), rows * outputs);
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
}
