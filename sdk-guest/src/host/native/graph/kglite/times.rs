//! Times between their texts and the engine's values.

use ::kglite::api::Value as Kg;
use chrono::{Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike as _};

use crate::host::times::{is_date, is_datetime, is_time, is_timestamp};

const NANOS: u64 = 1_000_000_000;

pub(super) fn read_date(text: &str) -> Option<NaiveDate> {
    if !is_date(text) {
        return None;
    }
    let (month, day) = (text[5..7].parse().ok()?, text[8..].parse().ok()?);
    NaiveDate::from_ymd_opt(text[..4].parse().ok()?, month, day)
}

/// Nanoseconds since midnight.
pub(super) fn read_local_time(text: &str) -> Option<u64> {
    if !is_time(text) {
        return None;
    }
    let number = |digits: &str| digits.parse::<u64>().ok();
    let minutes = number(&text[..2])? * 60 + number(&text[3..5])?;
    let seconds = minutes * 60 + number(&text[6..8])?;
    let nanos = fraction_nanos(text.get(9..).unwrap_or_default())?;
    Some(seconds * NANOS + nanos)
}

pub(super) fn read_time(text: &str) -> Option<Kg> {
    let (time, offset_secs) = split_offset(text)?;
    Some(Kg::Time {
        nanos: read_local_time(time)?,
        offset_secs,
    })
}

/// A text without its offset, and the offset in seconds.
fn split_offset(text: &str) -> Option<(&str, i32)> {
    if let Some(rest) = text.strip_suffix(['Z', 'z']) {
        return Some((rest, 0));
    }
    let (rest, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let sign = match offset.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let number = |digits: &str| {
        let valid = digits.bytes().all(|byte| byte.is_ascii_digit());
        valid.then(|| digits.parse::<i32>().ok())?
    };
    let (hours, minutes) = (number(offset.get(1..3)?)?, number(offset.get(4..6)?)?);
    let valid = offset.as_bytes()[3] == b':' && hours <= 18 && minutes < 60;
    valid.then_some((rest, sign * (hours * 3_600 + minutes * 60)))
}

pub(super) fn read_local_datetime(text: &str) -> Option<NaiveDateTime> {
    if !is_datetime(text) {
        return None;
    }
    let nanos = read_local_time(&text[11..])?;
    Some(read_date(&text[..10])?.and_time(clock(nanos)?))
}

fn clock(nanos: u64) -> Option<NaiveTime> {
    let (seconds, nanos) = (nanos / NANOS, nanos % NANOS);
    let (seconds, nanos) = (u32::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
    NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos)
}

pub(super) fn read_datetime(text: &str) -> Option<Kg> {
    if !is_timestamp(text) {
        return None;
    }
    let (local, offset_secs) = split_offset(text)?;
    let offset = TimeDelta::seconds(offset_secs.into());
    Some(Kg::ZonedDateTime {
        utc: read_local_datetime(local)?.checked_sub_signed(offset)?,
        offset_secs,
        zone: None,
    })
}

/// Whether a text is a time in a zone that is named.
pub(super) fn is_zoned(text: &str) -> bool {
    let parts = text.strip_suffix(']').and_then(|text| text.split_once('['));
    let Some((text, zone)) = parts else {
        return false;
    };
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
    (1..=64).contains(&zone.len()) && zone.bytes().all(named) && read_datetime(text).is_some()
}

/// Months, days, seconds and nanoseconds of an ISO 8601 duration; each number may have a
/// sign, and the seconds a fraction.
pub(super) fn read_duration(text: &str) -> Option<[i64; 4]> {
    let mut rest = text.strip_prefix('P')?;
    let (mut months, mut days, mut seconds, mut nanos) = (0_i64, 0_i64, 0_i64, 0_i64);
    let mut units: &[(char, bool)] = &[
        ('Y', false),
        ('M', false),
        ('W', false),
        ('D', false),
        ('H', true),
        ('M', true),
        ('S', true),
    ];
    let mut in_time = false;
    let mut any = false;
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            if in_time || time.is_empty() {
                return None;
            }
            (in_time, rest) = (true, time);
        }
        let end = rest.find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c))?;
        let (number, tail) = rest.split_at(end);
        let unit = tail.chars().next()?;
        rest = &tail[unit.len_utf8()..];
        // Each unit once, in this order.
        let at = units.iter().position(|known| *known == (unit, in_time))?;
        units = &units[at + 1..];
        any = true;
        let (whole, fraction) = match number.split_once('.') {
            Some(parts) if unit == 'S' => parts,
            Some(_) => return None,
            None => (number, ""),
        };
        let count: i64 = whole.parse().ok()?;
        let add = |sum: i64, each: i64| sum.checked_add(count.checked_mul(each)?);
        match (unit, in_time) {
            ('Y', _) => months = add(months, 12)?,
            ('M', false) => months = add(months, 1)?,
            ('W', _) => days = add(days, 7)?,
            ('D', _) => days = add(days, 1)?,
            ('H', _) => seconds = add(seconds, 3_600)?,
            ('M', true) => seconds = add(seconds, 60)?,
            _ => {
                seconds = add(seconds, 1)?;
                nanos = i64::try_from(fraction_nanos(fraction)?).ok()?;
                if whole.starts_with('-') && nanos > 0 {
                    seconds = seconds.checked_sub(1)?;
                    nanos = NANOS.cast_signed() - nanos;
                }
            }
        }
    }
    any.then_some([months, days, seconds, nanos])
}

