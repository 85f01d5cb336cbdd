//! When: a spec as it is given, and the times that it means.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::calendar::{Calendar, CalendarSpec};
use super::cron::{self, CronTimes};
use super::{ScheduleRef, TIMES_LIMIT};

/// Entries of a spec, of each kind.
const ENTRIES: usize = 100;

/// The longest jitter: more would not be spread evenly.
const LONGEST_JITTER: Duration = Duration::from_secs(49 * 24 * 60 * 60);

/// Each `every`, counted from the epoch plus `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalSpec {
    /// How far from one to the next: whole seconds, at least one.
    #[serde(with = "crate::flow::duration::required")]
    pub every: Duration,
    /// How far after the epoch's multiples: whole seconds, less than `every`.
    #[serde(default, with = "crate::flow::duration::required")]
    pub offset: Duration,
}

/// When: the times that any of its entries has, but those that `exclude_calendars` have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleSpec {
    /// Cron strings, as Temporal reads them: 5 to 7 fields, `@daily` and its like,
    /// `@every 1h/10m`, with `CRON_TZ=` before them or not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cron: Vec<String>,
    /// Calendars.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calendars: Vec<CalendarSpec>,
    /// Intervals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<IntervalSpec>,
    /// Times that do not count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_calendars: Vec<CalendarSpec>,
    /// No time is before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// No time is after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// Each time comes up to so much later, at most as far as the next one: up to 49 days.
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "crate::flow::duration::optional"
    )]
    pub jitter: Option<Duration>,
    /// Of calendars and cron strings, an IANA name; UTC where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

impl ScheduleSpec {
    /// With cron strings as the calendars and intervals that they mean, and the time zone
    /// that they name. A calendar's comment is then the cron string.
    ///
    /// # Errors
    /// When one is no cron string, or they name different time zones; a sentence for a
    /// person.
    pub(crate) fn canonical(&self) -> Result<Self, String> {
        let mut canonical = Self {
            cron: Vec::new(),
            ..self.clone()
        };
        let mut named: Option<Option<String>> = None;
        for text in &self.cron {
            let read = cron::parse(text)?;
            if named.as_ref().is_some_and(|before| *before != read.zone) {
                return Err("all cron strings of a schedule name the same time zone".to_owned());
            }
            match read.times {
                CronTimes::Calendar(calendar) => canonical.calendars.push(calendar),
                CronTimes::Interval(interval) => canonical.intervals.push(interval),
            }
            named = Some(read.zone);
        }
        if let Some(zone) = named.flatten() {
            match &canonical.time_zone {
                Some(given) if *given != zone => {
                    return Err(format!(
                        "the time zone is {given:?}, but the cron strings name {zone:?}"
                    ));
                }
                _ => canonical.time_zone = Some(zone),
            }
        }
        Ok(canonical)
    }

    /// With calendars that were cron strings as these again.
    pub(crate) fn readable(mut self) -> Self {
        let calendars = std::mem::take(&mut self.calendars);
        for calendar in calendars {
            let written = cron::parse(&calendar.comment).ok();
            let same = written.is_some_and(|written| {
                let CronTimes::Calendar(meant) = written.times else {
                    return false;
                };
                let zone = written.zone.is_none() || written.zone == self.time_zone;
                zone && Calendar::new(&meant).ok() == Calendar::new(&calendar).ok()
            });
            if same {
                self.cron.push(calendar.comment);
            } else {
                self.calendars.push(calendar);
            }
        }
        self
    }
}

/// A time of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScheduledTime {
    /// Before jitter.
    pub nominal: Timestamp,
    /// When it comes.
    pub actual: Timestamp,
}

/// The times of a schedule.
#[derive(Debug, Clone)]
pub struct Times {
    calendars: Vec<Calendar>,
    excluded: Vec<Calendar>,
    /// Every and offset, in seconds.
    intervals: Vec<(i64, i64)>,
    zone: TimeZone,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    jitter: Duration,
    /// What makes its jitter its own.
    seed: Vec<u8>,
}

impl Times {
    /// The times of a spec.
    ///
    /// # Errors
    /// When it is none; a sentence for a person.
    pub fn new(schedule: &ScheduleRef, spec: &ScheduleSpec) -> Result<Self, String> {
        let entries = [
            spec.cron.len(),
            spec.calendars.len(),
            spec.intervals.len(),
            spec.exclude_calendars.len(),
        ];
        if entries.into_iter().any(|count| count > ENTRIES) {
            return Err(format!(
                "a schedule has at most {ENTRIES} cron strings, calendars, and intervals"
            ));
        }
        let spec = spec.canonical()?;
        if let (Some(start), Some(end)) = (spec.start_time, spec.end_time)
            && end < start
        {
            return Err(format!("it ends at {end}, before it begins at {start}"));
        }
        let jitter = spec.jitter.unwrap_or_default();
        if jitter > LONGEST_JITTER {
            return Err("a jitter is at most 49 days".to_owned());
        }
        let calendars = |specs: &[CalendarSpec]| {
            let read = specs.iter().map(Calendar::new);
            read.collect::<Result<Vec<_>, _>>()
        };
        let intervals = spec.intervals.iter().map(seconds);
        Ok(Self {
            calendars: calendars(&spec.calendars)?,
            excluded: calendars(&spec.exclude_calendars)?,
            intervals: intervals.collect::<Result<_, _>>()?,
            zone: zone(spec.time_zone.as_deref())?,
            start: spec.start_time,
            end: spec.end_time,
            jitter,
            seed: format!("{}\n{}", schedule.namespace, schedule.schedule_id).into_bytes(),
        })
    }

