//! Limits: of calls, of compiling, of requests, and on how much runs.

use std::collections::BTreeMap;
use std::time::Duration;

use heyday_capabilities::http::PluginHttpLimits;
use heyday_durable::driver::RunLimits;
use heyday_sandbox::Limits;
use serde::{Deserialize, Serialize};

use super::{ConfigError, MAX_CALLS, MAX_UPLOAD_BYTES, wrong};
use crate::names;

/// Limits on what plugins and requests may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Of one call of any plugin.
    pub call: Limits,
    /// Of requests that plugins make by HTTP.
    pub http: PluginHttpLimits,
    /// Of one call of that plugin, in its place; whole, in every namespace.
    pub plugins: BTreeMap<String, Limits>,
    /// How much of that plugin runs in one process, in each namespace that has one of that name.
    pub throttle: BTreeMap<String, ThrottleConfig>,
    /// Which share of the machine may be in use for an activity to be taken from a Temporal
    /// cluster; the queues' limits are then what is taken at most.
    pub resources: ResourcesConfig,
    /// Bytes of an uploaded component, at most 1 GiB.
    pub upload_bytes: usize,
    /// CPU time that compiling one component may take.
    #[serde(with = "heyday_durable::flow::duration::required")]
    pub compile_cpu: Duration,
    /// Memory that compiling one component may take, in bytes.
    pub compile_memory_bytes: u64,
    /// Bytes of compiled code that are kept in the cache folder, by all servers that
    /// share it together; what was used longest ago goes first. 2 GiB where absent.
    pub cache_bytes: u64,
    /// Guests that compute at once; as many as the machine has cores where absent.
    pub guest_threads: Option<usize>,
    /// Events of a run's history, 10 to 50,000, after which it continues as a new run where
    /// its flow lets it; on a Temporal cluster it does so, too, when the cluster suggests it.
    pub history_events: u64,
    /// How many days receipts, log lines and refused host calls in the audit are kept.
    pub record_days: u32,
    /// Connections of the API at once, 16 to 65,536; further ones wait.
    pub connections: usize,
    /// Requests at once that wait (`?wait=`) or stream, fewer than connections; further
    /// ones are refused.
    pub waiting: usize,
}

/// How much of one plugin runs in one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThrottleConfig {
    /// Attempts at once, at least 1; as many as the queues let where absent.
    pub concurrent: Option<usize>,
    /// Attempts that begin each second, 0.001 to 1,000,000; as many as come where absent.
    pub per_second: Option<f64>,
}

/// Which share of the machine may be in use for a worker to take an activity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourcesConfig {
    /// Share of the memory, above 0 and up to 1, of the container where there is one.
    pub memory: Option<f64>,
    /// Share of the CPUs, above 0 and up to 1.
    pub cpu: Option<f64>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            call: Limits::default(),
            http: PluginHttpLimits::default(),
            plugins: BTreeMap::new(),
            throttle: BTreeMap::new(),
            resources: ResourcesConfig::default(),
            upload_bytes: 64 << 20,
            compile_cpu: Duration::from_secs(120),
            compile_memory_bytes: 2 << 30,
            cache_bytes: heyday_sandbox::CACHE_BYTES,
            guest_threads: None,
            history_events: RunLimits::default().history_events,
            record_days: 30,
            connections: 1024,
            waiting: 768,
        }
    }
}

impl LimitsConfig {
    /// Finds what cannot work.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_call(&self.call, "limits.call")?;
        for (name, limits) in &self.plugins {
            let setting = format!("limits.plugins.{name}");
            if !names::is_name(name) {
                return wrong(&setting, names::NAME_RULE);
            }
            check_call(limits, &setting)?;
        }
        for (name, throttle) in &self.throttle {
            let setting = format!("limits.throttle.{name}");
            if !names::is_name(name) {
                return wrong(&setting, names::NAME_RULE);
            }
            if throttle
                .concurrent
                .is_some_and(|places| !(1..=MAX_CALLS).contains(&places))
            {
                return wrong(
                    &format!("{setting}.concurrent"),
                    "a plugin runs 1 to 5,000 attempts at once",
                );
            }
            if throttle
                .per_second
                .is_some_and(|rate| !(0.001..=1_000_000.0).contains(&rate))
            {
                return wrong(
                    &format!("{setting}.per_second"),
                    "a plugin begins 0.001 to 1,000,000 attempts each second",
                );
            }
        }
        let http = &self.http;
        for (name, limit) in [
            ("request_bytes", http.request_bytes),
            ("response_bytes", http.response_bytes),
            ("open_requests", u64::from(http.open_requests)),
            ("concurrent_requests", u64::from(http.concurrent_requests)),
            ("silence_ms", http.silence_ms),
        ] {
            if limit == 0 {
                return wrong(
                    &format!("limits.http.{name}"),
                    "no request could ever be made; grants decide who makes any",
                );
            }
        }
        for (name, share) in [
            ("memory", self.resources.memory),
            ("cpu", self.resources.cpu),
        ] {
            if share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
                return wrong(
                    &format!("limits.resources.{name}"),
                    "a share is above 0 and at most 1, such as 0.8",
                );
            }
        }
        if !(1..=MAX_UPLOAD_BYTES).contains(&self.upload_bytes) {
            return wrong("limits.upload_bytes", "an upload has 1 byte to 1 GiB");
        }
        if self.compile_cpu.is_zero() {
            return wrong(
                "limits.compile_cpu",
                "nothing compiles in no time; use 120s",
            );
        }
        if self.compile_memory_bytes == 0 {
            return wrong(
                "limits.compile_memory_bytes",
                "nothing compiles without memory; use 2147483648 (2 GiB)",
            );
        }
        if self.record_days == 0 {
            return wrong(
                "limits.record_days",
                "what attempts leave is kept for a day at least",
            );
        }
        if self.cache_bytes == 0 {
            return wrong(
                "limits.cache_bytes",
                "what is compiled must be kept somewhere; use 2147483648 (2 GiB)",
            );
        }
        if self.guest_threads == Some(0) {
            return wrong(
                "limits.guest_threads",
                "at least one guest must be able to compute",
            );
        }
        if !(10..=50_000).contains(&self.history_events) {
            return wrong(
                "limits.history_events",
                "a run has 10 to 50,000 events before it continues as a new one",
            );
        }
        if !(16..=65_536).contains(&self.connections) {
            return wrong(
                "limits.connections",
                "the API has 16 to 65,536 connections at once",
            );
        }
        if !(1..self.connections).contains(&self.waiting) {
            return wrong(
                "limits.waiting",
                "at least 1 request may wait, and fewer than there are connections",
            );
        }
        Ok(())
    }
}

/// Limits under which nothing could ever run.
fn check_call(limits: &Limits, setting: &str) -> Result<(), ConfigError> {
    for (name, is_none) in [
        ("memory_bytes", limits.memory_bytes == 0),
        ("table_elements", limits.table_elements == 0),
        ("output_bytes", limits.output_bytes == 0),
        ("time_ms", limits.time_ms == 0),
    ] {
        if is_none {
            return wrong(
                &format!("{setting}.{name}"),
                "with 0 no call could ever be answered; leave it out for the default",
            );
        }
    }
    Ok(())
}
