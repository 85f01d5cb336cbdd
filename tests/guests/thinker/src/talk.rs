//! What generates text: asked as tests say, and what the interface promises of it.

use heyday_sdk::inference::{FinishReason, LongText, Message, Model, Request, Summary};
use heyday_sdk::prelude::*;

use crate::{ensure, ensure_code};

#[derive(Deserialize, JsonSchema)]
pub struct Generate {
    model: String,
    /// As `wit/inference` has it.
    request: serde_json::Value,
    /// So often, to take long.
    #[serde(default)]
    times: usize,
    /// Stops after so many pieces.
    #[serde(default)]
    pieces: Option<usize>,
}

#[derive(Serialize, JsonSchema)]
pub struct Generated {
    text: String,
    /// The latest summary; none where it was stopped.
    summary: serde_json::Value,
}

/// A text of a model.
#[activity(retry(maximum_attempts = 1))]
pub fn generate(input: Generate) -> Result<Generated> {
    let model = Model::open(&input.model)?;
    let request: Request = serde_json::from_value(input.request)
        .map_err(|error| Error::permanent("invalid-input", error.to_string()))?;
    for _ in 1..input.times {
        model.generate(&request)?.text()?;
    }
    let mut generation = model.generate(&request)?;
    let Some(pieces) = input.pieces else {
        let text = generation.text()?;
        return Ok(Generated {
            text,
            summary: serde_json::to_value(generation.summary()?).unwrap_or_default(),
        });
    };
    let mut text = String::new();
    for piece in generation.by_ref().take(pieces) {
        text.push_str(&piece?);
    }
    Ok(Generated {
        text,
        summary: serde_json::Value::Null,
    })
}

/// How many texts an attempt may have at once.
#[activity(retry(maximum_attempts = 1))]
pub fn hoard(model: String) -> Result<usize> {
    let model = Model::open(&model)?;
    let mut held = Vec::new();
    loop {
        match model.generate(&Request::prompt("a").max_tokens(1)) {
            Ok(generation) if held.len() < 1_000 => held.push(generation),
            Ok(_) => return Ok(usize::MAX),
            Err(error) if error.is("limit-exceeded") => break,
            Err(error) => return Err(error.into()),
        }
    }
    let count = held.len();
    held.clear();
    // The places are free again.
    model
        .generate(&Request::prompt("a").max_tokens(1))?
        .text()?;
    Ok(count)
}

#[derive(Deserialize, JsonSchema)]
pub struct Talk {
    /// A granted model that embeds.
    pub(crate) embeds: String,
    /// A granted model that generates.
    pub(crate) generates: String,
}

/// Asserts what the interface promises of texts.
#[activity(start_to_close = "2m", retry(maximum_attempts = 1))]
pub fn talk(input: Talk) -> Result<u32> {
    let model = Model::open(&input.generates)?;
    let text = pieces(&model)?;
    ends(&model, &text)?;
    seeds(&model)?;
    refused(&model)?;
    others(&model, &Model::open(&input.embeds)?)?;
    Ok(5)
}

fn likeliest() -> Request {
    Request::prompt("The rotor is")
        .max_tokens(20)
        .temperature(0.0)
}

fn whole(model: &Model, request: &Request) -> Result<(String, Summary)> {
    let mut generation = model.generate(request)?;
    Ok((generation.text()?, generation.summary()?))
}

fn pieces(model: &Model) -> Result<String> {
    let properties = model.properties()?;
    ensure(properties["task"] == "generate", format!("{properties}"))?;
    ensure(properties["window"].as_u64() > Some(64), "a window")?;
    ensure(properties["chat"].is_boolean(), "whether it converses")?;
    let mut generation = model.generate(&likeliest())?;
    let mut text = String::new();
    for piece in generation.by_ref() {
        let piece = piece?;
        ensure(!piece.is_empty(), "no piece is empty")?;
        text.push_str(&piece);
    }
    ensure(generation.next().is_none(), "none after its end")?;
    let summary = generation.summary()?;
    ensure(summary.prompt_tokens >= 3, format!("{summary:?}"))?;
    ensure(
        (1..=20).contains(&summary.completion_tokens),
        format!("{summary:?}"),
    )?;
    // One that is dropped in the middle is no matter for the next.
    drop(model.generate(&likeliest())?);
    let mut begun = model.generate(&likeliest())?;
    ensure(begun.next().is_some(), "it begins")?;
    drop(begun);
    ensure(
        whole(model, &likeliest())?.0 == text,
        "the likeliest text is one",
    )?;
    Ok(text)
}

fn ends(model: &Model, text: &str) -> Result<()> {
    let stop: String = text.chars().skip(4).take(4).collect();
    let (short, summary) = whole(model, &likeliest().stop("no such text").stop(&stop))?;
    let first = text.find(&stop).unwrap_or(text.len());
    ensure(
        short == text[..first],
        format!("{short:?} ends before {stop:?}"),
    )?;
    ensure(
        summary.finish_reason == FinishReason::Stop,
        "a text of `stop` stops",
    )?;
    let (one, summary) = whole(model, &likeliest().max_tokens(1))?;
    ensure(text.starts_with(&one), format!("{one:?} begins it"))?;
    ensure(
        (summary.finish_reason, summary.completion_tokens) == (FinishReason::Length, 1),
        format!("{summary:?}"),
    )
}

fn seeds(model: &Model) -> Result<()> {
    let drawn = |seed| {
        let request = likeliest()
            .temperature(2.0)
            .top_p(0.95)
            .top_k(50)
            .seed(seed);
        Ok::<_, Error>(whole(model, &request)?.0)
    };
    ensure(drawn(1)? == drawn(1)?, "a seed gives the same text")?;
    ensure(drawn(1)? != drawn(2)?, "another seed gives another")
}

fn refused(model: &Model) -> Result<()> {
    for (request, what) in [
        (Request::prompt("x").max_tokens(0), "no tokens"),
        (Request::prompt("x").temperature(2.1), "too hot"),
        (Request::prompt("x").stop(""), "an empty stop"),
        (Request::prompt("x").seed(1 << 53), "a large seed"),
        (Request::chat([]), "no prompt"),
        (
            {
                let mut both = Request::chat([Message::user("x")]);
                both.prompt = Some("x".to_owned());
                both
            },
            "two prompts",
        ),
    ] {
        ensure_code(model.generate(&request), "invalid-request", what)?;
    }
    let window = model.properties()?["window"].as_u64().unwrap_or_default();
    let long = "rotor ".repeat(usize::try_from(window).unwrap_or_default() + 1);
    let error = ensure_code(
        model.generate(&Request::prompt(long)),
        "input-too-long",
        "a prompt over the window",
    )?;
    let details = error.details.unwrap_or_default();
    ensure(details["window"] == window, format!("{details}"))?;
    let large = "x".repeat((8 << 20) + 1);
    ensure_code(
        model.generate(&Request::prompt(large)),
        "limit-exceeded",
        "over 8 MiB",
    )?;
    let mut early = model.generate(&likeliest())?;
    ensure_code(
        early.summary(),
        "invalid-request",
        "a summary before the end",
    )?;
    early.text()?;
    early.summary()?;
    Ok(())
}

fn others(model: &Model, embeds: &Model) -> Result<()> {
    let refused = model.embed(["x"], LongText::Refuse);
    ensure_code(refused, "unsupported", "embeddings of what generates")?;
    let refused = embeds.generate(&Request::prompt("x"));
    ensure_code(refused, "unsupported", "text of what embeds")?;
    Ok(())
}
