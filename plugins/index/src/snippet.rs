//! The part of a passage that shows why it was found.

/// Characters of a snippet, about.
const LENGTH: usize = 240;

/// The window of a text with most of the words; an ellipsis stands where text was left
/// out. Words are found by their beginnings, so that a plural shows its singular.
pub fn snippet(text: &str, words: &[String]) -> String {
    let line: Vec<char> = text
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .collect();
    if line.len() <= LENGTH {
        return line.into_iter().collect();
    }
    // One lower-case character for each, so that places are the same.
    let lower: Vec<char> = line
        .iter()
        .map(|c| c.to_lowercase().next().unwrap_or(*c))
        .collect();
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (number, word) in words.iter().enumerate() {
        let stem: Vec<char> = word.to_lowercase().chars().collect();
        let stem = &stem[..stem.len().min(5.max(stem.len().saturating_sub(2)))];
        for at in 0..lower.len().saturating_sub(stem.len()) {
            let begins = at == 0 || !lower[at - 1].is_alphanumeric() || !stem[0].is_ascii();
            if begins && lower[at..].starts_with(stem) {
                found.push((at, number));
            }
        }
    }
    found.sort_unstable();
    let best = (0..found.len())
        .max_by_key(|first| {
            let begin = found[*first].0;
            let mut seen: Vec<usize> = found[*first..]
                .iter()
                .take_while(|(at, _)| at - begin < LENGTH - 40)
                .map(|(_, number)| *number)
                .collect();
            seen.sort_unstable();
            seen.dedup();
            // Of equals the first.
            (seen.len(), usize::MAX - first)
        })
        .map_or(0, |first| found[first].0);
    let begin = best
        .saturating_sub(40)
        .min(line.len().saturating_sub(LENGTH));
    let space = |from: usize| (from..(from + 20).min(line.len())).find(|at| line[*at] == ' ');
    let begin = if begin == 0 {
        0
    } else {
        space(begin).map_or(begin, |at| at + 1)
    };
    let end = (begin + LENGTH).min(line.len());
    let end = if end == line.len() {
        end
    } else {
        (begin..end)
            .rev()
            .take(20)
            .find(|at| line[*at] == ' ')
            .unwrap_or(end)
    };
    let part: String = line[begin..end].iter().collect();
    let (before, after) = (
        if begin > 0 { "… " } else { "" },
        if end < line.len() { " …" } else { "" },
    );
    format!("{before}{part}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_short_passage_is_its_own_snippet() {
        assert_eq!(snippet("one\n  two", &words(&["two"])), "one two");
    }

    #[test]
    fn the_window_has_most_of_the_words() {
        let filling = "something else is said here. ".repeat(20);
        let text = format!("rotor {filling}the Rotors keep their balance {filling}");
        let found = snippet(&text, &words(&["rotor", "balance"]));
        assert!(found.contains("Rotors keep their balance"), "{found}");
        assert!(found.starts_with('…') && found.ends_with('…'), "{found}");
        assert!(found.chars().count() <= LENGTH + 4, "{found}");
        assert!(snippet(&text, &words(&["absent"])).starts_with("rotor"));
    }

    #[test]
    fn unspaced_text_has_snippets_too() {
        let text = format!("{}東京都{}", "これは".repeat(200), "です".repeat(200));
        assert!(snippet(&text, &words(&["東京"])).contains("東京都"));
    }
}
