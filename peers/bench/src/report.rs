//! What a benchmark says: figures, each beside its peer's and held to its goal.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// At most so many times the peer's.
    RatioAtMost(f64),
    /// At least so many times the peer's.
    RatioAtLeast(f64),
    /// At most so much.
    AtMost(f64),
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// `sandbox.empty.1`.
    pub name: String,
    /// Ours; NaN where it could not be measured.
    pub value: f64,
    /// `us`, `ms`, `per s`, `KiB`, `syncs`.
    pub unit: &'static str,
    /// Whose figure it is compared with, and that figure.
    pub peer: Option<(&'static str, f64)>,
    /// What it must reach, if anything.
    pub goal: Option<Goal>,
}

impl Figure {
    /// Ours by the peer's.
    pub fn ratio(&self) -> Option<f64> {
        self.peer
            .map(|(_, value)| self.value / value)
            .filter(|ratio| ratio.is_finite())
    }

    /// Whether the goal is met; `None` where there is none, or nothing to compare with, or
    /// nothing was measured.
    pub fn met(&self) -> Option<bool> {
        if self.value.is_nan() {
            return None;
        }
        match self.goal? {
            Goal::RatioAtMost(most) => Some(self.ratio()? <= most),
            Goal::RatioAtLeast(least) => Some(self.ratio()? >= least),
            Goal::AtMost(most) => Some(self.value <= most),
        }
    }

    fn goal_text(&self) -> Option<String> {
        self.goal.map(|goal| match goal {
            Goal::RatioAtMost(most) => format!("at most {most}x"),
            Goal::RatioAtLeast(least) => format!("at least {least}x"),
            Goal::AtMost(most) => format!("at most {most} {}", self.unit),
        })
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            // Null for NaN.
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer.map(|(name, _)| name),
            "peer_value": self.peer.map(|(_, value)| value),
            "ratio": self.ratio(),
            "goal": self.goal_text(),
            "met": self.met(),
        })
    }
}

/// All figures of a benchmark.
#[derive(Debug)]
pub struct Report {
    /// Each with the time since the one before, or since the begin: of figures that were
    /// measured together, the first has all of it.
    figures: Vec<(Figure, Duration)>,
    last: Instant,
}

impl Report {
    /// Begins now.
    pub fn begin() -> Self {
        Self {
            figures: Vec::new(),
            last: Instant::now(),
        }
    }

    /// Adds a figure and prints it.
    pub fn add(&mut self, figure: Figure) {
        let measured = !figure.value.is_nan();
        let value = if measured {
            format!("{:.3}", figure.value)
        } else {
            "-".to_owned()
        };
        let mut line = format!("{:<36} {value:>10} {}", figure.name, figure.unit);
        if let Some((peer, value)) = figure.peer {
            line.push_str(&format!("; {peer} {value:.3}"));
        }
        if let Some(ratio) = figure.ratio() {
            line.push_str(&format!("; {ratio:.2}x"));
        }
        if let Some(goal) = figure.goal_text() {
            let met = match figure.met() {
                Some(true) => "met",
                Some(false) => "missed",
                None if measured => "not compared",
                None => "not measured",
            };
            line.push_str(&format!("; goal {goal}: {met}"));
        }
        println!("{line}");
        let before = std::mem::replace(&mut self.last, Instant::now());
        self.figures.push((figure, self.last - before));
    }

    /// What the benchmark took since its last figure, which is no figure's time; where there
    /// are figures.
    pub fn rest(&self) -> Option<Duration> {
        (!self.figures.is_empty()).then(|| self.last.elapsed())
    }

    /// The figures as `--json` writes them.
    pub fn json(&self) -> Value {
        let figures = self.figures.iter().map(|(figure, took)| {
            let mut json = figure.json();
            json["seconds"] = took.as_secs_f64().into();
            json
        });
        figures.collect()
    }
}

/// What is compared with, where it could be started; why it could not is printed, and all the
/// rest is measured without it.
pub fn compared<T>(name: &str, started: anyhow::Result<T>) -> Option<T> {
    started
        .inspect_err(|error| println!("not compared with {name}: {error:#}"))
        .ok()
}

/// The times of one side.
#[derive(Debug, Clone, Default)]
pub struct Times(pub(crate) Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Adds another's.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that so many percent are not longer than; zero where there is none.
    pub fn percentile(&mut self, percent: f64) -> Duration {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let index = (last as f64 * percent / 100.0).round() as usize;
        self.0.get(index).copied().unwrap_or_default()
    }

    /// `p50 61.2 us, p99 80.4 us of 4000`.
    pub fn text(&mut self) -> String {
        let (p50, p99) = (self.percentile(50.0), self.percentile(99.0));
        format!("p50 {}, p99 {} of {}", shown(p50), shown(p99), self.len())
    }
}

