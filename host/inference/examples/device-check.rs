//! Compares devices on one model: what they compute, and how many texts a second.
//!
//!     device-check MODEL REFERENCE SECONDS DEVICE...
//!
//! MODEL is a folder with an embedding model, REFERENCE what `tests/inference/reference.py`
//! wrote, SECONDS how long each size is measured, each DEVICE `cpu`, `gpu:N`, or
//! `torch:DEVICE` for the same sizes on PyTorch, as in `torch:cuda:0`
//! (`torch-half:DEVICE` in half precision). One line of JSON for each thing that was found;
//! where PyTorch is not installed, its line says that its figures are left out, and why.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use heyday_inference::model::{Limits, Model, ModelFiles, Tokens, average};
use heyday_inference::{Device, LongText};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

const BATCHES: [usize; 4] = [1, 8, 32, 256];
const LENGTHS: [usize; 2] = [64, 256];
/// Iterations before a size is measured: kernels are compiled and tuned then.
const WARM_UP: usize = 4;
/// PyTorch's side, in here so that this program is all that another machine needs.
const TORCH: &str = include_str!("../../../peers/inference/torch_peer.py");

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, reference, seconds, devices @ ..] = arguments.as_slice() else {
        return Err("device-check MODEL REFERENCE SECONDS DEVICE...".into());
    };
    let seconds = Duration::from_secs_f64(seconds.parse()?);
    let reference: Vec<Value> = serde_json::from_slice(&std::fs::read(reference)?)?;
    let files = ModelFiles::find(Path::new(folder))?;
    for choice in devices {
        if let Some((peer, place)) = choice.split_once(':')
            && let Some(dtype) = torch_type(peer)
        {
            torch(&files, folder, choice, (place, dtype), seconds)?;
            continue;
        }
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
    let sequences = sequences(model, length, batch)?;
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

/// A batch of sequences of that length, each another one.
fn sequences(model: &Model, length: usize, batch: usize) -> Result<Vec<Tokens>, Failure> {
    let text = "The rotor balance was measured twice before the bearing failed again. ".repeat(60);
    let window = model.tokenizer.text(&text, LongText::Split)?;
    let ids: Vec<u32> = window
        .pieces
        .iter()
        .flat_map(|piece| piece.ids.clone())
        .collect();
    let of_one = |number: usize| Tokens {
        ids: ids
            .iter()
            .cycle()
            .skip(number)
            .take(length)
            .copied()
            .collect(),
        types: None,
    };
    Ok((0..batch).map(of_one).collect())
}

/// The numbers that PyTorch computes in, by what stands before its device; none where it is a
/// device of ours.
fn torch_type(peer: &str) -> Option<&'static str> {
    match peer {
        "torch" => Some("float32"),
        "torch-half" => Some("float16"),
        _ => None,
    }
}

/// The same sizes on PyTorch, in a process of its own, and how far its vectors are from those
/// of our CPU.
fn torch(
    files: &ModelFiles,
    folder: &str,
    choice: &str,
    (place, dtype): (&str, &str),
    seconds: Duration,
) -> Result<(), Failure> {
    let mut command = Command::new("python3");
    command.args(["-c", TORCH, folder, place, dtype]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let left_out = |why: &Value| println!("{}", json!({"device": choice, "left_out": why}));
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            left_out(&json!(format!("python3 does not start: {error}")));
            return Ok(());
        }
    };
    let mut asked = child.stdin.take().ok_or("a pipe was asked for")?;
    let answers = child.stdout.take().ok_or("a pipe was asked for")?;
    let mut answers = BufReader::new(answers).lines();
    let mut answer = || -> Result<Value, Failure> {
        let line = answers.next().ok_or("PyTorch's side ended; see above")??;
        Ok(serde_json::from_str(&line)?)
    };
    let ready = answer()?;
    if let Some(why) = ready.get("left_out") {
        left_out(why);
        child.wait()?;
        return Ok(());
    }
    println!(
        "{}",
        json!({"device": choice, "name": ready["name"], "torch": ready["torch"]})
    );
    let model = Model::load(files, &Limits::default(), &Device::cpu())?;
    for length in LENGTHS {
        for batch in BATCHES {
            let sequences = sequences(&model, length, batch)?;
            let ids: Vec<&[u32]> = sequences.iter().map(|it| it.ids.as_slice()).collect();
            let question = json!({"ids": ids, "seconds": seconds.as_secs_f64()});
            writeln!(asked, "{question}")?;
            let computed = answer()?;
            let rounds = computed["rounds"].as_u64().ok_or("no rounds")?;
            let took = computed["seconds"].as_f64().ok_or("no seconds")?;
            let speed = batch as f64 * rounds as f64 / took;
            let theirs: Vec<f32> = serde_json::from_value(computed["vectors"][0].clone())?;
            let ours = model.compute(&[&sequences[0]])?;
            if theirs.len() != ours[0].len() {
                return Err("PyTorch's vectors have another size".into());
            }
            let pairs = theirs.iter().zip(&ours[0]);
            let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!(
                "{}",
                json!({
                    "device": choice, "tokens": length, "batch": batch, "iterations": rounds,
                    "texts_per_s": speed, "max_abs_error": apart,
                })
            );
        }
    }
    // It ends with what it reads.
    drop(asked);
    child.wait()?;
    Ok(())
}
