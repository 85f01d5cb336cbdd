//! Long work made visible: a spinner or a bar on stderr while it goes on, one line
//! when it is done.
//!
//! On a terminal indicatif draws; elsewhere (a CI log) each step is one plain line.
//! With `--output json` nothing is shown: the reader is a program.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{Output, one_line};
use super::view;

/// One piece of long work.
#[derive(Debug)]
pub struct Step {
    bar: ProgressBar,
    output: Output,
    begun: Instant,
}

/// Whether stderr can be drawn on.
fn drawable(output: &Output) -> bool {
    !output.is_json() && std::io::stderr().is_terminal()
}

fn bar(output: &Output, length: Option<u64>, template: &str) -> ProgressBar {
    let target = if drawable(output) {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(length, target);
    // The templates are constants; a wrong one would fall back to the default.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ").progress_chars("━╸─"));
    }
    bar
}

impl Step {
    /// Work of unknown length.
    pub fn spinner(output: &Output, message: &str) -> Self {
        let bar = bar(output, None, "{spinner} {wide_msg} {elapsed:>5}");
        bar.set_message(one_line(message));
        if drawable(output) {
            bar.enable_steady_tick(Duration::from_millis(100));
        } else {
            output.note(&one_line(message));
        }
        Self {
            bar,
            output: *output,
            begun: Instant::now(),
        }
    }

    /// Work on so many bytes.
    pub fn bytes(output: &Output, message: &str, length: u64) -> Self {
        let bar = bar(
            output,
            Some(length),
            "{spinner} {msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}",
        );
        bar.set_message(one_line(message));
        if !drawable(output) {
            output.note(&one_line(message));
        }
        Self {
            bar,
            output: *output,
            begun: Instant::now(),
        }
    }

    /// Whether anybody sees what [`message`](Self::message) says.
    pub fn is_drawn(&self) -> bool {
        drawable(&self.output)
    }

    /// The bar, to be moved by the work itself.
    pub fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    /// Says what is being done now.
    pub fn message(&self, message: &str) {
        self.bar.set_message(one_line(message));
    }

    /// Says which part of it begins, in a log too: one may take minutes.
    pub fn part(&self, message: &str) {
        self.message(message);
        if !self.is_drawn() {
            self.output.note(&format!("  {}", one_line(message)));
        }
    }

    /// Ends it well: one line that says what was done, and how long it took where
    /// that was noticeable.
    pub fn done(self, message: &str) {
        self.bar.finish_and_clear();
        let took = self.begun.elapsed();
        let mark = self.output.err_style.good("✓");
        if took >= Duration::from_secs(1) {
            let took = self
                .output
                .err_style
                .dim(&format!("in {}", view::duration(took)));
            self.output.note(&format!("{mark} {message} {took}"));
        } else {
            self.output.note(&format!("{mark} {message}"));
        }
    }

    /// Ends it without a word.
    pub fn clear(self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Step {
    /// An error on the way must not leave a spinner behind.
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
        }
    }
}