    /// The first time whose nominal time is after that one.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<ScheduledTime> {
        let mut after = after;
        if let Some(start) = self.start
            && after < start
        {
            // The start itself may match.
            after = start.checked_sub(SignedDuration::from_nanos(1)).ok()?;
        }
        loop {
            let nominal = self.next_raw(after)?;
            if self.end.is_some_and(|end| nominal > end) {
                return None;
            }
            let excluded = &mut self.excluded.iter();
            if excluded.any(|calendar| calendar.matches(nominal, &self.zone)) {
                after = nominal;
                continue;
            }
            return Some(ScheduledTime {
                nominal,
                actual: self.jittered(nominal),
            });
        }
    }

    /// The times from one to another, by their nominal times; at most `limit`.
    #[must_use]
    pub fn between(&self, from: Timestamp, to: Timestamp, limit: usize) -> Vec<ScheduledTime> {
        let Ok(before) = from.checked_sub(SignedDuration::from_nanos(1)) else {
            return Vec::new();
        };
        self.after(before)
            .take_while(|time| time.nominal <= to)
            .take(limit.min(TIMES_LIMIT + 1))
            .collect()
    }

    /// All times whose nominal time is after that one.
    pub fn after(&self, after: Timestamp) -> impl Iterator<Item = ScheduledTime> + '_ {
        std::iter::successors(self.next(after), |last| self.next(last.nominal))
    }

    fn next_raw(&self, after: Timestamp) -> Option<Timestamp> {
        let calendars = self.calendars.iter();
        let of_calendars = calendars.filter_map(|calendar| calendar.next(after, &self.zone));
        // The second that a time is in has begun: the next one is looked for.
        let second = after.as_nanosecond().div_euclid(1_000_000_000);
        let second = i64::try_from(second).ok()?;
        let of_intervals = self.intervals.iter().filter_map(|(every, offset)| {
            let next = (second - offset).div_euclid(*every).checked_add(1)?;
            Timestamp::from_second(next.checked_mul(*every)?.checked_add(*offset)?).ok()
        });
        of_calendars.chain(of_intervals).min()
    }

    fn jittered(&self, nominal: Timestamp) -> Timestamp {
        if self.jitter.is_zero() {
            return nominal;
        }
        let mut most = self.jitter;
        if let Some(following) = self.next_raw(nominal)
            && let Ok(gap) = Duration::try_from(following.duration_since(nominal))
        {
            most = most.min(gap);
        }
        let mut hash = Sha256::new();
        hash.update(&self.seed);
        hash.update(nominal.as_second().to_be_bytes());
        let [a, b, c, d, ..]: [u8; 32] = hash.finalize().into();
        let share = u128::from(u32::from_be_bytes([a, b, c, d]));
        let millis = (most.as_millis() * share) >> 32;
        let jitter = SignedDuration::from_millis(i64::try_from(millis).unwrap_or(0));
        nominal.checked_add(jitter).unwrap_or(nominal)
    }
}

fn seconds(interval: &IntervalSpec) -> Result<(i64, i64), String> {
    let IntervalSpec { every, offset } = interval;
    let whole = every.subsec_nanos() == 0 && offset.subsec_nanos() == 0;
    if !whole || every.is_zero() || offset >= every {
        return Err(format!(
            "an interval has whole seconds, at least 1, and an offset below it; not {every:?} \
             with {offset:?}"
        ));
    }
    let limited = |duration: &Duration| {
        let inside = *duration <= crate::flow::duration::MAX;
        let seconds = i64::try_from(duration.as_secs()).ok().filter(|_| inside);
        seconds.ok_or_else(|| "an interval is at most 100 years".to_owned())
    };
    Ok((limited(every)?, limited(offset)?))
}

fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    match name {
        None | Some("" | "UTC") => Ok(TimeZone::UTC),
        Some(name) => TimeZone::get(name).map_err(|_| {
            let name: String = name.chars().take(100).collect();
            format!("{name:?} is no time zone; use an IANA name such as \"Europe/Berlin\"")
        }),
    }
}
