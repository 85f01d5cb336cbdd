//! Attention on a GPU, and what was read of a text there.
//!
//! A text has for each layer a table on the device, with a row of keys and values for each
//! token that it may have. As many rows are attended to as it has tokens, rounded up, so that
//! shapes come again and what the device compiled for them is used again; what a query must
//! not see is hidden by a mask. Texts with as many new tokens and as many rows are computed
//! together. Nothing comes back to the processor.

use std::collections::BTreeMap;

use burn_tensor::activation::softmax;
use burn_tensor::{Device, Int, Tensor, TensorData};

use super::cache::Sizes;

/// Added to scores that do not count: their weights are 0 then, and it is a number.
const HIDDEN: f32 = -1e30;
/// Rows of a table are rounded up to powers of two from the first to the second, and to
/// multiples of the second above.
const FEWEST: usize = 32;
const STEP: usize = 256;

/// Rows of so many tokens.
const fn rounded(tokens: usize) -> usize {
    if tokens > STEP {
        tokens.next_multiple_of(STEP)
    } else if tokens > FEWEST {
        tokens.next_power_of_two()
    } else {
        FEWEST
    }
}

/// What was read of one text.
#[derive(Debug)]
pub(crate) struct Tables {
    /// One for each layer, of as many rows as there is room for; none before its first token:
    /// a device that has no memory for it fails where that ends the step.
    layers: Vec<Option<Tensor<2>>>,
    rows: usize,
    length: usize,
}

impl Tables {
    /// With room for so many tokens.
    pub(super) fn new(layers: usize, tokens: usize) -> Self {
        Self {
            layers: vec![None; layers],
            rows: rounded(tokens),
            length: 0,
        }
    }

    /// Bytes of so many tokens, where each takes so many.
    pub(super) const fn bytes(tokens: u64, each: u64) -> u64 {
        // A window has at most four million tokens.
        (rounded(tokens as usize) as u64).saturating_mul(each)
    }

    pub(super) const fn length(&self) -> usize {
        self.length
    }

    pub(super) const fn grew(&mut self, tokens: usize) {
        self.length += tokens;
    }

    fn put(&mut self, layer: usize, new: Tensor<2>) {
        let [tokens, width] = new.dims();
        let table = self.layers[layer].take();
        let table = table.unwrap_or_else(|| Tensor::zeros([self.rows, width], &new.device()));
        let to = self.length..self.length + tokens;
        self.layers[layer] = Some(table.slice_assign([to, 0..width], new));
    }

    fn first(&self, layer: usize, rows: usize) -> Option<Tensor<2>> {
        let table = self.layers[layer].clone()?;
        Some(if rows < self.rows {
            table.narrow(0, 0, rows)
        } else {
            table
        })
    }
}

/// Texts that are computed together.
struct Group {
    /// Which of the step's texts.
    texts: Vec<usize>,
    /// New tokens of each.
    tokens: usize,
    /// Rows of their tables that count.
    rows: usize,
    /// Which rows of the step are theirs; none where all are, in their order.
    own: Option<Tensor<1, Int>>,
    /// For each number of latest tokens that a layer attends to, what is added to its scores.
    masks: Vec<(Option<usize>, Tensor<5>)>,
}

/// One step of several texts.
pub(super) struct Step<'a> {
    /// The texts: what was read of each, how many tokens are new, and which row is its first.
    texts: Vec<(&'a mut Tables, usize, usize)>,
    groups: Vec<Group>,
    /// Where each row's answer lies among the groups'; none where they lie as the rows.
    back: Option<Tensor<1, Int>>,
    rows: usize,
    cosines: Tensor<3>,
    sines: Tensor<3>,
    device: Device,
}

fn indices(of: Vec<usize>, device: &Device) -> Tensor<1, Int> {
    // A step has fewer rows than that.
    let of: Vec<i32> = of
        .into_iter()
        .map(|row| i32::try_from(row).unwrap_or_default())
        .collect();
    let length = of.len();
    Tensor::from_data(TensorData::new(of, [length]), device)
}

