//! Attention of an encoder's padded batch, in parts where all of it at once is more than a device
//! takes.

use burn_tensor::Tensor;
use burn_tensor::activation::softmax;

/// Scores that are there at once: 1 GiB of them. Some devices take no tensor of 2 GiB, and
/// another as large comes of these.
pub(super) const MOST: usize = 1 << 28;

/// What each token attends to. Queries, keys and values have a row for each sequence, head and
/// token; `mask` has one for each sequence, and is added to the scores of all its heads. At most
/// `most` scores are computed at once, but all those of one head of one sequence.
pub(super) fn attend(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    mask: Option<&Tensor<4>>,
    most: usize,
) -> Tensor<4> {
    let [sequences, heads, tokens, size] = queries.dims();
    let all = sequences * heads;
    let together = (most / (tokens * tokens).max(1)).max(1);
    if together >= all {
        let mut scores = queries.matmul(keys.swap_dims(2, 3));
        if let Some(mask) = mask {
            scores = scores + mask.clone();
        }
        return softmax(scores, 3).matmul(values);
    }
    let flat = |tensor: Tensor<4>| tensor.reshape([all, tokens, size]);
    let (queries, keys, values) = (flat(queries), flat(keys), flat(values));
    let mask = mask.map(|mask| mask.clone().repeat_dim(1, heads).reshape([all, 1, tokens]));
    let part = |from: usize| {
        let count = together.min(all - from);
        let some = |tensor: &Tensor<3>| tensor.clone().narrow(0, from, count);
        let mut scores = some(&queries).matmul(some(&keys).swap_dims(1, 2));
        if let Some(mask) = &mask {
            scores = scores + some(mask);
        }
        softmax(scores, 2).matmul(some(&values))
    };
    let parts: Vec<Tensor<3>> = (0..all).step_by(together).map(part).collect();
    Tensor::cat(parts, 0).reshape([sequences, heads, tokens, size])
}

#[cfg(test)]
mod tests {
    use burn_tensor::TensorData;

    use super::super::kernels::tests::numbers;
    use super::super::loader::bare;
    use super::*;
    use crate::device::Device;

    #[test]
    fn parts_are_the_same_as_all_at_once() {
        let device = Device::cpu().tensor;
        let shape = [3, 4, 5, 2];
        let tensor = |seed| {
            let values = numbers(shape.iter().product(), seed);
            Tensor::<4>::from_data(TensorData::new(values, shape), &device)
        };
        // Of each sequence another number of tokens counts.
        let mask: Vec<f32> = [5, 2, 3]
            .iter()
            .flat_map(|&length| (0..5).map(move |at| if at < length { 0.0 } else { -1e4 }))
            .collect();
        let mask = Tensor::<4>::from_data(TensorData::new(mask, [3, 1, 1, 5]), &device);
        for mask in [None, Some(&mask)] {
            let attend = |most: usize| {
                let attended = attend(tensor(1), tensor(2), tensor(3), mask, most);
                assert_eq!(attended.dims(), shape);
                bare(attended).expect("numbers")
            };
            let whole = attend(MOST);
            // One head at once, and several with a rest.
            for most in [0, 25, 130, 275] {
                let parts = attend(most);
                for (part, whole) in parts.iter().zip(&whole) {
                    assert!((part - whole).abs() < 1e-5, "{most}: {part} {whole}");
                }
            }
        }
    }
}
