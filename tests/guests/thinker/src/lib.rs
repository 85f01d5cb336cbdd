//! What the integration tests ask models for: it imports `inference`, and names no queue but
//! in one place. The contract asserts here and answers or fails; it runs natively too, against
//! the SDK's stand-ins.
//!
//! The way of a call: an activity opens the model that its input names, which the test granted,
//! asks it once or again and again, and answers what came. Start reading at `embed`, and at
//! `contract` for what is promised; text is generated in `talk`.

use std::hint::black_box;
use std::time::Instant;

use heyday_sdk::inference::{LongText, Model, cosine, models};
use heyday_sdk::prelude::*;

/// Fails with the kind `contract` where the host did otherwise than its WIT says.
fn ensure(holds: bool, what: impl std::fmt::Display) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::permanent("contract", what.to_string()))
}

fn ensure_code<T>(
    answer: std::result::Result<T, heyday_sdk::CapabilityError>,
    code: &str,
    what: &str,
) -> Result<heyday_sdk::CapabilityError> {
    match answer {
        Err(error) if error.is(code) => Ok(error),
        Err(error) => Err(Error::permanent(
            "contract",
            format!("{what}: expected {code}, not {error}"),
        )),
        Ok(_) => Err(Error::permanent(
            "contract",
            format!("{what} was answered; expected {code}"),
        )),
    }
}

/// Which texts are embedded, and how.
#[derive(Deserialize, JsonSchema)]
pub struct Embed {
    model: String,
    texts: Vec<String>,
    /// `refuse`, `truncate` or `split`.
    #[serde(default)]
    long: String,
    /// So often each, to take long.
    #[serde(default)]
    times: usize,
}

/// The embeddings of texts.
#[activity(retry(maximum_attempts = 1))]
pub fn embed(input: Embed) -> Result<Vec<Vec<f32>>> {
    let long = match input.long.as_str() {
        "truncate" => LongText::Truncate,
        "split" => LongText::Split,
        _ => LongText::Refuse,
    };
    let model = Model::open(&input.model)?;
    for _ in 1..input.times {
        model.embed(&input.texts, long)?;
    }
    let found = model.embed(&input.texts, long)?;
    Ok(found.iter().map(<[f32]>::to_vec).collect())
}

/// What is embedded, and how often.
#[derive(Deserialize, JsonSchema)]
pub struct Timed {
    model: String,
    texts: Vec<String>,
    count: usize,
}

