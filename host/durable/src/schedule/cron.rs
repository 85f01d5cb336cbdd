//! Cron strings, as Temporal reads them.
//!
//! Five fields are minute, hour, day of the month, month, day of the week; six have the
//! year behind them; seven have the second before them. `@daily` and its like stand for
//! five fields, `@every 1h/10m` for an interval. `CRON_TZ=Europe/Berlin` or `TZ=...`
//! before it names the time zone, `#` begins a comment.

use std::time::Duration;

use super::calendar::{COMMENT_LIMIT, CalendarSpec, FIELDS, Range, YEARS};
use super::spec::IntervalSpec;

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

const DAYS: [&str; 7] = [
    "sunday",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
];

/// What a cron string says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cron {
    /// When.
    pub(super) times: CronTimes,
    /// The time zone that it names.
    pub(super) zone: Option<String>,
}

/// When.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CronTimes {
    /// The comment is the string itself: it is what a person wrote.
    Calendar(CalendarSpec),
    /// `@every`.
    Interval(IntervalSpec),
}

/// Reads a cron string.
///
/// # Errors
/// When it is none; a sentence for a person.
pub(super) fn parse(text: &str) -> Result<Cron, String> {
    let shown: String = text.chars().take(100).collect();
    read(text).map_err(|reason| format!("{shown:?} is no cron string: {reason}"))
}

fn read(text: &str) -> Result<Cron, String> {
    if text.len() > COMMENT_LIMIT {
        return Err(format!("it has more than {COMMENT_LIMIT} bytes"));
    }
    let mut rest = text.split('#').next().unwrap_or_default().trim();
    let mut zone = None;
    if let Some(named) = ["CRON_TZ=", "TZ="]
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))
    {
        let (name, fields) = named
            .split_once(char::is_whitespace)
            .ok_or("nothing follows the time zone")?;
        zone = Some(name.to_owned());
        rest = fields.trim();
    }
    if let Some(every) = rest.strip_prefix("@every") {
        let times = CronTimes::Interval(interval(every)?);
        return Ok(Cron { times, zone });
    }
    let rest = match rest {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let [second, minute, hour, day, month, weekday, year] = match *fields.as_slice() {
        [minute, hour, day, month, weekday] => ["0", minute, hour, day, month, weekday, "*"],
        [minute, hour, day, month, weekday, year] => ["0", minute, hour, day, month, weekday, year],
        [second, minute, hour, day, month, weekday, year] => {
            [second, minute, hour, day, month, weekday, year]
        }
        _ => {
            return Err(format!(
                "it has 5 fields (minute, hour, day of month, month, day of week), 6 with the \
                 year, or 7 with the second before them; this one has {}",
                fields.len()
            ));
        }
    };
    let mut read = [second, minute, hour, day, month, year, weekday]
        .into_iter()
        .zip(FIELDS)
        .map(|(text, (name, first, last))| {
            field(text, name, first, last).map_err(|reason| format!("{name}: {reason}"))
        });
    let mut next = || read.next().unwrap_or_else(|| Ok(Vec::new()));
    let calendar = CalendarSpec {
        second: next()?,
        minute: next()?,
        hour: next()?,
        day_of_month: next()?,
        month: next()?,
        year: next()?,
        day_of_week: next()?,
        comment: text.to_owned(),
    };
    Ok(Cron {
        times: CronTimes::Calendar(calendar),
        zone,
    })
}

fn interval(text: &str) -> Result<IntervalSpec, String> {
    let text = text.trim();
    let (every, offset) = match text.split_once('/') {
        Some((every, offset)) => (every, crate::flow::duration::parse(offset.trim())?),
        None => (text, Duration::ZERO),
    };
    Ok(IntervalSpec {
        every: crate::flow::duration::parse(every.trim())?,
        offset,
    })
}

/// One field: a list of `*`, `x`, `x-z`, each with `/step`.
fn field(text: &str, name: &str, first: i16, last: i16) -> Result<Vec<Range>, String> {
    // Sunday may be 7 as well.
    let top = if name == "day_of_week" { 7 } else { last };
    let base = if name == "year" { YEARS.0 } else { 0 };
    let mut set = 0_u128;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => {
                let step: usize = step
                    .parse()
                    .ok()
                    .filter(|step| *step >= 1)
                    .ok_or_else(|| format!("{step:?} is no step"))?;
                (range, Some(step))
            }
        };
        let (start, end) = if range == "*" {
            (first, last)
        } else if let Some((start, end)) = range.split_once('-') {
            let start = value(start, name, first, top)?;
            (start, value(end, name, start, top)?)
        } else {
            let start = value(range, name, first, top)?;
            // With a step a value is where it begins.
            (
                start,
                if step.is_some() {
                    last.max(start)
                } else {
                    start
                },
            )
        };
        for value in (start..=end).step_by(step.unwrap_or(1)) {
            let value = if name == "day_of_week" {
                value % 7
            } else {
                value
            };
            set |= 1 << (value - base);
        }
    }
    Ok(ranges(set, base))
}

fn value(text: &str, name: &str, first: i16, last: i16) -> Result<i16, String> {
    let lower = text.to_ascii_lowercase();
    let position = |names: &[&str], shortest: usize| {
        let found = names.iter().position(|name| name.starts_with(&lower));
        found.filter(|_| lower.len() >= shortest)
    };
    let named = match name {
        "month" => position(&MONTHS, 3).map(|at| at + 1),
        "day_of_week" => position(&DAYS, 2),
        _ => None,
    };
    let number = match named {
        Some(at) => i16::try_from(at).ok(),
        None => text.parse().ok(),
    };
    number
        .filter(|number| (first..=last).contains(number))
        .ok_or_else(|| format!("{text:?} is no value from {first} to {last}"))
}

/// The values of a set, as few ranges as there can be.
fn ranges(set: u128, base: i16) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for value in (0..128_i16).filter(|value| set & (1 << value) != 0) {
        let value = value + base;
        match ranges.last_mut() {
            Some(last) if last.end.max(last.start) + 1 == value => last.end = value,
            _ => ranges.push(Range {
                start: value,
                ..Range::default()
            }),
        }
    }
    ranges
}
