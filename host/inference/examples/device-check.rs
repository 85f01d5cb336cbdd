//! Compares devices on one model: what they compute, and how many texts a second.
//!
//!     device-check MODEL REFERENCE SECONDS DEVICE...
//!
//! MODEL is a folder with an embedding model, REFERENCE what `tests/inference/reference.py`
//! wrote, SECONDS how long each size is measured, each DEVICE `cpu` or `gpu:N`. One line of
//! JSON for each thing that was found.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::Path;
use std::time::{Duration, Instant};

use heyday_inference::model::{Limits, Model, ModelFiles, Tokens, average};
use heyday_inference::{Device, LongText};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

const BATCHES: [usize; 4] = [1, 8, 32, 256];
const LENGTHS: [usize; 2] = [64, 256];
/// Iterations before a size is measured: kernels are compiled and tuned then.
const WARM_UP: usize = 4;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, reference, seconds, devices @ ..] = arguments.as_slice() else {
        return Err("device-check MODEL REFERENCE SECONDS DEVICE...".into());
    };
    let seconds = Duration::from_secs_f64(seconds.parse()?);
    let reference: Vec<Value> = serde_json::from_slice(&std::fs::read(reference)?)?;
    let files = ModelFiles::find(Path::new(folder))?;
    for choice in devices {
        let begin = Instant::now();
        let device = Device::open(choice.parse()?)?;
        let opened = begin.elapsed();
        let model = Model::load(&files, &Limits::default(), &device)?;
        println!(
            "{}",
            json!({
                "device": choice, "name": device.name(), "gpu": device.is_gpu(),
                "opened_s": opened.as_secs_f64(), "loaded_s": (begin.elapsed() - opened).as_secs_f64(),
            })
        );
        println!(
            "{}",
            json!({"device": choice, "accuracy": accuracy(&model, &reference, folder)?})
        );
        for length in LENGTHS {
            for batch in BATCHES {
                println!("{}", speed(&model, choice, length, batch, seconds)?);
            }
        }
    }
    Ok(())
}

/// The largest differences from the reference, by how long texts were handled.
fn accuracy(model: &Model, reference: &[Value], folder: &str) -> Result<Value, Failure> {
    let name = Path::new(folder).file_name();
    let mut found = serde_json::Map::new();
    for case in reference {
        let of = case["model"].as_str().unwrap_or_default();
        if Path::new(of).file_name() != name || case["task"] != "embed" {
            continue;
        }
        let long = match case["long"].as_str() {
            Some("refuse") => LongText::Refuse,
            Some("truncate") => LongText::Truncate,
            _ => LongText::Split,
        };
        let texts: Vec<String> = serde_json::from_value(case["texts"].clone())?;
        let expected: Vec<Vec<f32>> = serde_json::from_value(case["values"].clone())?;
        let mut largest = 0.0_f32;
        let mut windows = Vec::new();
        for text in &texts {
            windows.push(model.tokenizer.text(text, long)?);
        }
        let pieces: Vec<&Tokens> = windows.iter().flat_map(|window| &window.pieces).collect();
        let mut computed = model.compute(&pieces)?.into_iter();
        for (window, expected) in windows.iter().zip(&expected) {
            let vectors = computed.by_ref().take(window.pieces.len()).collect();
            let lengths: Vec<usize> = window.pieces.iter().map(|piece| piece.ids.len()).collect();
            let vector = average(vectors, &lengths, model.properties().normalized);
            for (a, b) in vector.iter().zip(expected) {
                largest = largest.max((a - b).abs());
            }
        }
        let key = case["long"].as_str().unwrap_or_default().to_owned();
        found.insert(key, json!({"texts": texts.len(), "max_abs_error": largest}));
    }
    Ok(Value::Object(found))
}

fn speed(
    model: &Model,
    device: &str,
    length: usize,
    batch: usize,
    seconds: Duration,
) -> Result<Value, Failure> {
    let text = "The rotor balance was measured twice before the bearing failed again. ".repeat(60);
    let window = model.tokenizer.text(&text, LongText::Split)?;
    let ids: Vec<u32> = window
        .pieces
        .iter()
        .flat_map(|piece| piece.ids.clone())
        .collect();
    let sequences: Vec<Tokens> = (0..batch)
        .map(|number| Tokens {
            ids: ids
                .iter()
                .cycle()
                .skip(number)
                .take(length)
                .copied()
                .collect(),
            types: None,
        })
        .collect();
    let sequences: Vec<&Tokens> = sequences.iter().collect();
    let begin = Instant::now();
    model.compute(&sequences)?;
    let first = begin.elapsed();
    for _ in 1..WARM_UP {
        model.compute(&sequences)?;
        if begin.elapsed() > seconds * 4 {
            break;
        }
    }
    let (begin, mut count, mut best) = (Instant::now(), 0_u32, f64::MAX);
    while count < 3 || begin.elapsed() < seconds {
        let one = Instant::now();
        model.compute(&sequences)?;
        best = best.min(one.elapsed().as_secs_f64());
        count += 1;
    }
    let mean = begin.elapsed().as_secs_f64() / f64::from(count);
    let batch_size = batch as f64;
    Ok(json!({
        "device": device, "tokens": length, "batch": batch, "iterations": count,
        "texts_per_s": batch_size / mean, "best_texts_per_s": batch_size / best,
        "first_s": first.as_secs_f64(),
    }))
}