/// Asks for the same embeddings so often, for the benchmark of inference; answers how long
/// each call took, in nanoseconds.
#[activity(retry(maximum_attempts = 1))]
pub fn time_embeds(input: Timed) -> Result<Vec<u64>> {
    let model = Model::open(&input.model)?;
    let mut times = Vec::with_capacity(input.count);
    for _ in 0..input.count {
        let begun = Instant::now();
        black_box(model.embed(&input.texts, LongText::Refuse)?);
        times.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

/// What is scored, and for which query.
#[derive(Deserialize, JsonSchema)]
pub struct Rerank {
    model: String,
    query: String,
    documents: Vec<String>,
    /// So often, to take long.
    #[serde(default)]
    times: usize,
}

/// The scores of documents.
#[activity(retry(maximum_attempts = 1))]
pub fn rerank(input: Rerank) -> Result<Vec<f32>> {
    let model = Model::open(&input.model)?;
    for _ in 1..input.times {
        model.rerank(&input.query, &input.documents, LongText::Truncate)?;
    }
    Ok(model.rerank(&input.query, &input.documents, LongText::Truncate)?)
}

/// Names of the models that may be opened; on a queue of its own choice.
#[activity(queue = "general-queue")]
pub fn list() -> Result<Vec<String>> {
    Ok(models()?.into_iter().map(|model| model.name).collect())
}

/// Which models the contract is about.
#[derive(Deserialize, JsonSchema)]
pub struct Contract {
    /// A granted model that embeds.
    embeds: String,
    /// A granted model that scores.
    scores: String,
}

/// Asserts what the interface promises.
#[activity(start_to_close = "2m", retry(maximum_attempts = 1))]
pub fn contract(input: Contract) -> Result<u32> {
    known(&input)?;
    let model = Model::open(&input.embeds)?;
    alike(&model)?;
    long_texts(&model)?;
    bounds(&model)?;
    scores(&model, &Model::open(&input.scores)?)?;
    Ok(5)
}

fn known(input: &Contract) -> Result<()> {
    let found = models()?;
    let names: Vec<&str> = found.iter().map(|model| model.name.as_str()).collect();
    let mut granted = [input.embeds.as_str(), input.scores.as_str()];
    granted.sort_unstable();
    ensure(
        names == granted,
        format!("models lists what was granted, by name: {names:?}"),
    )?;
    for model in &found {
        let properties = Model::open(&model.name)?.properties()?;
        ensure(
            properties == model.properties,
            "a model says what the list says",
        )?;
        let embeds = model.name == input.embeds;
        let task = if embeds { "embed" } else { "rerank" };
        ensure(properties["task"] == task, format!("{properties}"))?;
        ensure(properties["window"].as_u64() >= Some(8), "a window")?;
        ensure(
            properties["dimensions"].is_u64() == embeds,
            "dimensions of what embeds",
        )?;
    }
    ensure_code(
        Model::open("not-granted"),
        "capability-denied",
        "another model",
    )?;
    Ok(())
}

fn alike(model: &Model) -> Result<()> {
    let texts = [
        "a rotor is balanced",
        "the rotor is balanced",
        "a rotor is balanced",
        "",
    ];
    let found = model.embed(texts, LongText::Refuse)?;
    let dimensions = model.properties()?["dimensions"].as_u64();
    ensure(
        Some(found.dimensions() as u64) == dimensions,
        "as many as it says",
    )?;
    ensure(
        found.len() == 4 && found.tokens().len() == 4,
        "one for each text",
    )?;
    ensure(
        found.iter().all(|one| one.len() == found.dimensions()),
        "whole",
    )?;
    ensure(
        cosine(&found[0], &found[2]) > 0.999_9,
        "the same text is the same",
    )?;
    ensure(cosine(&found[0], &found[1]) < 0.999_9, "another is another")?;
    ensure(
        found.iter().flatten().all(|number| number.is_finite()),
        "numbers",
    )?;
    let alone = model.embed([texts[1]], LongText::Refuse)?;
    let apart = found[1].iter().zip(&alone[0]).map(|(a, b)| (a - b).abs());
    ensure(apart.fold(0.0, f32::max) < 1e-4, "alone as among others")?;
    ensure(
        model.embed([""; 0], LongText::Refuse)?.is_empty(),
        "no texts",
    )
}

fn long_texts(model: &Model) -> Result<()> {
    let window = model.properties()?["window"].as_u64().unwrap_or_default() as usize;
    let long = "rotor ".repeat(window) + &"bread ".repeat(window);
    let refused = model.embed(["short", &long], LongText::Refuse);
    let error = ensure_code(refused, "input-too-long", "a text over the window")?;
    let details = error.details.unwrap_or_default();
    ensure(
        details["index"] == 1 && details["window"] == window,
        format!("{details}"),
    )?;
    let cut = model.embed([&long, &"rotor ".repeat(window)], LongText::Truncate)?;
    ensure(
        cut.tokens()[0] as usize == window,
        "no more than the window is read",
    )?;
    ensure(cosine(&cut[0], &cut[1]) > 0.999, "the end is left out")?;
    let split = model.embed([&long], LongText::Split)?;
    ensure(split.tokens()[0] as usize > 2 * window, "all is read")?;
    ensure(cosine(&split[0], &cut[0]) < 0.999, "the end counts")
}

fn bounds(model: &Model) -> Result<()> {
    let many = vec!["x"; 2_049];
    ensure_code(
        model.embed(&many, LongText::Refuse),
        "limit-exceeded",
        "2,049 texts",
    )?;
    let large = "x".repeat((8 << 20) + 1);
    ensure_code(
        model.embed([&large], LongText::Truncate),
        "limit-exceeded",
        "over 8 MiB",
    )?;
    Ok(())
}

fn scores(embeds: &Model, scores: &Model) -> Result<()> {
    let documents = ["a rotor is balanced", "bread", "a rotor is balanced"];
    let found = scores.rerank("rotor", documents, LongText::Refuse)?;
    ensure(found.len() == 3, "one for each document")?;
    ensure(
        (found[0] - found[2]).abs() < 1e-4,
        "the same document, the same score",
    )?;
    ensure(found.iter().all(|score| score.is_finite()), "numbers")?;
    let refused = scores.embed(["x"], LongText::Refuse);
    ensure_code(refused, "unsupported", "embeddings of what scores")?;
    let refused = embeds.rerank("x", ["y"], LongText::Refuse);
    ensure_code(refused, "unsupported", "scores of what embeds")?;
    Ok(())
}

mod talk;

heyday_sdk::plugin!();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_ins_keep_the_contract() {
        let _test = heyday_sdk::test::Context::new()
            .embeddings("small", 48)
            .scores("judge", |query, document| {
                document.matches(query).count() as f32
            })
            .enter();
        let input = Contract {
            embeds: "small".to_owned(),
            scores: "judge".to_owned(),
        };
        assert_eq!(contract(input).expect("the contract"), 5);
    }

    #[test]
    fn the_stand_in_for_what_generates_keeps_its_contract() {
        let _test = heyday_sdk::test::Context::new()
            .embeddings("small", 48)
            .generates("talker", |request| {
                let temperature = request.temperature.unwrap_or(1.0);
                let seed = request.seed.filter(|_| temperature > 0.0);
                format!("one two three four of {seed:?} five six")
            })
            .enter();
        let input = talk::Talk {
            embeds: "small".to_owned(),
            generates: "talker".to_owned(),
        };
        assert_eq!(talk::talk(input).expect("the contract"), 5);
    }
}
