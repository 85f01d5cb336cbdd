//! How the service is set up.

use std::time::Duration;

use super::generate::GenerateOptions;
use super::queue::BatchLimits;
use crate::device::{Device, DeviceChoice};

/// How the service is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where models compute.
    pub device: DeviceChoice,
    /// Bytes of all models in memory together.
    pub memory_bytes: u64,
    /// Sizes of batches.
    pub batch: BatchOptions,
    /// How texts are generated.
    pub generate: GenerateOptions,
    /// Bounds on what waits.
    pub queue: QueueLimits,
    /// Threads that compute on the CPU; one for each core where absent.
    pub threads: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: DeviceChoice::default(),
            memory_bytes: 4 << 30,
            batch: BatchOptions::default(),
            generate: GenerateOptions::default(),
            queue: QueueLimits::default(),
            threads: None,
        }
    }
}

/// Sizes of batches; those that suit the device where absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchOptions {
    /// Sequences of one batch.
    pub sequences: Option<usize>,
    /// Tokens of one batch; one sequence may have more.
    pub tokens: Option<u64>,
    /// How long a sequence waits for others, where a batch is not full.
    pub delay: Option<Duration>,
}

/// Bounds on what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Requests that were not answered yet, of all callers; one plugin may have half of them,
    /// one namespace three quarters.
    pub requests: usize,
    /// Bytes of their texts, shared alike.
    pub bytes: usize,
    /// Texts of one request.
    pub request_texts: usize,
    /// Bytes of the texts of one request.
    pub request_bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            requests: 1_024,
            bytes: 64 << 20,
            request_texts: 2_048,
            request_bytes: 8 << 20,
        }
    }
}

/// A CPU gains little from more than a few thousand tokens, and others wait meanwhile.
pub(super) fn batch_limits(device: &Device, wanted: &BatchOptions) -> BatchLimits {
    let (sequences, tokens) = if device.is_gpu() {
        (256, 65_536)
    } else {
        (64, 4_096)
    };
    BatchLimits {
        sequences: wanted.sequences.unwrap_or(sequences),
        tokens: wanted.tokens.unwrap_or(tokens),
        delay: wanted.delay.unwrap_or(Duration::from_millis(1)),
    }
}
