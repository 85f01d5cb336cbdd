//! Weights in safetensors files: their headers are read and checked first, then one tensor
//! at a time.
//!
//! The format is a little-endian length, a JSON header of that many bytes and the tensors'
//! bytes. Only the header is trusted with nothing: sizes are compared with the file's before
//! anything is allocated by them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Mutex;

use half::{bf16, f16};
use serde::Deserialize;

use super::config::{Limits, TensorShape};
use super::files::{ModelFiles, WEIGHTS, WEIGHTS_INDEX};
use crate::error::ModelError;

/// Bytes of one file's header: 1,000 tensors take 100 KB.
const HEADER_BYTES: u64 = 16 << 20;
/// Files of one model's weights.
const PARTS: usize = 512;
const WHY: &str = "it holds the weights, as safetensors";

/// What a file's header says of one tensor.
#[derive(Debug, Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

#[derive(Debug)]
struct Tensor {
    part: usize,
    /// Where it begins in its file.
    offset: u64,
    /// `None`: no number that weights are made of, such as positions.
    number: Option<Number>,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
}

#[derive(Debug)]
struct Part {
    name: String,
    file: Mutex<File>,
}

/// Weights whose headers were read.
#[derive(Debug)]
pub struct Weights {
    parts: Vec<Part>,
    tensors: BTreeMap<String, Tensor>,
    /// What stands before each name: a model that was saved with a head puts `bert.` there.
    prefix: String,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

/// The names of the files that the index lists.
pub(crate) fn parts(files: &ModelFiles) -> Result<Vec<String>, ModelError> {
    let index: RawIndex = files.json(WEIGHTS_INDEX, WHY)?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    for name in &names {
        let plain = name.ends_with(".safetensors")
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !name.starts_with('.');
        if !plain {
            return Err(damaged(
                WEIGHTS_INDEX,
                format!("it names the file {name:?}, which is no name of a part"),
            ));
        }
    }
    if names.len() > PARTS {
        return Err(ModelError::TooLarge(format!(
            "its weights lie in {} files, more than {PARTS}",
            names.len()
        )));
    }
    Ok(names.into_iter().collect())
}

fn damaged(file: &str, message: impl Into<String>) -> ModelError {
    ModelError::Damaged {
        file: file.to_owned(),
        message: message.into(),
    }
}

impl Weights {
    /// Opens the files and reads their headers. `word` is the table of words, which every
    /// model of its family has; `prefixes` may stand before each name.
    ///
    /// # Errors
    /// A file that is missing, damaged or larger than a model may be.
    pub fn open(
        files: &ModelFiles,
        limits: &Limits,
        word: &str,
        prefixes: &[&str],
    ) -> Result<Self, ModelError> {
        let names = if files.has(WEIGHTS) || !files.has(WEIGHTS_INDEX) {
            vec![WEIGHTS.to_owned()]
        } else {
            parts(files)?
        };
        let mut weights = Self {
            parts: Vec::new(),
            tensors: BTreeMap::new(),
            prefix: String::new(),
        };
        let mut total = 0_u64;
        for name in names {
            let mut file = files.open(&name, WHY)?;
            let size = file
                .metadata()
                .map_err(|error| damaged(&name, error.to_string()))?
                .len();
            total = total.saturating_add(size);
            if total > limits.model_bytes {
                return Err(ModelError::TooLarge(format!(
                    "its weights have more than {} bytes (`model_bytes`)",
                    limits.model_bytes
                )));
            }
            let part = weights.parts.len();
            for (tensor, found) in read_header(&name, &mut file, size, part)? {
                if weights.tensors.insert(tensor.clone(), found).is_some() {
                    return Err(damaged(&name, format!("a second tensor is named {tensor}")));
                }
            }
            weights.parts.push(Part {
                name,
                file: Mutex::new(file),
            });
        }
        weights.prefix = prefixes
            .iter()
            .copied()
            .find(|prefix| weights.tensors.contains_key(&format!("{prefix}{word}")))
            .ok_or_else(|| {
                ModelError::Mismatch(format!(
                    "the weights have no {word}, which every model of its family has"
                ))
            })?
            .to_owned();
        Ok(weights)
    }

