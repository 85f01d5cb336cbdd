//! Where the time of a run goes, beside what it may take.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::seconds;

/// What a run of all benchmarks may take where nothing was built or fetched before.
const WHOLE: Duration = Duration::from_secs(80 * 60);
/// What one figure may take.
const FIGURE: Duration = Duration::from_secs(5 * 60);
/// What takes less was there already, and is not listed.
const LISTED: Duration = Duration::from_millis(100);

/// What time is spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Compiling, with the crates and modules that are fetched for it.
    Builds,
    /// Fetching and installing peers, servers and weights.
    Fetching,
    /// Measuring.
    Benchmarks,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Builds, Self::Fetching, Self::Benchmarks];

    const fn text(self) -> &'static str {
        match self {
            Self::Builds => "builds",
            Self::Fetching => "fetching",
            Self::Benchmarks => "benchmarks",
        }
    }
}

/// One part of a run.
#[derive(Debug)]
struct Spent {
    kind: Kind,
    name: String,
    took: Duration,
}

/// The parts of a run, as they end; those that are had side by side each with its own time.
#[derive(Debug)]
pub struct Times {
    start: Instant,
    parts: Mutex<Vec<Spent>>,
}

impl Times {
    /// Begins now.
    pub fn begin() -> Self {
        Self {
            start: Instant::now(),
            parts: Mutex::default(),
        }
    }

    /// Does a part, and counts it, also where it fails.
    pub fn count<T>(&self, kind: Kind, name: &str, part: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = part();
        self.add(kind, name, start.elapsed());
        done
    }

    fn add(&self, kind: Kind, name: &str, took: Duration) {
        let name = name.to_owned();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push(Spent { kind, name, took });
    }

    /// All of it until now.
    pub fn whole(&self) -> Duration {
        self.start.elapsed()
    }

    /// Each kind and its parts, all of it, and the figure that took longest.
    pub fn text(&self, whole: Duration, figures: &[Value]) -> String {
        self.lines(whole, figures).join("\n")
    }

    fn lines(&self, whole: Duration, figures: &[Value]) -> Vec<String> {
        let mut lines = Vec::new();
        let all = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in Kind::ALL {
            let parts = || all.iter().filter(move |part| part.kind == kind);
            let sum: Duration = parts().map(|part| part.took).sum();
            let listed: Vec<String> = parts()
                .filter(|part| part.took >= LISTED)
                .map(|part| format!("{} {}", part.name, seconds(part.took)))
                .collect();
            let line = format!(
                "{:<10} {:>9}  {}",
                kind.text(),
                seconds(sum),
                listed.join(", ")
            );
            lines.push(line.trim_end().to_owned());
        }
        lines.push(format!(
            "{:<10} {:>9}  {}",
            "together",
            seconds(whole),
            against(whole, WHOLE)
        ));
        if let Some((name, took)) = each(figures).max_by_key(|(_, took)| *took) {
            lines.push(format!(
                "{:<10} {:>9}  {}, the longest: {name}",
                "one figure",
                seconds(took),
                against(took, FIGURE)
            ));
        }
        lines
    }
}

/// What took more than it may: all of it, and each such figure.
pub fn over(whole: Duration, figures: &[Value]) -> Vec<String> {
    std::iter::once(("all of it", whole, WHOLE))
        .chain(each(figures).map(|(name, took)| (name, took, FIGURE)))
        .filter(|(_, took, most)| took > most)
        .map(|(name, took, most)| {
            let most = most.as_secs() / 60;
            format!("{name} took {} of {most} min", seconds(took))
        })
        .collect()
}

/// The figures' names, and what each took.
fn each(figures: &[Value]) -> impl Iterator<Item = (&str, Duration)> {
    figures.iter().filter_map(|figure| {
        let took = figure["seconds"].as_f64()?;
        let took = Duration::try_from_secs_f64(took).ok()?;
        Some((figure["name"].as_str()?, took))
    })
}

/// What it may take, and whether it took more.
fn against(took: Duration, most: Duration) -> String {
    let over = if took > most { ", OVER" } else { "" };
    format!("of {} min{over}", most.as_secs() / 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_run_took_can_be_read_off() {
        let times = Times::begin();
        let minutes = |count: u64| Duration::from_secs(60 * count);
        for (kind, name, took) in [
            (Kind::Builds, "the guests", minutes(2)),
            (Kind::Fetching, "Restate", minutes(1)),
            (Kind::Fetching, "strace", Duration::ZERO),
            (Kind::Builds, "Heyday", minutes(10)),
            (Kind::Benchmarks, "sandbox", minutes(3)),
        ] {
            times.add(kind, name, took);
        }
        let figures = [
            json!({"name": "a.b", "seconds": 20.0}),
            json!({"name": "a.c", "seconds": 90.0}),
        ];
        assert_eq!(
            times.lines(minutes(17), &figures),
            [
                "builds       720.0 s  the guests 120.0 s, Heyday 600.0 s",
                "fetching      60.0 s  Restate 60.0 s",
                "benchmarks   180.0 s  sandbox 180.0 s",
                "together    1020.0 s  of 80 min",
                "one figure    90.0 s  of 5 min, the longest: a.c",
            ]
        );
        let figures = [json!({"name": "a.b", "seconds": 301.0})];
        let late = times.lines(minutes(81), &figures);
        assert_eq!(late[3], "together    4860.0 s  of 80 min, OVER");
        assert_eq!(
            late[4],
            "one figure   301.0 s  of 5 min, OVER, the longest: a.b"
        );
    }

    #[test]
    fn what_took_more_than_it_may_is_named() {
        let figure = |name: &str, seconds: f64| json!({"name": name, "seconds": seconds});
        let figures = [
            figure("a.b", 300.0),
            figure("a.c", 300.1),
            figure("a.d", 1.0),
            figure("a.e", 600.0),
        ];
        assert_eq!(
            over(Duration::from_secs(4_801), &figures),
            [
                "all of it took 4801.0 s of 80 min",
                "a.c took 300.1 s of 5 min",
                "a.e took 600.0 s of 5 min",
            ]
        );
        assert!(over(WHOLE, &figures[..1]).is_empty());
    }

    #[test]
    fn what_fails_is_counted_too() {
        let times = Times::begin();
        let failed: Result<(), &str> = times.count(Kind::Fetching, "Neo4j", || Err("no Java"));
        let counted = times.parts.lock().unwrap().len();
        assert_eq!((failed, counted), (Err("no Java"), 1));
    }
}
