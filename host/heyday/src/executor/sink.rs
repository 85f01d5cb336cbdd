//! Where a guest's messages go: heartbeats and progress up to the engine, log lines
//! also to the records.

use std::sync::Arc;

use bytes::Bytes;
use heyday_durable::activity::{AttemptSink, LogLevel, LogLine, Progress};
use heyday_durable::payload::Payload;
use heyday_sandbox::call::{CallSink, LogLevel as GuestLevel};
use jiff::Timestamp;

use crate::recorder::{AttemptName, Records};

pub(super) struct Sink {
    pub(super) engine: Arc<dyn AttemptSink>,
    pub(super) records: Arc<dyn Records>,
    pub(super) attempt: Arc<AttemptName>,
}

impl CallSink for Sink {
    fn heartbeat(&self, details: Option<String>) {
        self.engine
            .heartbeat(details.map(|text| Payload::json_bytes(Bytes::from(text))));
    }

    fn progress(&self, completed: u64, total: u64, message: &str) {
        let progress = Progress {
            completed,
            total,
            message: message.to_owned(),
        };
        self.records.progress(&self.attempt, &progress);
        self.engine.progress(progress);
    }

    fn log(&self, level: GuestLevel, message: &str, fields: Option<&str>) {
        let fields = fields
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let line = LogLine {
            at: Timestamp::now(),
            level: match level {
                GuestLevel::Trace => LogLevel::Trace,
                GuestLevel::Debug => LogLevel::Debug,
                GuestLevel::Info => LogLevel::Info,
                GuestLevel::Warn => LogLevel::Warn,
                GuestLevel::Error => LogLevel::Error,
            },
            message: message.to_owned(),
            fields,
        };
        self.records.log(&self.attempt, line.clone());
        self.engine.log(line);
    }
}