/// None where it is beyond what the engine holds.
pub(super) fn duration([months, days, seconds, nanos]: [i64; 4]) -> Option<Kg> {
    Some(Kg::Duration {
        months: months.try_into().ok()?,
        days: days.try_into().ok()?,
        seconds,
        nanos: nanos.try_into().ok()?,
    })
}

fn fraction_nanos(digits: &str) -> Option<u64> {
    if digits.len() > 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<9}").parse().ok()
}

/// The name and the text of a time.
pub(super) fn write(value: &Kg) -> Option<(&'static str, String)> {
    Some(match value {
        Kg::DateTime(date) => ("date", date_text(*date)?),
        Kg::LocalTime(nanos) => ("localtime", time_text(clock(*nanos)?)),
        Kg::Time { nanos, offset_secs } => {
            let time = time_text(clock(*nanos)?);
            ("time", time + &offset_text(*offset_secs)?)
        }
        Kg::Timestamp(local) => ("localdatetime", datetime_text(*local)?),
        Kg::ZonedDateTime {
            utc, offset_secs, ..
        } => {
            let offset = TimeDelta::seconds((*offset_secs).into());
            let local = datetime_text(utc.checked_add_signed(offset)?)?;
            ("datetime", local + &offset_text(*offset_secs)?)
        }
        Kg::Duration {
            months,
            days,
            seconds,
            nanos,
        } => {
            let total = i128::from(*seconds) * i128::from(NANOS) + i128::from(*nanos);
            let sign = if total < 0 { "-" } else { "" };
            let whole = total.unsigned_abs() / u128::from(NANOS);
            let part = total.unsigned_abs() % u128::from(NANOS);
            let mut text = format!("P{months}M{days}DT{sign}{whole}");
            if part > 0 {
                text.push_str(format!(".{part:09}").trim_end_matches('0'));
            }
            text.push('S');
            ("duration", text)
        }
        _ => return None,
    })
}

/// Of the years that the texts have.
fn date_text(date: NaiveDate) -> Option<String> {
    let year = date.year();
    let text = format!("{year:04}-{:02}-{:02}", date.month(), date.day());
    (0..=9_999).contains(&year).then_some(text)
}

fn time_text(time: NaiveTime) -> String {
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    let mut text = format!("{hour:02}:{minute:02}:{second:02}");
    if time.nanosecond() > 0 {
        let part = format!(".{:09}", time.nanosecond());
        text.push_str(part.trim_end_matches('0'));
    }
    text
}

fn datetime_text(local: NaiveDateTime) -> Option<String> {
    let date = date_text(local.date())?;
    Some(format!("{date}T{}", time_text(local.time())))
}

fn offset_text(offset: i32) -> Option<String> {
    let minutes = offset.unsigned_abs() / 60;
    let sign = if offset < 0 { '-' } else { '+' };
    match offset {
        0 => Some("Z".to_owned()),
        // Whole minutes are all that there are since 1972.
        _ if offset % 60 == 0 => Some(format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)),
        _ => None,
    }
}