/// A duration with three digits or so.
pub fn shown(duration: Duration) -> String {
    let us = duration.as_secs_f64() * 1e6;
    if us < 1_000.0 {
        format!("{us:.1} us")
    } else if us < 1_000_000.0 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

/// The median; zero of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

/// Two sides measured in turns: the medians over all turns of each turn's figure.
#[derive(Debug, Default)]
pub struct Sides {
    ours: Vec<f64>,
    peer: Vec<f64>,
}

impl Sides {
    /// Adds one turn's figures.
    pub fn push(&mut self, ours: f64, peer: f64) {
        self.ours.push(ours);
        self.peer.push(peer);
    }

    /// Ours and the peer's.
    pub fn medians(&self) -> (f64, f64) {
        (median(self.ours.clone()), median(self.peer.clone()))
    }

    /// The smallest and the largest ratio of a turn, for a person to see the noise.
    pub fn spread(&self) -> String {
        let ratios = self.ours.iter().zip(&self.peer).map(|(a, b)| a / b);
        let (low, high) = ratios.fold((f64::MAX, f64::MIN), |(low, high), ratio| {
            (low.min(ratio), high.max(ratio))
        });
        format!("{low:.2}x to {high:.2}x over {} turns", self.ours.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, peer: Option<f64>, goal: Goal) -> Figure {
        Figure {
            name: "a.b".to_owned(),
            value,
            unit: "us",
            peer: peer.map(|value| ("peer", value)),
            goal: Some(goal),
        }
    }

    #[test]
    fn goals_are_met_or_not() {
        let at_most = Goal::RatioAtMost(1.2);
        assert_eq!(figure(12.0, Some(10.0), at_most).met(), Some(true));
        assert_eq!(figure(12.1, Some(10.0), at_most).met(), Some(false));
        assert_eq!(figure(12.0, None, at_most).met(), None);
        assert_eq!(figure(12.0, Some(0.0), at_most).met(), None);
        let at_least = Goal::RatioAtLeast(2.0);
        assert_eq!(figure(20.0, Some(10.0), at_least).met(), Some(true));
        assert_eq!(figure(19.0, Some(10.0), at_least).met(), Some(false));
        assert_eq!(figure(4.0, None, Goal::AtMost(4.0)).met(), Some(true));
        let json = figure(20.0, Some(10.0), at_least).json();
        assert_eq!(json["goal"], "at least 2x");
        assert_eq!(json["ratio"], 2.0);
        assert_eq!(json["met"], true);
    }

    #[test]
    fn what_was_not_measured_has_no_value_and_meets_nothing() {
        let without = figure(f64::NAN, None, Goal::AtMost(4.0));
        assert_eq!(without.met(), None);
        let json = without.json();
        assert!(json["value"].is_null() && json["met"].is_null(), "{json}");
        assert_eq!(json["goal"], "at most 4 us");
        let beside = figure(f64::NAN, Some(2.0), Goal::RatioAtLeast(1.0));
        assert_eq!((beside.ratio(), beside.met()), (None, None));
    }

    #[test]
    fn a_peer_that_does_not_start_is_left_out() {
        assert_eq!(compared("a peer", Ok(7)), Some(7));
        assert_eq!(compared::<u8>("a peer", Err(anyhow::anyhow!("no"))), None);
    }

    #[test]
    fn what_follows_the_last_figure_is_no_figures_time() {
        let mut report = Report::begin();
        assert_eq!(report.rest(), None);
        report.add(figure(1.0, None, Goal::AtMost(4.0)));
        let (last, rest) = (report.last, report.rest().unwrap());
        assert!(rest <= last.elapsed());
    }

    #[test]
    fn a_figure_has_the_time_since_the_one_before() {
        let mut report = Report::begin();
        let begun = report.last;
        report.add(figure(1.0, None, Goal::AtMost(4.0)));
        report.add(figure(2.0, None, Goal::AtMost(4.0)));
        let json = report.json();
        let seconds = [&json[0], &json[1]].map(|it| it["seconds"].as_f64().unwrap());
        let whole = (report.last - begun).as_secs_f64();
        assert!(seconds.iter().all(|it| *it >= 0.0), "{json}");
        assert!((seconds[0] + seconds[1] - whole).abs() < 1e-6, "{json}");
    }

    #[test]
    fn percentiles_and_medians() {
        let mut times = Times::default();
        for ms in 1..=101 {
            times.push(Duration::from_millis(ms));
        }
        assert_eq!(times.percentile(50.0), Duration::from_millis(51));
        assert_eq!(times.percentile(99.0), Duration::from_millis(100));
        assert_eq!(Times::default().percentile(50.0), Duration::ZERO);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
    }
}
