//! Whether a text is a date or a time, for every engine that keeps some.

/// Whether a text is like a pattern, in which `0` is any digit and `x` one of base 16, in
/// lower case.
pub(crate) fn is_like(text: &str, pattern: &str) -> bool {
    let like = |(byte, pattern): (u8, u8)| match pattern {
        b'0' => byte.is_ascii_digit(),
        b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        other => byte == other,
    };
    text.len() == pattern.len() && text.bytes().zip(pattern.bytes()).all(like)
}

pub(crate) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What stands before a point and after it.
pub(crate) fn fraction(text: &str) -> (&str, Option<&str>) {
    match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    }
}

pub(crate) fn is_date(text: &str) -> bool {
    if !is_like(text, "0000-00-00") {
        return false;
    }
    let leap = text[..4].parse().is_ok_and(|year: u32| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    });
    let last = match &text[5..7] {
        "01" | "03" | "05" | "07" | "08" | "10" | "12" => "31",
        "04" | "06" | "09" | "11" => "30",
        "02" if leap => "29",
        "02" => "28",
        _ => return false,
    };
    ("01"..=last).contains(&&text[8..])
}

/// Whether a text like `00:00` is hours and minutes.
fn is_clock(text: &str) -> bool {
    is_like(text, "00:00") && &text[..2] < "24" && &text[3..] < "60"
}

pub(crate) fn is_time(text: &str) -> bool {
    let (clock, fraction) = fraction(text);
    is_like(clock, "00:00:00")
        && is_clock(&clock[..5])
        && &clock[6..] < "60"
        && fraction.is_none_or(|digits| digits.len() <= 9 && is_digits(digits))
}

/// A date, and what follows it.
fn dated(text: &str) -> Option<&str> {
    let rest = text.get(10..)?.strip_prefix(['T', 't', ' '])?;
    is_date(&text[..10]).then_some(rest)
}

pub(crate) fn is_datetime(text: &str) -> bool {
    dated(text).is_some_and(is_time)
}

pub(crate) fn is_timestamp(text: &str) -> bool {
    let Some(rest) = dated(text) else {
        return false;
    };
    if let Some(time) = rest.strip_suffix(['Z', 'z']) {
        return is_time(time);
    }
    let Some(sign) = rest.rfind(['+', '-']) else {
        return false;
    };
    is_time(&rest[..sign]) && is_clock(&rest[sign + 1..])
}
