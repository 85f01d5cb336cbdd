//! How models are run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use heyday_capabilities::inference::remote::RemoteConfig;
use heyday_inference::service::{BatchOptions, GenerateOptions, QueueLimits};
use heyday_inference::{DeviceChoice, Options};
use serde::{Deserialize, Serialize};

use super::{ConfigError, wrong};
use crate::pulls::source::HubConfig;

/// Which device models run on, and what they may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InferenceConfig {
    /// `auto`, `cpu` or `gpu:N`.
    pub device: String,
    /// Where imported models are kept; `models` in the data folder where absent.
    pub models_dir: Option<PathBuf>,
    /// Bytes of all models in memory together; the one that was used longest ago leaves
    /// for another.
    pub memory_bytes: u64,
    /// Bytes of one model, at most; `memory_bytes` where absent, so that what is imported can be
    /// loaded. More is of use where other processes load it.
    pub model_bytes: Option<u64>,
    /// Models that are loaded at the start.
    pub warm_up: Vec<String>,
    /// Threads that compute on the CPU; one for each core where absent.
    pub threads: Option<usize>,
    /// Texts of one batch; 64 on the CPU and 256 on a GPU where absent.
    pub batch_texts: Option<usize>,
    /// Tokens of one batch; 4,096 on the CPU and 65,536 on a GPU where absent.
    pub batch_tokens: Option<u64>,
    /// How long a text waits for others to be computed with.
    #[serde(with = "heyday_durable::flow::duration::required")]
    pub batch_delay: Duration,
    /// Texts that are generated together; 16 on the CPU and 64 on a GPU where absent.
    pub generate_texts: Option<usize>,
    /// Tokens of one step: so much of prompts is read before all texts go on; 128 on the CPU
    /// and 512 on a GPU where absent.
    pub generate_tokens: Option<usize>,
    /// Bytes of what was read of all texts that are generated: their keys and values.
    pub cache_bytes: u64,
    /// Calls that wait or are computed; further ones are `busy`.
    pub queue_calls: usize,
    /// Bytes of their texts.
    pub queue_bytes: usize,
    /// Hubs that models may be pulled from, by the names that they have here.
    pub hubs: BTreeMap<String, HubConfig>,
    /// Models that run elsewhere, by the names that they have here.
    pub remote: BTreeMap<String, RemoteConfig>,
}

impl Default for InferenceConfig {
    fn default() -> Self {
        let (options, queue) = (Options::default(), QueueLimits::default());
        Self {
            device: options.device.to_string(),
            models_dir: None,
            memory_bytes: options.memory_bytes,
            model_bytes: None,
            warm_up: Vec::new(),
            threads: None,
            batch_texts: None,
            batch_tokens: None,
            batch_delay: Duration::from_millis(1),
            generate_texts: None,
            generate_tokens: None,
            cache_bytes: options.generate.cache_bytes,
            queue_calls: queue.requests,
            queue_bytes: queue.bytes,
            hubs: BTreeMap::new(),
            remote: BTreeMap::new(),
        }
    }
}

