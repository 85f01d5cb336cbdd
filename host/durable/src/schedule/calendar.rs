//! Calendars: which seconds of which days match.
//!
//! Between two changes of a time zone's offset, local time goes as the clock does. So the
//! next match is looked for within one such stretch after the other, each with its one
//! offset: a local time that a change leaves out is in no stretch, one that comes twice is
//! in two.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// The years that a calendar knows; Temporal's.
pub(super) const YEARS: (i16, i16) = (2000, 2100);

/// Bytes of a calendar's comment; Temporal's.
pub(super) const COMMENT_LIMIT: usize = 200;

/// Values from `start` to `end`, each `step`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first value.
    pub start: i16,
    /// The last one; only the first where absent or 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub end: i16,
    /// How far from one to the next; 1 where absent or 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub step: i16,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde fixes the signature"
)]
const fn is_zero(value: &i16) -> bool {
    *value == 0
}

impl Range {
    fn values(self) -> impl Iterator<Item = i16> {
        let step = usize::try_from(self.step.max(1)).unwrap_or(1);
        (self.start..=self.end.max(self.start)).step_by(step)
    }
}

/// Matches a time when each field does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CalendarSpec {
    /// 0 to 59; 0 where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub second: Vec<Range>,
    /// 0 to 59; 0 where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub minute: Vec<Range>,
    /// 0 to 23; 0 where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hour: Vec<Range>,
    /// 1 to 31; every day where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub day_of_month: Vec<Range>,
    /// 1 to 12; every month where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub month: Vec<Range>,
    /// 2000 to 2100; every year where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub year: Vec<Range>,
    /// 0, which is Sunday, to 6; every day where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub day_of_week: Vec<Range>,
    /// What it is meant to be, for a person: at most 200 bytes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// The fields of a calendar: name, first and last value.
pub(super) const FIELDS: [(&str, i16, i16); 7] = [
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day_of_month", 1, 31),
    ("month", 1, 12),
    ("year", YEARS.0, YEARS.1),
    ("day_of_week", 0, 6),
];

impl CalendarSpec {
    /// Its fields, in the order of [`FIELDS`].
    pub(super) const fn fields(&self) -> [&Vec<Range>; 7] {
        [
            &self.second,
            &self.minute,
            &self.hour,
            &self.day_of_month,
            &self.month,
            &self.year,
            &self.day_of_week,
        ]
    }

    /// With each field as it is meant: none empty.
    #[must_use]
    pub fn complete(&self) -> Self {
        let or = |ranges: &Vec<Range>, start, end| {
            if ranges.is_empty() {
                vec![Range {
                    start,
                    end,
                    step: 0,
                }]
            } else {
                ranges.clone()
            }
        };
        Self {
            second: or(&self.second, 0, 0),
            minute: or(&self.minute, 0, 0),
            hour: or(&self.hour, 0, 0),
            day_of_month: or(&self.day_of_month, 1, 31),
            month: or(&self.month, 1, 12),
            year: or(&self.year, YEARS.0, YEARS.1),
            day_of_week: or(&self.day_of_week, 0, 6),
            comment: self.comment.clone(),
        }
    }
}

/// A calendar, made to be looked at often: the values of each field as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Calendar {
    second: u128,
    minute: u128,
    hour: u128,
    day_of_month: u128,
    month: u128,
    /// From the first year on.
    year: u128,
    day_of_week: u128,
}

