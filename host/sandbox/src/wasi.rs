//! WASI 0.2 with nothing behind it: no files, no environment, no arguments, no sockets.
//!
//! Clocks and random numbers are real, except for `describe`, whose answer must be the
//! same each time. What a guest prints becomes debug lines of its log, and the end of
//! its standard error is kept: that is where a panic says what happened.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{Deterministic, HostMonotonicClock, HostWallClock, WasiCtx};

use crate::call::LogLevel;
use crate::control::Control;

/// The longest line that is kept together, in bytes.
const LINE: usize = 4 << 10;
/// The most random bytes that a guest gets at once.
const RANDOM: u64 = 1 << 20;

struct Fixed;

impl HostWallClock for Fixed {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }
    fn now(&self) -> Duration {
        // 2020-01-01T00:00:00Z: a date that no guest takes for an error.
        Duration::from_secs(1_577_836_800)
    }
}

impl HostMonotonicClock for Fixed {
    fn resolution(&self) -> u64 {
        1
    }
    fn now(&self) -> u64 {
        0
    }
}

/// A context for one call.
pub(crate) fn context(control: &Arc<Control>) -> WasiCtx {
    let stdio = |keep| Stdio {
        control: Arc::clone(control),
        keep,
    };
    let mut builder = WasiCtx::builder();
    builder
        .max_random_size(RANDOM)
        .stdout(stdio(false))
        .stderr(stdio(true));
    builder.build()
}

/// A context in which everything is the same each time.
pub(crate) fn deterministic() -> WasiCtx {
    let mut builder = WasiCtx::builder();
    builder
        .max_random_size(RANDOM)
        .wall_clock(Fixed)
        .monotonic_clock(Fixed)
        .secure_random(Deterministic::new(vec![4, 8, 15, 16, 23, 42]))
        .insecure_random(Deterministic::new(vec![4, 8, 15, 16, 23, 42]))
        .insecure_random_seed(0x6865_7964_6179);
    builder.build()
}

#[derive(Clone)]
struct Stdio {
    control: Arc<Control>,
    keep: bool,
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines::new(self.clone()))
    }
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines::new(self.clone()))
    }
}

/// Cuts what a guest prints into lines.
struct Lines {
    to: Stdio,
    line: Vec<u8>,
}

impl Lines {
    const fn new(to: Stdio) -> Self {
        Self {
            to,
            line: Vec::new(),
        }
    }

    fn print(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
            }
            if *byte == b'\n' || self.line.len() >= LINE {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let line = String::from_utf8_lossy(&self.line);
        if self.to.keep {
            self.to.control.keep_error(&line);
        }
        self.to.control.log(LogLevel::Debug, &line, None);
        self.line.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end_line();
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.print(&bytes);
        Ok(())
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

impl AsyncWrite for Lines {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.print(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