    /// Compares the header with what the configuration says must be there.
    ///
    /// # Errors
    /// The first tensor that is missing, or has another shape or other numbers.
    pub fn check(&self, wanted: &[TensorShape]) -> Result<(), ModelError> {
        for wanted in wanted {
            let tensor = self.find(&wanted.name).ok_or_else(|| {
                ModelError::Mismatch(format!(
                    "the configuration needs the tensor {}, which the weights do not have",
                    wanted.name
                ))
            })?;
            let same = tensor.shape.len() == wanted.shape.len()
                && tensor
                    .shape
                    .iter()
                    .zip(&wanted.shape)
                    .all(|(&found, &wanted)| found == wanted as u64);
            if !same {
                return Err(ModelError::Mismatch(format!(
                    "the tensor {} has the shape {:?}; the configuration says {:?}",
                    wanted.name, tensor.shape, wanted.shape
                )));
            }
            if tensor.number.is_none() {
                return Err(ModelError::Unsupported(format!(
                    "the tensor {} is of {}; F32, F16 and BF16 are read",
                    wanted.name, tensor.dtype
                )));
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        let named = |name: &str| {
            self.tensors
                .get(&format!("{}{name}", self.prefix))
                // Heads stand beside the model.
                .or_else(|| self.tensors.get(name))
        };
        named(name).or_else(|| {
            // As the first BERT models were saved.
            let old = name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta");
            (old != name).then(|| named(&old)).flatten()
        })
    }

    /// One tensor, as F32. Its shape was checked.
    ///
    /// # Errors
    /// When it cannot be read, or holds what is no finite number.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let missing = || ModelError::Mismatch(format!("the weights have no tensor {name}"));
        let tensor = self.find(name).ok_or_else(missing)?;
        let part = self.parts.get(tensor.part).ok_or_else(missing)?;
        let number = tensor.number.ok_or_else(missing)?;
        let length = usize::try_from(tensor.bytes)
            .map_err(|_| ModelError::TooLarge(format!("the tensor {name}")))?;
        let mut bytes = vec![0; length];
        {
            let mut file = part
                .file
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            file.seek(SeekFrom::Start(tensor.offset))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(|error| damaged(&part.name, format!("{name} cannot be read: {error}")))?;
        }
        let values: Vec<f32> = match number {
            Number::F32 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
            Number::F16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
                .collect(),
            Number::Bf16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
                .collect(),
        };
        if !values.iter().all(|value| value.is_finite()) {
            return Err(damaged(
                &part.name,
                format!("the tensor {name} holds what is no number"),
            ));
        }
        Ok(values)
    }
}

/// The tensors of one file, checked against its size.
fn read_header(
    name: &str,
    file: &mut File,
    size: u64,
    part: usize,
) -> Result<Vec<(String, Tensor)>, ModelError> {
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| damaged(name, "it ends before its header"))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES || length > size.saturating_sub(8) {
        return Err(damaged(
            name,
            format!("its header would have {length} bytes, of {size} in the file"),
        ));
    }
    let mut header = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact(&mut header)
        .map_err(|_| damaged(name, "it ends in its header"))?;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header)
        .map_err(|error| damaged(name, format!("its header is no JSON: {error}")))?;
    let start = 8 + length;
    let mut tensors = Vec::with_capacity(header.len());
    for (tensor, value) in header {
        if tensor == "__metadata__" {
            continue;
        }
        let raw: RawTensor = serde_json::from_value(value)
            .map_err(|error| damaged(name, format!("the tensor {tensor}: {error}")))?;
        let (begin, end) = raw.data_offsets;
        let within = begin <= end && end <= size - start;
        if !within {
            return Err(damaged(
                name,
                format!(
                    "the tensor {tensor} would lie at {begin} to {end}, of {} bytes: the file may \
                     be cut off",
                    size - start
                ),
            ));
        }
        let number = match raw.dtype.as_str() {
            "F32" => Some(Number::F32),
            "F16" => Some(Number::F16),
            "BF16" => Some(Number::Bf16),
            _ => None,
        };
        if let Some(number) = number {
            let bytes = raw
                .shape
                .iter()
                .try_fold(number.bytes(), |sum, &size| sum.checked_mul(size));
            if bytes != Some(end - begin) {
                return Err(damaged(
                    name,
                    format!(
                        "the tensor {tensor} has {} bytes, which its shape {:?} of {} does not",
                        end - begin,
                        raw.shape,
                        raw.dtype
                    ),
                ));
            }
        }
        tensors.push((
            tensor,
            Tensor {
                part,
                offset: start + begin,
                number,
                dtype: raw.dtype,
                shape: raw.shape,
                bytes: end - begin,
            },
        ));
    }
    Ok(tensors)
}