impl<'a> Step<'a> {
    /// Of texts and how many of their tokens are new. `turns` has for each of those its
    /// position's cosines and sines.
    pub(super) fn new(
        texts: impl Iterator<Item = (&'a mut Tables, usize)>,
        turns: Vec<f32>,
        device: &Device,
    ) -> Self {
        let mut rows = 0;
        let mut alike: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        let texts: Vec<_> = texts
            .enumerate()
            .map(|(number, (tables, tokens))| {
                let first = rows;
                rows += tokens;
                let key = (tokens, rounded(tables.length + tokens));
                alike.entry(key).or_default().push(number);
                (tables, tokens, first)
            })
            .collect();
        let mut order = Vec::with_capacity(rows);
        let in_order = alike.len() == 1;
        let groups = alike.into_iter().map(|((tokens, rows), members)| {
            let from = order.len();
            for &member in &members {
                let (_, tokens, first) = texts[member];
                order.extend(first..first + tokens);
            }
            let own = order[from..].to_vec();
            Group {
                texts: members,
                tokens,
                rows,
                own: (!in_order).then(|| indices(own, device)),
                masks: Vec::new(),
            }
        });
        let groups = groups.collect();
        let back = (!in_order).then(|| {
            let mut back = vec![0; rows];
            for (at, row) in order.into_iter().enumerate() {
                back[row] = at;
            }
            indices(back, device)
        });
        let half = turns.len() / (2 * rows).max(1);
        let turns = Tensor::<3>::from_data(TensorData::new(turns, [rows, 2, half]), device);
        Self {
            texts,
            groups,
            back,
            rows,
            cosines: turns.clone().narrow(1, 0, 1),
            sines: turns.narrow(1, 1, 1),
            device: device.clone(),
        }
    }

    /// Puts the new tokens' keys and values into a layer's tables, and answers what each of
    /// them attends to. `qkv` has for each token all heads' queries, then keys, then values.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        qkv: Tensor<2>,
        sizes: Sizes,
    ) -> Result<Tensor<2>, String> {
        let (rows, size) = (self.rows, sizes.size);
        let (turning, kept) = (sizes.heads + sizes.kv_heads, sizes.kv_heads * size);
        let turned = qkv.clone().narrow(1, 0, turning * size);
        let turned = self.turn(turned.reshape([rows, turning, size]));
        let queries = turned.clone().narrow(1, 0, sizes.heads);
        let keys = turned.narrow(1, sizes.heads, sizes.kv_heads);
        let values = qkv.narrow(1, turning * size, kept);
        let new = Tensor::cat(vec![keys.reshape([rows, kept]), values], 1);
        for (tables, tokens, first) in &mut self.texts {
            tables.put(layer, new.clone().narrow(0, *first, *tokens));
        }
        let mut found = Vec::with_capacity(self.groups.len());
        for group in &mut self.groups {
            let tables = group.texts.iter().map(|&text| {
                let (tables, ..) = &self.texts[text];
                tables.first(layer, group.rows)
            });
            let tables: Option<Vec<Tensor<2>>> = tables.collect();
            let tables = Tensor::cat(tables.ok_or("a text has no tables")?, 0);
            let queries = match &group.own {
                Some(own) => queries.clone().select(0, own.clone()),
                None => queries.clone(),
            };
            let starts = group
                .texts
                .iter()
                .map(|&text| self.texts[text].0.length)
                .collect::<Vec<_>>();
            let mask = group.mask(sizes.sliding, &starts, &self.device);
            found.push(group.attend(queries, tables, mask, sizes));
        }
        let found = Tensor::cat(found, 0);
        Ok(match &self.back {
            Some(back) => found.select(0, back.clone()),
            None => found,
        })
    }

    /// Turns each head's numbers, the first half of them with the second, to its position.
    fn turn(&self, heads: Tensor<3>) -> Tensor<3> {
        let [_, _, size] = heads.dims();
        let half = size / 2;
        let (first, second) = (
            heads.clone().narrow(2, 0, half),
            heads.narrow(2, half, half),
        );
        let (cosines, sines) = (&self.cosines, &self.sines);
        let turned = [
            first.clone() * cosines.clone() - second.clone() * sines.clone(),
            second * cosines.clone() + first * sines.clone(),
        ];
        Tensor::cat(turned.into(), 2)
    }

    /// All layers have the new tokens.
    pub(super) fn grew(self) {
        for (tables, tokens, _) in self.texts {
            tables.grew(tokens);
        }
    }
}

impl Group {
    /// Attention of `queries`, a row for each of the group's tokens, over its texts' tables,
    /// which lie one after another.
    fn attend(
        &self,
        queries: Tensor<3>,
        tables: Tensor<2>,
        mask: Tensor<5>,
        sizes: Sizes,
    ) -> Tensor<2> {
        let (texts, tokens, rows) = (self.texts.len(), self.tokens, self.rows);
        let (heads, group, size) = (sizes.kv_heads, sizes.group(), sizes.size);
        let queries = queries
            .reshape([texts, tokens, heads, group, size])
            .permute([0, 2, 3, 1, 4])
            .reshape([texts * heads, group * tokens, size]);
        let tables = tables.reshape([texts, rows, 2, heads * size]);
        let half = |which: usize| {
            let one = tables.clone().narrow(2, which, 1);
            one.reshape([texts, rows, heads, size])
        };
        let keys = half(0).permute([0, 2, 3, 1]);
        let keys = keys.reshape([texts * heads, size, rows]);
        let values = half(1).permute([0, 2, 1, 3]);
        let values = values.reshape([texts * heads, rows, size]);
        let scores = queries.matmul(keys) / (size as f64).sqrt();
        let scores = scores.reshape([texts, heads, group, tokens, rows]) + mask;
        let weights = softmax(scores, 4).reshape([texts * heads, group * tokens, rows]);
        weights
            .matmul(values)
            .reshape([texts, heads, group, tokens, size])
            .permute([0, 3, 1, 2, 4])
            .reshape([texts * tokens, sizes.heads * size])
    }

    /// Hides what comes after a token, and what is too long before it.
    fn mask(&mut self, sliding: Option<usize>, starts: &[usize], device: &Device) -> Tensor<5> {
        let made = self.masks.iter().find(|(window, _)| *window == sliding);
        if let Some((_, mask)) = made {
            return mask.clone();
        }
        let (tokens, rows) = (self.tokens, self.rows);
        let mut mask = vec![HIDDEN; starts.len() * tokens * rows];
        let positions = starts.iter().flat_map(|&start| start..start + tokens);
        for (position, row) in positions.zip(mask.chunks_exact_mut(rows)) {
            let first = sliding.map_or(0, |window| (position + 1).saturating_sub(window));
            row[first..=position].fill(0.0);
        }
        let shape = [starts.len(), 1, 1, tokens, rows];
        let mask = Tensor::from_data(TensorData::new(mask, shape), device);
        self.masks.push((sliding, mask.clone()));
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_come_again() {
        let found = [1, 32, 33, 64, 255, 256, 257, 512, 513].map(rounded);
        assert_eq!(found, [32, 32, 64, 64, 256, 256, 512, 512, 768]);
        assert_eq!(Tables::bytes(33, 10), 640);
    }
}