impl Calendar {
    /// # Errors
    /// When a range is none of its field; a sentence for a person.
    pub(super) fn new(spec: &CalendarSpec) -> Result<Self, String> {
        if spec.comment.len() > COMMENT_LIMIT {
            return Err(format!(
                "a calendar's comment has at most {COMMENT_LIMIT} bytes"
            ));
        }
        let complete = spec.complete();
        let mut sets = [0_u128; 7];
        let fields = complete.fields().into_iter().zip(FIELDS).zip(&mut sets);
        for ((ranges, (name, first, last)), set) in fields {
            for range in ranges {
                let inside = (first..=last).contains(&range.start)
                    && (range.end == 0 || (range.start..=last).contains(&range.end))
                    && range.step >= 0;
                if !inside {
                    return Err(format!(
                        "{name} has ranges from {first} to {last}, with steps of at least 1; \
                         start {}, end {}, step {} is none",
                        range.start, range.end, range.step
                    ));
                }
                let base = if name == "year" { YEARS.0 } else { 0 };
                for value in range.values() {
                    *set |= 1 << (value - base);
                }
            }
        }
        let [second, minute, hour, day_of_month, month, year, day_of_week] = sets;
        Ok(Self {
            second,
            minute,
            hour,
            day_of_month,
            month,
            year,
            day_of_week,
        })
    }

    /// The first time after that one which matches.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut from = Timestamp::from_second(after.as_second().checked_add(1)?).ok()?;
        loop {
            let offset = zone.to_offset(from);
            let change = zone.following(from).next().map(|change| change.timestamp());
            let last = change.map_or(DateTime::MAX, |change| offset.to_datetime(change));
            if let Some(found) = self.next_local(offset.to_datetime(from), last) {
                return offset.to_timestamp(found).ok();
            }
            from = change?;
            if offset.to_datetime(from).year() > YEARS.1 {
                return None;
            }
        }
    }

    /// Whether a time matches.
    pub(super) fn matches(&self, time: Timestamp, zone: &TimeZone) -> bool {
        let local = zone.to_offset(time).to_datetime(time);
        self.has_day(local.date()) && self.time_from(local.time()) == Some(local.time())
    }

    /// The first local time that matches, from one on and before another.
    fn next_local(&self, from: DateTime, before: DateTime) -> Option<DateTime> {
        let mut earliest = from.time();
        let mut day = from.date();
        while day <= before.date() && day.year() <= YEARS.1 {
            if !has(self.year, day.year() - YEARS.0) {
                day = Date::new(day.year() + 1, 1, 1).ok()?;
            } else if !has(self.month, i16::from(day.month())) {
                day = day.last_of_month().tomorrow().ok()?;
            } else if let (true, Some(time)) = (self.has_day(day), self.time_from(earliest)) {
                return Some(day.to_datetime(time)).filter(|found| *found < before);
            } else {
                day = day.tomorrow().ok()?;
            }
            earliest = Time::midnight();
        }
        None
    }

    fn has_day(&self, day: Date) -> bool {
        has(self.year, day.year() - YEARS.0)
            && has(self.month, i16::from(day.month()))
            && has(self.day_of_month, i16::from(day.day()))
            && has(
                self.day_of_week,
                i16::from(day.weekday().to_sunday_zero_offset()),
            )
    }

    /// The first time of a day that matches, from one on.
    fn time_from(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) = (from.hour(), from.minute(), from.second());
        if has(self.hour, i16::from(hour)) {
            if has(self.minute, i16::from(minute))
                && let Some(second) = first(self.second, second)
            {
                return Time::new(hour, minute, second, 0).ok();
            }
            if let Some(minute) = first(self.minute, minute + 1) {
                return Time::new(hour, minute, first(self.second, 0)?, 0).ok();
            }
        }
        let hour = first(self.hour, hour + 1)?;
        Time::new(hour, first(self.minute, 0)?, first(self.second, 0)?, 0).ok()
    }
}

/// Whether a value is in a set.
fn has(set: u128, value: i16) -> bool {
    (0..128).contains(&value) && set & (1 << value) != 0
}

/// The first value of a set, from one on.
fn first(set: u128, from: i8) -> Option<i8> {
    let value = (set >> from).trailing_zeros();
    let value = i8::try_from(value).ok()?.checked_add(from)?;
    has(set, i16::from(value)).then_some(value)
}
