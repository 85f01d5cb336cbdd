//! candle's side of the benchmarks of models.
//!
//!     heyday-bench-candle encoder|decoder MODEL
//!
//! Reads a BERT encoder or a Llama decoder from the folder MODEL by candle's own
//! implementation, and answers each line of its standard input with one of JSON; the first
//! line, `{}`, says that it is ready. Threads are as many as `RAYON_NUM_THREADS` says.
//!
//! - `{"ids": [[...], ...], "seconds": 0.5}`: computes the embeddings of this batch, all of
//!   one length, again and again for so long: `{"rounds": 7, "seconds": 0.53, "vectors": [...]}`.
//! - `{"ids": [[...], ...], "tokens": 32}`: continues these prompts, all of one length, by the
//!   likeliest token each time: `{"seconds": 1.2, "tokens": [[...], ...]}`.
//!
//! `peers/bench` starts it and asks. Start reading at `serve`, which gives each line to `embed`
//! or `generate`.

#![allow(clippy::print_stdout, reason = "a command line")]

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, llama};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Asked {
    ids: Vec<Vec<u32>>,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    tokens: usize,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let kind = arguments.next().context("encoder or decoder")?;
    let folder = PathBuf::from(arguments.next().context("a model's folder")?);
    match kind.to_str() {
        Some("encoder") => {
            let encoder = bert::BertModel::load(weights(&folder)?, &config(&folder)?)?;
            serve(|asked| embed(&encoder, asked))
        }
        Some("decoder") => {
            let config: llama::LlamaConfig = config(&folder)?;
            let config = config.into_config(false);
            let decoder = llama::Llama::load(weights(&folder)?, &config)?;
            serve(|asked| generate(&decoder, &config, asked))
        }
        _ => bail!("encoder or decoder"),
    }
}

fn config<T: DeserializeOwned>(folder: &Path) -> anyhow::Result<T> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn weights(folder: &Path) -> anyhow::Result<VarBuilder<'static>> {
    let path = folder.join("model.safetensors");
    let tensors: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu)?;
    Ok(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

fn serve(mut answer: impl FnMut(&Asked) -> anyhow::Result<Value>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{{}}")?;
    for line in std::io::stdin().lock().lines() {
        let asked: Asked = serde_json::from_str(&line?)?;
        writeln!(out, "{}", answer(&asked)?)?;
        out.flush()?;
    }
    Ok(())
}

fn batch(ids: &[Vec<u32>]) -> anyhow::Result<Tensor> {
    let width = ids.first().context("a batch")?.len();
    let all = ids.concat();
    Ok(Tensor::from_vec(all, (ids.len(), width), &Device::Cpu)?)
}

fn embed(encoder: &bert::BertModel, asked: &Asked) -> anyhow::Result<Value> {
    let ids = batch(&asked.ids)?;
    let types = ids.zeros_like()?;
    let begun = Instant::now();
    let mut rounds = 0;
    loop {
        let mean = encoder.forward(&ids, &types, None)?.mean(1)?;
        let length = mean.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        let vectors: Vec<Vec<f32>> = mean.broadcast_div(&length)?.to_vec2()?;
        rounds += 1;
        let seconds = begun.elapsed().as_secs_f64();
        if seconds >= asked.seconds {
            return Ok(json!({ "rounds": rounds, "seconds": seconds, "vectors": vectors }));
        }
    }
}

fn generate(
    decoder: &llama::Llama,
    config: &llama::Config,
    asked: &Asked,
) -> anyhow::Result<Value> {
    let mut cache = llama::Cache::new(true, DType::F32, config, &Device::Cpu)?;
    let mut input = batch(&asked.ids)?;
    let mut made = vec![Vec::new(); asked.ids.len()];
    let mut read = 0;
    let begun = Instant::now();
    for _ in 0..asked.tokens {
        let logits = decoder.forward(&input, read, &mut cache)?;
        read += input.dim(1)?;
        let likeliest = logits.argmax(D::Minus1)?;
        for (made, token) in made.iter_mut().zip(likeliest.to_vec1::<u32>()?) {
            made.push(token);
        }
        input = likeliest.unsqueeze(1)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(json!({ "seconds": seconds, "tokens": made }))
}
