//! `heyday:plugin`: what a plugin exports, and the two interfaces that every plugin may
//! import, implemented here.

use std::time::Instant;

use wasmtime::component::{HasSelf, Linker};

use crate::call::LogLevel;
use crate::state::CallState;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/plugin",
        world: "plugin",
        imports: { default: trappable },
        exports: { default: async },
    });
}

pub(crate) use bindings::PluginPre;
pub(crate) use bindings::exports::heyday::plugin::activities::Failure;

use bindings::heyday::plugin::{context, log};

/// Longest details of a heartbeat, in bytes.
const DETAILS: usize = 64 << 10;
/// Longest message of a progress report that is passed on, in bytes.
const PROGRESS: usize = 1 << 10;

/// Adds `context` and `log` to the linker.
pub(crate) fn link(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    context::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)?;
    log::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
}

/// Cuts a text to so many bytes, between characters.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn error(code: &str, message: String) -> context::Error {
    context::Error {
        code: code.to_owned(),
        message,
        retryable: false,
        details: None,
    }
}

impl context::Host for CallState {
    fn current(&mut self) -> wasmtime::Result<context::Attempt> {
        self.count_host_call("context", "current")?;
        let attempt = &self.attempt;
        Ok(context::Attempt {
            namespace: attempt.namespace.clone(),
            workflow_id: attempt.workflow_id.clone(),
            run_id: attempt.run_id.clone(),
            activity_id: attempt.activity_id.clone(),
            activity_type: attempt.activity_type.clone(),
            queue: attempt.queue.clone(),
            attempt: attempt.attempt,
        })
    }

    fn idempotency_key(&mut self) -> wasmtime::Result<String> {
        self.count_host_call("context", "idempotency-key")?;
        Ok(self.attempt.idempotency_key.clone())
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        self.count_host_call("context", "remaining-ms")?;
        let left = self
            .control
            .context
            .deadline
            .saturating_duration_since(Instant::now());
        Ok(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    fn is_cancelled(&mut self) -> wasmtime::Result<bool> {
        self.count_host_call("context", "is-cancelled")?;
        Ok(self.control.cancelled())
    }

    fn cancellation_reason(&mut self) -> wasmtime::Result<Option<String>> {
        self.count_host_call("context", "cancellation-reason")?;
        Ok(self.control.cancellation_reason().map(str::to_owned))
    }

    fn heartbeat(
        &mut self,
        details: Option<String>,
    ) -> wasmtime::Result<Result<(), context::Error>> {
        self.count_host_call("context", "heartbeat")?;
        if let Some(text) = &details {
            if text.len() > DETAILS {
                return Ok(Err(error(
                    "too-large",
                    format!(
                        "the details have {} bytes, more than the {DETAILS} allowed; keep \
                         what the next attempt needs and store the rest",
                        text.len()
                    ),
                )));
            }
            if let Err(problem) = crate::json::check(text) {
                return Ok(Err(error(
                    "invalid-json",
                    format!("the details are not one JSON value: {problem}"),
                )));
            }
        }
        self.control.heartbeat(details);
        Ok(Ok(()))
    }

    fn last_heartbeat(&mut self) -> wasmtime::Result<Option<String>> {
        self.count_host_call("context", "last-heartbeat")?;
        Ok(self.attempt.last_heartbeat.clone())
    }

    fn progress(&mut self, completed: u64, total: u64, message: String) -> wasmtime::Result<()> {
        self.count_host_call("context", "progress")?;
        self.control.progress(completed, total, &message, PROGRESS);
        Ok(())
    }
}

impl log::Host for CallState {
    fn write(
        &mut self,
        level: log::Level,
        message: String,
        fields: Option<String>,
    ) -> wasmtime::Result<()> {
        self.count_host_call("log", "write")?;
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        let fields = fields.map(|text| match crate::json::check(&text) {
            Ok(()) if text.trim_start().starts_with('{') => text,
            _ => serde_json::json!({ "fields": text }).to_string(),
        });
        self.control.log(level, &message, fields.as_deref());
        Ok(())
    }
}
