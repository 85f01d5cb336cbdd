//! Times between their texts and Bolt's structures, which count from the epoch.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::bolt::Value;
use super::value::tag;
use crate::sql::check::{is_date, is_datetime, is_time, is_timestamp};

const NANOS: i64 = 1_000_000_000;
const EPOCH: Date = jiff::civil::date(1970, 1, 1);

fn structure<const N: usize>(tag: u8, numbers: [i64; N]) -> Value {
    Value::Struct(tag, numbers.into_iter().map(Value::Integer).collect())
}

/// Days since the epoch.
fn days(date: Date) -> i64 {
    // Hours of years up to 9999, without fractions.
    date.duration_since(EPOCH).as_hours() / 24
}

fn nanos_of_day(time: Time) -> i64 {
    time.duration_since(Time::midnight()).as_nanos() as i64
}

pub(super) fn read_date(text: &str) -> Option<Value> {
    let date: Date = is_date(text).then(|| text.parse().ok())??;
    Some(structure(tag::DATE, [days(date)]))
}

fn local_time(text: &str) -> Option<Time> {
    is_time(text).then(|| text.parse().ok())?
}

pub(super) fn read_local_time(text: &str) -> Option<Value> {
    Some(structure(
        tag::LOCAL_TIME,
        [nanos_of_day(local_time(text)?)],
    ))
}

pub(super) fn read_time(text: &str) -> Option<Value> {
    let (time, offset) = split_offset(text)?;
    let time = nanos_of_day(local_time(time)?);
    Some(structure(tag::TIME, [time, offset]))
}

/// A text without its offset, and the offset in seconds.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(rest) = text.strip_suffix(['Z', 'z']) {
        return Some((rest, 0));
    }
    let at = text.len().checked_sub(6)?;
    let (rest, offset) = text.split_at_checked(at)?;
    let sign = match offset.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<i64>().ok())?
    };
    let (hours, minutes) = (number(offset.get(1..3)?)?, number(offset.get(4..6)?)?);
    let valid = offset.as_bytes()[3] == b':' && hours <= 18 && minutes < 60;
    valid.then_some((rest, sign * (hours * 3_600 + minutes * 60)))
}

pub(super) fn read_local_datetime(text: &str) -> Option<Value> {
    let local: DateTime = is_datetime(text).then(|| text.parse().ok())??;
    let seconds = days(local.date()) * 86_400 + nanos_of_day(local.time()) / NANOS;
    let nanos = local.subsec_nanosecond().into();
    Some(structure(tag::LOCAL_DATETIME, [seconds, nanos]))
}

pub(super) fn read_datetime(text: &str) -> Option<Value> {
    let (text, zone) = match text.strip_suffix(']') {
        Some(text) => {
            let (text, zone) = text.split_once('[')?;
            (text, Some(zone))
        }
        None => (text, None),
    };
    if !is_timestamp(text) {
        return None;
    }
    let (_, offset) = split_offset(text)?;
    let instant: Timestamp = text.parse().ok()?;
    // Rounded down, so that the nanoseconds are none too few.
    let total = instant.as_nanosecond();
    let seconds = i64::try_from(total.div_euclid(i128::from(NANOS))).ok()?;
    let nanos = i64::try_from(total.rem_euclid(i128::from(NANOS))).ok()?;
    let Some(zone) = zone else {
        return Some(structure(tag::DATETIME, [seconds, nanos, offset]));
    };
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
    if zone.is_empty() || zone.len() > 64 || !zone.bytes().all(named) {
        return None;
    }
    let fields = vec![
        Value::Integer(seconds),
        Value::Integer(nanos),
        Value::String(zone.to_owned()),
    ];
    Some(Value::Struct(tag::DATETIME_ZONE, fields))
}

/// An ISO 8601 duration; each number may have a sign, and the seconds a fraction.
pub(super) fn read_duration(text: &str) -> Option<Value> {
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
                nanos = fraction_nanos(fraction)?;
                if whole.starts_with('-') && nanos > 0 {
                    seconds = seconds.checked_sub(1)?;
                    nanos = NANOS - nanos;
                }
            }
        }
    }
    any.then(|| structure(tag::DURATION, [months, days, seconds, nanos]))
}

fn fraction_nanos(digits: &str) -> Option<i64> {
    if digits.len() > 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<9}").parse().ok()
}

/// The name and the text of a time.
pub(super) fn write(kind: u8, fields: &[Value]) -> Option<(&'static str, String)> {
    let numbers: Option<Vec<i64>> = fields.iter().map(Value::as_i64).collect();
    if kind == tag::DATETIME_ZONE {
        let [Value::Integer(seconds), Value::Integer(nanos), zone] = fields else {
            return None;
        };
        let instant = timestamp(*seconds, *nanos)?;
        return Some(("datetime", format!("{instant}[{}]", zone.as_str()?)));
    }
    Some(match (kind, numbers?.as_slice()) {
        (tag::DATE, [days]) => {
            let date = EPOCH.checked_add(SignedDuration::from_hours(days.checked_mul(24)?));
            ("date", four_digits(date.ok()?)?.to_string())
        }
        (tag::LOCAL_TIME, [nanos]) => ("localtime", time(*nanos)?.to_string()),
        (tag::TIME, [nanos, offset]) => (
            "time",
            format!("{}{}", time(*nanos)?, offset_text(*offset)?),
        ),
        (tag::LOCAL_DATETIME, [seconds, nanos]) => {
            let local = Offset::UTC.to_datetime(timestamp(*seconds, *nanos)?);
            four_digits(local.date())?;
            ("localdatetime", local.to_string())
        }
        (tag::DATETIME, [seconds, nanos, offset]) => {
            let at = Offset::from_seconds(i32::try_from(*offset).ok()?).ok()?;
            let local = at.to_datetime(timestamp(*seconds, *nanos)?);
            four_digits(local.date())?;
            ("datetime", format!("{local}{}", offset_text(*offset)?))
        }
        (tag::DURATION, [months, days, seconds, nanos]) => {
            let total = i128::from(*seconds) * i128::from(NANOS) + i128::from(*nanos);
            let sign = if total < 0 { "-" } else { "" };
            let (whole, part) = (
                total.unsigned_abs() / NANOS.unsigned_abs() as u128,
                total.unsigned_abs() % NANOS.unsigned_abs() as u128,
            );
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

/// Years that the texts have.
fn four_digits(date: Date) -> Option<Date> {
    (0..=9_999).contains(&date.year()).then_some(date)
}

fn timestamp(seconds: i64, nanos: i64) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok()
}

fn time(nanos: i64) -> Option<Time> {
    let within = (0..86_400 * NANOS).contains(&nanos);
    let since = SignedDuration::from_nanos(nanos);
    within.then(|| Time::midnight().checked_add(since).ok())?
}

fn offset_text(offset: i64) -> Option<String> {
    let minutes = offset.unsigned_abs() / 60;
    let sign = if offset < 0 { '-' } else { '+' };
    match offset {
        0 => Some("Z".to_owned()),
        // Whole minutes are all that there are since 1972.
        _ if offset % 60 == 0 => Some(format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)),
        _ => None,
    }
}
