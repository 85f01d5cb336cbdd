//! Dates in English texts and in ISO 8601.

use passages::words::Word;

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

/// A date that words tell, and how many words do: `2026-11-24`, `24 November 2026`,
/// `Nov. 24, 2026`; or a month, `November 2026`, which is told as `2026-11`.
pub fn date(text: &str, words: &[Word]) -> Option<(String, usize)> {
    let word = |index: usize| words.get(index).map(|word| word.folded.as_str());
    // What stands between two words that belong together is short.
    let between = |index: usize| Some(&text[words.get(index)?.end..words.get(index + 1)?.start]);
    let joined = |index: usize, by: &[&str]| between(index).is_some_and(|it| by.contains(&it));
    let first = word(0)?;
    if let (Some(year), true) = (year(first), joined(0, &["-"])) {
        let month = number(word(1)?, 1..=12, 2)?;
        if !joined(1, &["-"]) {
            return None;
        }
        let day = number(word(2)?, 1..=last_day(year, month), 2)?;
        return Some((format!("{year:04}-{month:02}-{day:02}"), 3));
    }
    if let (Some(month), true) = (month(first), joined(0, &[" ", ". "])) {
        if let Some(year) = year(word(1)?) {
            return Some((format!("{year:04}-{month:02}"), 2));
        }
        if !joined(1, &[", ", " "]) {
            return None;
        }
        let year = year(word(2)?)?;
        let day = number(plain_day(word(1)?), 1..=last_day(year, month), 0)?;
        return Some((format!("{year:04}-{month:02}-{day:02}"), 3));
    }
    if first.starts_with(|c: char| c.is_ascii_digit()) && joined(0, &[" ", ". "]) {
        let month = month(word(1)?)?;
        if !joined(1, &[" ", ". "]) {
            return None;
        }
        let year = year(word(2)?)?;
        let day = number(plain_day(first), 1..=last_day(year, month), 0)?;
        return Some((format!("{year:04}-{month:02}-{day:02}"), 3));
    }
    None
}

/// Whether a word is a month's or a weekday's, which is no name of anybody.
pub fn is_calendar(word: &str) -> bool {
    const DAYS: [&str; 7] = [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
    ];
    month(word).is_some() || DAYS.contains(&word)
}

/// A month by its name or the first three letters of it.
fn month(word: &str) -> Option<u32> {
    let is = |name: &&str| *name == word || (word.len() == 3 && name.starts_with(word));
    u32::try_from(MONTHS.iter().position(is)? + 1).ok()
}

fn year(word: &str) -> Option<u32> {
    number(word, 1000..=2999, 4)
}

fn plain_day(word: &str) -> &str {
    let ends = ["st", "nd", "rd", "th"];
    ends.iter()
        .find_map(|end| word.strip_suffix(end))
        .unwrap_or(word)
}

/// A number of so many digits; of one or two, where none are said.
fn number(word: &str, range: std::ops::RangeInclusive<u32>, digits: usize) -> Option<u32> {
    let fits = if digits == 0 {
        word.len() <= 2
    } else {
        word.len() == digits
    };
    let number = word.parse().ok().filter(|_| fits)?;
    range.contains(&number).then_some(number)
}

fn last_day(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<String> {
        date(text, &passages::words::words(text)).map(|(date, _)| date)
    }

    #[test]
    fn dates_are_told_as_iso_does() {
        for text in [
            "2026-11-24 it was",
            "24 November 2026",
            "24th Nov. 2026",
            "November 24, 2026",
            "Nov 24, 2026",
        ] {
            assert_eq!(found(text).as_deref(), Some("2026-11-24"), "{text}");
        }
        assert_eq!(found("May 1968").as_deref(), Some("1968-05"));
        assert_eq!(found("29 February 2024").as_deref(), Some("2024-02-29"));
        for text in [
            "2026-13-01",
            "29 February 2023",
            "31 April 2026",
            "2026 11 24",
            "may be 2026",
            "port 8000",
            "1-2-3",
            "24 November",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
