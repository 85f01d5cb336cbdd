//! From weights in files to tensors on a device.

use burn_tensor::module::linear;
use burn_tensor::{Tensor, TensorData};

use super::weights::Weights;
use crate::device::Device;
use crate::error::ModelError;

/// A linear layer; burn has a row for each input.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
}

impl Linear {
    pub(super) fn apply<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        linear(input, self.weight.clone(), self.bias.clone())
    }
}

/// Reads tensors onto a device.
pub(super) struct Loader<'a> {
    pub(super) weights: &'a Weights,
    pub(super) device: &'a Device,
}

impl Loader<'_> {
    pub(super) fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), &self.device.tensor)
    }

    pub(super) fn table(&self, name: &str, shape: [usize; 2]) -> Result<Tensor<2>, ModelError> {
        Ok(self.tensor(self.weights.read(name)?, shape))
    }

    pub(super) fn vector(&self, name: &str) -> Result<Tensor<1>, ModelError> {
        let values = self.weights.read(name)?;
        let length = values.len();
        Ok(self.tensor(values, [length]))
    }

    /// Several linear layers of one input as one, their outputs beside each other: each with
    /// its name and the size of its output. Files have a row for each output.
    pub(super) fn linears(
        &self,
        layers: &[(String, usize)],
        input: usize,
        biased: bool,
    ) -> Result<Linear, ModelError> {
        let output = layers.iter().map(|(_, size)| size).sum();
        let mut weight = vec![0.0; input * output];
        let mut bias = Vec::new();
        let mut first = 0;
        for (name, size) in layers {
            let rows = self.weights.read(&format!("{name}.weight"))?;
            for (column, row) in rows.chunks_exact(input).enumerate() {
                for (number, &value) in row.iter().enumerate() {
                    weight[number * output + first + column] = value;
                }
            }
            if biased {
                bias.extend(self.weights.read(&format!("{name}.bias"))?);
            }
            first += size;
        }
        Ok(Linear {
            weight: self.tensor(weight, [input, output]),
            bias: biased.then(|| self.tensor(bias, [output])),
        })
    }
}

/// Loads what a device may have no memory for: burn panics there.
pub(super) fn guarded<T>(
    device: &Device,
    load: impl FnOnce() -> Result<T, ModelError>,
) -> Result<T, ModelError> {
    let load = std::panic::AssertUnwindSafe(|| {
        let loaded = load()?;
        device
            .tensor
            .sync()
            .map_err(|error| ModelError::Device(error.to_string()))?;
        Ok(loaded)
    });
    std::panic::catch_unwind(load)
        .unwrap_or_else(|panic| Err(ModelError::Device(crate::panic_message(panic.as_ref()))))
}
