//! Embeddings of all-MiniLM-L6-v2, in batches of one length, from tokens to vectors: ours
//! against onnxruntime, with the graph that its optimizer makes, and candle. Each computes
//! the same batch for a while, in turns; all must find the same vectors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use heyday_inference::Device;
use heyday_inference::model::{Model, ModelFiles, Tokens};
use serde_json::{Value, json};

use super::peer::Peer;
use super::{Options, THREADS, limits};
use crate::clustered::Numbers;
use crate::report::{Figure, Goal, Report, Sides, compared};

/// Texts of a batch, and tokens of each.
const BATCHES: [(usize, usize); 6] = [(1, 64), (8, 64), (32, 64), (1, 256), (8, 256), (32, 256)];
/// What stands around a text's tokens, and the numbers of words.
const BEGIN: u32 = 101;
const END: u32 = 102;
const WORDS: (u32, usize) = (2_000, 20_000);
/// How far two implementations may be apart.
const NEAR: f32 = 1e-4;

/// Our side.
struct Ours {
    model: Model,
    threads: rayon::ThreadPool,
}

impl Ours {
    /// Texts per second, and their vectors.
    fn compute(&self, ids: &[Vec<u32>], seconds: f64) -> anyhow::Result<(f64, Vec<Vec<f32>>)> {
        let texts: Vec<Tokens> = ids
            .iter()
            .map(|ids| Tokens {
                ids: ids.clone(),
                types: None,
            })
            .collect();
        let batch: Vec<&Tokens> = texts.iter().collect();
        self.threads.install(|| {
            let begun = Instant::now();
            let mut rounds = 0.0;
            loop {
                let vectors = self.model.compute(&batch).map_err(anyhow::Error::msg)?;
                rounds += 1.0;
                let took = begun.elapsed().as_secs_f64();
                if took >= seconds {
                    return Ok((rounds * ids.len() as f64 / took, vectors));
                }
            }
        })
    }
}

/// Measures all of it.
pub async fn run(report: &mut Report, options: &Options, quick: bool) -> anyhow::Result<()> {
    let files = ModelFiles::find(&options.minilm)?;
    let ours = Arc::new(Ours {
        model: Model::load(&files, &limits(), &Device::cpu())?,
        threads: rayon::ThreadPoolBuilder::new()
            .num_threads(THREADS)
            .build()?,
    });
    let mut peers = Vec::new();
    if let Some(environment) = &options.onnxruntime {
        let started = Peer::onnxruntime(environment, &options.peers, &options.minilm).await;
        peers.extend(compared("onnxruntime", started));
    }
    if let Some(program) = &options.candle {
        let started = Peer::candle(program, "encoder", &options.minilm).await;
        peers.extend(compared("candle", started));
    }
    let (turns, time) = if quick {
        (1, Duration::ZERO)
    } else {
        (7, Duration::from_millis(600))
    };
    let batches = if quick { &BATCHES[..2] } else { &BATCHES };
    for &(texts, tokens) in batches {
        measure(report, &ours, &mut peers, (texts, tokens), turns, time).await?;
    }
    Ok(())
}

async fn measure(
    report: &mut Report,
    ours: &Arc<Ours>,
    peers: &mut [Peer],
    (texts, tokens): (usize, usize),
    turns: usize,
    time: Duration,
) -> anyhow::Result<()> {
    let mut numbers = Numbers::new(0x5eed);
    let ids: Vec<Vec<u32>> = (0..texts)
        .map(|_| {
            let words = (2..tokens).map(|_| WORDS.0 + numbers.below(WORDS.1) as u32);
            std::iter::once(BEGIN).chain(words).chain([END]).collect()
        })
        .collect();
    let seconds = time.as_secs_f64();
    let mut sides: Vec<Sides> = peers.iter().map(|_| Sides::default()).collect();
    let mut alone = Sides::default();
    // The first turn warms up.
    for turn in 0..=turns {
        let (ours, own) = (Arc::clone(ours), ids.clone());
        let computing = tokio::task::spawn_blocking(move || ours.compute(&own, seconds));
        let (found, vectors) = computing.await??;
        let mut theirs = Vec::new();
        for peer in &mut *peers {
            let answer = peer.ask(&json!({ "ids": ids, "seconds": seconds })).await?;
            theirs.push(speed(&answer, texts)?);
            let apart = apart(&vectors, &answer)?;
            if apart > NEAR {
                bail!("{} finds other vectors, {apart} apart", peer.name);
            }
        }
        if turn == 0 {
            continue;
        }
        alone.push(found, found);
        for (sides, peer) in sides.iter_mut().zip(theirs) {
            sides.push(found, peer);
        }
    }
    let name = format!("inference.embed.{texts}_texts_{tokens}_tokens");
    let figure = |name: String, value, peer| Figure {
        name,
        value,
        unit: "per s",
        peer,
        goal: Some(Goal::RatioAtLeast(1.0)),
    };
    if peers.is_empty() {
        report.add(figure(name, alone.medians().0, None));
        return Ok(());
    }
    for (place, (peer, sides)) in peers.iter().zip(&sides).enumerate() {
        let (value, theirs) = sides.medians();
        let name = match place {
            0 => name.clone(),
            _ => format!("{name}_by_{}", peer.name),
        };
        report.add(figure(name, value, Some((peer.name, theirs))));
        println!("    {} by turns", sides.spread());
    }
    Ok(())
}

/// Texts per second, as a peer says.
fn speed(answer: &Value, texts: usize) -> anyhow::Result<f64> {
    let rounds = answer["rounds"].as_f64().context("rounds")?;
    let seconds = answer["seconds"].as_f64().context("seconds")?;
    Ok(rounds * texts as f64 / seconds)
}

/// The largest difference of two numbers.
fn apart(ours: &[Vec<f32>], answer: &Value) -> anyhow::Result<f32> {
    let theirs: Vec<Vec<f32>> = serde_json::from_value(answer["vectors"].clone())?;
    if theirs.len() != ours.len() || theirs.iter().zip(ours).any(|(a, b)| a.len() != b.len()) {
        bail!("vectors of other sizes");
    }
    let pairs = ours.iter().flatten().zip(theirs.iter().flatten());
    Ok(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}
