//! How many tokens a second a model generates, for one text and for several at once.
//!
//!     generate-speed MODEL TOKENS DEVICE...
//!
//! MODEL is a folder with a model that generates, TOKENS how many each text has, each DEVICE
//! `cpu` or `gpu:N`. One line of JSON for each device and number of texts. A text that the
//! model ends sooner is counted as far as it came.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use heyday_inference::model::Limits;
use heyday_inference::{Caller, GenerateRequest, Inference, InferenceError, ModelStore, Options};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const TEXTS: [usize; 4] = [1, 2, 4, 8];
const NAME: &str = "model";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens, devices @ ..] = arguments.as_slice() else {
        return Err("generate-speed MODEL TOKENS DEVICE...".into());
    };
    let tokens: u32 = tokens.parse()?;
    let folder = tempfile::tempdir()?;
    let limits = Limits {
        model_bytes: u64::MAX,
        ..Limits::default()
    };
    let store = ModelStore::open(folder.path(), limits)?;
    store.import(NAME, Path::new(model))?;
    let store = Arc::new(store);
    for device in devices {
        let options = Options {
            device: device.parse()?,
            memory_bytes: u64::MAX,
            ..Options::default()
        };
        let inference = Inference::start(Arc::clone(&store), &options)?;
        inference.warm_up(NAME).await?;
        for texts in TEXTS {
            let begin = Instant::now();
            let asked: Vec<_> = (0..texts)
                .map(|number| tokio::spawn(text(inference.clone(), number, tokens)))
                .collect();
            let mut generated = 0;
            for asked in asked {
                generated += asked.await??;
            }
            let seconds = begin.elapsed().as_secs_f64();
            let line = json!({
                "device": device, "texts": texts, "tokens": generated,
                "tokens_per_second": generated as f64 / seconds,
            });
            println!("{line}");
        }
    }
    Ok(())
}

/// Tokens of one text; each has a caller of its own.
async fn text(inference: Inference, number: usize, tokens: u32) -> Result<u64, InferenceError> {
    let caller = Caller {
        namespace: "default".to_owned(),
        plugin: format!("plugin-{number}"),
    };
    let request = GenerateRequest {
        prompt: Some(format!("Text number {number}")),
        max_tokens: Some(tokens),
        temperature: Some(0.0),
        ..GenerateRequest::default()
    };
    let mut generation = inference.generate(caller, NAME, request).await?;
    generation.text().await?;
    Ok(generation.usage().completion_tokens)
}
