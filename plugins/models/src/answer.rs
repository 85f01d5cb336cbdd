//! Answers by a model that generates text, from passages alone and with their numbers.

use std::collections::BTreeSet;

use heyday_sdk::inference::{FinishReason, Message, Model, Request, Summary};
use heyday_sdk::prelude::*;
use passages::answers::{Answer, Citation, Passage};
use passages::words::{Word, words};

use crate::most;

/// Characters of the passages that the model reads, at most; the best come first.
const MOST_CHARACTERS: usize = 6_000;
/// As many are tried where it has too small a window for more.
const LEAST_CHARACTERS: usize = 200;
/// Tokens of an answer, at most.
const MOST_TOKENS: u32 = 300;

const TASK: &str = "Answer the question in one to three sentences, from the numbered passages \
                    alone. After each sentence write the number of its passage, such as [1]. If \
                    the passages do not say it, answer: I do not know.";

/// A question and what was found for it.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Question {
    /// The model's name.
    pub model: String,
    /// The question.
    pub text: String,
    /// Passages, the best first, as `index.search` answers them; at most 1,000.
    pub passages: Vec<Passage>,
}

/// Lets a model answer a question from passages. The same on every attempt. The confidence is how
/// many of the answer's telling words stand in what it cites.
#[activity(start_to_close = "10m")]
pub fn answer(input: Question) -> Result<Answer> {
    most("passages", input.passages.len())?;
    let model = Model::open(&input.model)?;
    let all = input.passages.iter().map(|it| it.text.chars().count());
    let (mut room, all) = (MOST_CHARACTERS, all.sum::<usize>());
    let (written, read) = loop {
        let (asked, read) = ask(&input, room);
        let request = Request::chat([Message::system(TASK), Message::user(asked)])
            .temperature(0.0)
            .max_tokens(MOST_TOKENS);
        let told = model.generate(&request).and_then(|mut text| {
            let written = text.text()?;
            Ok((written, text.summary()?))
        });
        // Only the model knows how many tokens a text has.
        let is_large = match &told {
            Ok((_, summary)) => is_cut_off(summary),
            Err(error) => error.is("input-too-long"),
        };
        room = room.min(all);
        if !is_large || room <= LEAST_CHARACTERS {
            let (written, _) = told?;
            break (written, read);
        }
        room = (room / 2).max(LEAST_CHARACTERS);
    };
    Ok(cited(&written, &input.passages[..read]))
}

/// Whether an answer ended where the window did, of which the passages left too little.
fn is_cut_off(summary: &Summary) -> bool {
    summary.finish_reason == FinishReason::Length
        && summary.completion_tokens < u64::from(MOST_TOKENS)
}

/// What the model is asked, with so many characters of the passages, and how many of them it
/// reads.
fn ask(input: &Question, mut room: usize) -> (String, usize) {
    let mut asked = String::new();
    let mut read = 0;
    for passage in &input.passages {
        let text: String = passage.text.chars().take(room).collect();
        room -= text.chars().count();
        read += 1;
        let heading = passage.heading.as_deref().unwrap_or(&passage.title);
        asked.push_str(&format!("[{read}] {heading}\n{text}\n\n"));
        if room == 0 {
            break;
        }
    }
    asked.push_str(&format!("Question: {}", input.text));
    (asked, read)
}

/// The numbers in an answer, made those of the passages that it cites.
fn cited(written: &str, passages: &[Passage]) -> Answer {
    let mut order: Vec<usize> = Vec::new();
    let (mut answer, mut rest) = (String::new(), written.trim());
    while let Some(begin) = rest.find('[') {
        answer.push_str(&rest[..begin]);
        rest = &rest[begin + 1..];
        let number = rest.split_once(']').and_then(|(number, after)| {
            let index = number.trim().parse::<usize>().ok()?.checked_sub(1)?;
            (index < passages.len()).then_some((index, after))
        });
        let Some((index, after)) = number else {
            answer.push('[');
            continue;
        };
        rest = after;
        let place = order.iter().position(|known| *known == index);
        let place = place.unwrap_or_else(|| {
            order.push(index);
            order.len() - 1
        });
        answer.push_str(&format!("[{}]", place + 1));
    }
    answer.push_str(rest);
    let citations: Vec<Citation> = order
        .iter()
        .map(|index| {
            let passage = &passages[*index];
            let words: Vec<&str> = passage.text.split_whitespace().collect();
            passage.cite(0, words.join(" "))
        })
        .collect();
    Answer {
        confidence: grounded(&answer, &citations),
        answer,
        citations,
    }
}