impl InferenceConfig {
    /// Every path that it names.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let remotes = self.remote.values_mut().flat_map(RemoteConfig::paths);
        let hubs = self
            .hubs
            .values_mut()
            .filter_map(|hub| hub.key_file.as_mut());
        self.models_dir.iter_mut().chain(remotes).chain(hubs)
    }

    /// Finds what cannot work.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Err(error) = self.device.parse::<DeviceChoice>() {
            return wrong("inference.device", &error.to_string());
        }
        for (name, holds, range) in [
            (
                "threads",
                self.threads.is_none_or(|n| (1..=1_024).contains(&n)),
                "1 to 1,024",
            ),
            (
                "batch_texts",
                self.batch_texts.is_none_or(|n| (1..=4_096).contains(&n)),
                "1 to 4,096",
            ),
            (
                "batch_tokens",
                self.batch_tokens.is_none_or(|n| (1..=1 << 22).contains(&n)),
                "1 to 4,194,304",
            ),
            (
                "generate_texts",
                self.generate_texts.is_none_or(|n| (1..=1_024).contains(&n)),
                "1 to 1,024",
            ),
            (
                "generate_tokens",
                self.generate_tokens
                    .is_none_or(|n| (1..=65_536).contains(&n)),
                "1 to 65,536",
            ),
            ("cache_bytes", self.cache_bytes >= 1 << 20, "1 MiB or more"),
            (
                "batch_delay",
                self.batch_delay <= Duration::from_secs(1),
                "0 to 1 s",
            ),
            (
                "queue_calls",
                (1..=1_000_000).contains(&self.queue_calls),
                "1 to 1,000,000",
            ),
            ("queue_bytes", self.queue_bytes >= 1 << 20, "1 MiB or more"),
            ("memory_bytes", self.memory_bytes > 0, "more than 0"),
            (
                "model_bytes",
                self.model_bytes.is_none_or(|n| n > 0),
                "more than 0",
            ),
        ] {
            if !holds {
                return wrong(&format!("inference.{name}"), &format!("it is {range}"));
            }
        }
        for (name, hub) in &self.hubs {
            let key = format!("inference.hubs.{name}");
            if !crate::names::is_name(name) {
                return wrong(&key, crate::names::NAME_RULE);
            }
            if let Err(error) = hub.check() {
                return wrong(&key, &error);
            }
        }
        for (name, remote) in &self.remote {
            let key = format!("inference.remote.{name}");
            if !heyday_inference::store::is_model_name(name) {
                return wrong(&key, &format!("`{name}` is no name of a model"));
            }
            if let Err(error) = remote.check() {
                return wrong(&key, &error.to_string());
            }
        }
        for name in &self.warm_up {
            if !heyday_inference::store::is_model_name(name) {
                return wrong(
                    "inference.warm_up",
                    &format!("`{name}` is no name of a model"),
                );
            }
        }
        Ok(())
    }

    /// Bytes of one model, at most.
    #[must_use]
    pub fn model_bytes(&self) -> u64 {
        self.model_bytes.unwrap_or(self.memory_bytes)
    }

    /// How the service is started.
    ///
    /// # Errors
    /// When the device's name is none.
    pub fn options(&self) -> Result<Options, heyday_inference::DeviceError> {
        let device: DeviceChoice = self.device.parse()?;
        let queue = QueueLimits::default();
        Ok(Options {
            device,
            memory_bytes: self.memory_bytes,
            batch: BatchOptions {
                sequences: self.batch_texts,
                tokens: self.batch_tokens,
                delay: Some(self.batch_delay),
            },
            generate: GenerateOptions {
                texts: self.generate_texts,
                tokens: self.generate_tokens,
                cache_bytes: self.cache_bytes,
            },
            queue: QueueLimits {
                requests: self.queue_calls,
                bytes: self.queue_bytes,
                ..queue
            },
            threads: self.threads,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn a_model_may_take_what_all_of_them_may_unless_that_is_said() {
        for (lines, expected) in [
            ("", 4_u64 << 30),
            ("memory_bytes = 100", 100),
            ("memory_bytes = 100\nmodel_bytes = 200", 200),
            ("model_bytes = 50", 50),
        ] {
            let config: Config = toml::from_str(&format!("[inference]\n{lines}\n")).expect(lines);
            config.check().expect(lines);
            assert_eq!(config.inference.model_bytes(), expected, "{lines}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_name() {
        for (line, name) in [
            ("device = 'cuda'", "inference.device"),
            ("threads = 0", "inference.threads"),
            ("batch_texts = 0", "inference.batch_texts"),
            ("batch_tokens = 0", "inference.batch_tokens"),
            ("batch_delay = '2s'", "inference.batch_delay"),
            ("generate_texts = 0", "inference.generate_texts"),
            ("generate_tokens = 0", "inference.generate_tokens"),
            ("cache_bytes = 1000", "inference.cache_bytes"),
            ("queue_calls = 0", "inference.queue_calls"),
            ("queue_bytes = 1000", "inference.queue_bytes"),
            ("memory_bytes = 0", "inference.memory_bytes"),
            ("model_bytes = 0", "inference.model_bytes"),
            ("warm_up = ['../x']", "inference.warm_up"),
        ] {
            let config: Config = toml::from_str(&format!("[inference]\n{line}\n")).expect(line);
            let error = config.check().expect_err(line).to_string();
            assert!(error.contains(name), "{error}");
        }
        for (name, lines, told) in [
            ("Big", "window = 512", "name of a model"),
            ("big", "window = 1", "its window"),
        ] {
            let text = format!(
                "[inference.remote.{name}]\nurl = 'http://127.0.0.1:9/v1'\nmodel = 'm'\n\
                 task = 'generate'\n{lines}\n"
            );
            let config: Config = toml::from_str(&text).expect("parsed");
            let error = config.check().expect_err(name).to_string();
            assert!(
                error.contains(&format!("inference.remote.{name}")),
                "{error}"
            );
            assert!(error.contains(told), "{error}");
        }
        let config: Config = toml::from_str("[inference]\ndevice = 'gpu:1'\n").expect("parsed");
        config.check().expect("works, where there is one");
    }
}
