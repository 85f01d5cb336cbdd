//! From weights in files to tensors on a device.

use burn_tensor::module::linear;
use burn_tensor::{Int, Tensor, TensorData};

use super::packed::Packed;
use super::weights::Weights;
use crate::device::Device;
use crate::error::ModelError;

/// A linear layer.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a model has a few of them, beside weights of megabytes"
)]
pub(super) enum Linear {
    /// On the CPU.
    Packed(Packed),
    /// On a GPU, with a row for each input.
    Device {
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    },
}

impl Linear {
    pub(super) fn apply(&self, input: Tensor<2>) -> Result<Tensor<2>, String> {
        match self {
            Self::Packed(packed) => {
                let (rows, device) = (input.dims()[0], input.device());
                let output = packed.apply(&bare(input)?);
                let shape = [rows, packed.outputs()];
                Ok(Tensor::from_data(TensorData::new(output, shape), &device))
            }
            Self::Device { weight, bias } => Ok(linear(input, weight.clone(), bias.clone())),
        }
    }

    /// The same of bare numbers on the CPU, as [`Packed::apply_to`].
    pub(super) fn apply_to(
        &self,
        input: &[f32],
        out: &mut [f32],
        threads: usize,
    ) -> Result<(), String> {
        match self {
            Self::Packed(packed) => {
                packed.apply_to(input, out, threads);
                Ok(())
            }
            Self::Device { .. } => Err("its weights are not on the CPU".to_owned()),
        }
    }
}

/// A row of numbers for each token.
#[derive(Debug)]
pub(super) enum Table {
    /// On the CPU.
    Packed(Packed),
    /// On a GPU.
    Device(Box<Tensor<2>>),
}

impl Table {
    /// The rows of tokens, which are in it.
    pub(super) fn select(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        match self {
            Self::Packed(packed) => {
                let rows: Vec<f32> = ids.iter().flat_map(|&id| packed.row(id as usize)).collect();
                let shape = [ids.len(), packed.inputs()];
                Tensor::from_data(TensorData::new(rows, shape), &device.tensor)
            }
            Self::Device(tensor) => {
                // Bounded by the table's size, which fits.
                let small = |&id| i32::try_from(id).unwrap_or_default();
                let small: Vec<i32> = ids.iter().map(small).collect();
                let small = TensorData::new(small, [ids.len()]);
                let ids = Tensor::<1, Int>::from_data(small, &device.tensor);
                Tensor::clone(tensor).select(0, ids)
            }
        }
    }

    /// The product of each row of the input with each of the table.
    pub(super) fn products(&self, input: Tensor<2>) -> Result<Vec<f32>, String> {
        match self {
            Self::Packed(packed) => Ok(packed.apply(&bare(input)?)),
            Self::Device(tensor) => bare(input.matmul(Tensor::clone(tensor).transpose())),
        }
    }
}

/// A tensor's numbers.
pub(super) fn bare<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, String> {
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|error| error.to_string())
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

    /// A table that is multiplied with, too.
    pub(super) fn multiplied(&self, name: &str, shape: [usize; 2]) -> Result<Table, ModelError> {
        if self.device.is_gpu() {
            return Ok(Table::Device(Box::new(self.table(name, shape)?)));
        }
        let [rows, width] = shape;
        let mut packed = Packed::new(width, rows);
        packed.set_rows(0, &self.weights.read(name)?);
        Ok(Table::Packed(packed))
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
        let biases = |name: &str| self.weights.read(&format!("{name}.bias"));
        if !self.device.is_gpu() {
            let mut packed = Packed::new(input, output);
            let mut first = 0;
            for (name, size) in layers {
                packed.set_rows(first, &self.weights.read(&format!("{name}.weight"))?);
                if biased {
                    packed.set_bias(first, &biases(name)?);
                }
                first += size;
            }
            return Ok(Linear::Packed(packed));
        }
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
                bias.extend(biases(name)?);
            }
            first += size;
        }
        Ok(Linear::Device {
            weight: self.tensor(weight, [input, output]),
            bias: biased.then(|| self.tensor(bias, [output])),
        })
    }
}

/// Loads what a device may have no memory for: burn panics there. The CPU is never lost, so that a
/// panic on it is of the model's making.
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
    std::panic::catch_unwind(load).unwrap_or_else(|panic| {
        let message = crate::panic_message(panic.as_ref());
        Err(if device.is_gpu() {
            ModelError::Device(message)
        } else {
            ModelError::Damaged {
                file: "model".to_owned(),
                message,
            }
        })
    })
}