/// How many of an answer's telling words stand in what it cites.
fn grounded(answer: &str, citations: &[Citation]) -> f64 {
    let telling = |text: &str| -> BTreeSet<String> {
        let words = words(text);
        let telling = words.iter().filter(|word| {
            !word.is_stop() && !word.folded.bytes().all(|byte| byte.is_ascii_digit())
        });
        telling.map(Word::term).collect()
    };
    let said = telling(answer);
    let quotes: Vec<&str> = citations.iter().map(|it| it.quote.as_str()).collect();
    let there = telling(&quotes.join(" "));
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    if said.is_empty() || citations.is_empty() {
        return 0.0;
    }
    let share = number(said.intersection(&there).count()) / number(said.len());
    (share * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn passage(key: &str, heading: Option<&str>, text: &str) -> Passage {
        Passage {
            key: key.to_owned(),
            title: key.to_owned(),
            heading: heading.map(str::to_owned),
            page: None,
            position: 0,
            offset: 7,
            text: text.to_owned(),
        }
    }

    fn answered(written: &'static str) -> Answer {
        let _test = heyday_sdk::test::Context::new()
            .generates("m", move |request| {
                assert!(request.messages[1].content.contains("[2] Rotors\nA rotor"));
                written.to_owned()
            })
            .enter();
        answer(Question {
            model: "m".to_owned(),
            text: "How is a rotor balanced?".to_owned(),
            passages: vec![
                passage("bread", None, "Bread rises."),
                passage(
                    "rotors",
                    Some("Rotors"),
                    "A rotor is balanced\nwith weights.",
                ),
            ],
        })
        .unwrap()
    }

    #[test]
    fn what_the_model_cites_is_told_and_what_it_makes_up_is_not_sure() {
        let found = answered(" Rotors are balanced with weights. [2] ");
        assert_eq!(found.answer, "Rotors are balanced with weights. [1]");
        assert_eq!(found.citations[0].key, "rotors");
        assert_eq!(
            found.citations[0].quote,
            "A rotor is balanced with weights."
        );
        assert!((found.confidence - 1.0).abs() < 1e-9);
        let found = answered("Elephants balance rotors in Bergen [2], and [9] [x] too.");
        assert!(found.confidence < 0.6, "{}", found.confidence);
        assert!(found.answer.contains("[9] [x]"));
        let found = answered("I do not know.");
        assert_eq!((found.citations.len(), found.confidence), (0, 0.0));
    }

    #[test]
    fn a_model_with_a_small_window_reads_less() {
        let _test = heyday_sdk::test::Context::new()
            .generates("m", |request| {
                assert!(request.messages[1].content.contains("Question: How?"));
                "Rotors are balanced. [1]".to_owned()
            })
            .enter();
        let long = "A rotor is balanced. ".repeat(300);
        let question = |text: &str| Question {
            model: "m".to_owned(),
            text: text.to_owned(),
            passages: vec![passage("rotors", None, &long), passage("more", None, &long)],
        };
        let found = answer(question("How?")).unwrap();
        assert_eq!(found.citations[0].key, "rotors");
        // No passage makes room for a question that fills the window by itself.
        let error = answer(question(&"How? ".repeat(300))).unwrap_err();
        assert_eq!(error.kind(), "input-too-long");
    }

    #[test]
    fn an_answer_that_the_window_cut_off_is_asked_for_again_and_no_other() {
        for (finish_reason, completion_tokens, expected) in [
            (FinishReason::Length, u64::from(MOST_TOKENS) - 1, true),
            (FinishReason::Length, u64::from(MOST_TOKENS), false),
            (FinishReason::Stop, 5, false),
        ] {
            let summary = Summary {
                finish_reason,
                prompt_tokens: 100,
                completion_tokens,
            };
            assert_eq!(is_cut_off(&summary), expected, "{summary:?}");
        }
        let asked = Rc::new(Cell::new(0));
        let count = Rc::clone(&asked);
        let _test = heyday_sdk::test::Context::new()
            .generates("m", move |_| {
                count.set(count.get() + 1);
                "word ".repeat(2 * MOST_TOKENS as usize)
            })
            .enter();
        let found = answer(Question {
            model: "m".to_owned(),
            text: "How?".to_owned(),
            passages: vec![passage("rotors", None, &"A rotor turns. ".repeat(20))],
        });
        assert_eq!(found.unwrap().citations.len(), 0);
        assert_eq!(asked.get(), 1);
    }
}
