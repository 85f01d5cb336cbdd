//! What each benchmark needs beside the harness: had while that compiles.
//!
//! Fetching waits for the network, and what the guests and peers compile leaves a core free most
//! of the time, so all of it runs beside the one long build ([`beside`]). The program on candle
//! is built after it: both would wait for the same build folder.

use std::path::{Path, PathBuf};

use crate::process::{Project, timed};
use crate::{guests, inference, neo4j, real_temporal, weaviate};

use super::times::{Kind, Times};
use super::{Name, peers};

/// Where something lies, or why it cannot be had.
pub type Part = anyhow::Result<PathBuf>;

/// Makes a server ready to be started.
type Install = fn() -> anyhow::Result<()>;

/// What a benchmark is given.
pub struct Parts {
    /// The server that it starts as the tests do, where it needs one.
    pub server: Option<anyhow::Result<()>>,
    /// Options of the harness; what may be missing may be an error in the list.
    pub options: anyhow::Result<Vec<(&'static str, Part)>>,
}

/// The server that a benchmark starts as the tests do: what it is, and what makes it ready.
fn server(name: Name) -> Option<(&'static str, Install)> {
    match name {
        Name::HostCalls => Some(("PostgreSQL", real_temporal::install_postgres)),
        Name::Vectors => Some(("Weaviate", weaviate::install)),
        Name::Graphs => Some(("Neo4j", neo4j::install)),
        _ => None,
    }
}

/// Builds the guests, and has what these benchmarks need, in their order, while something is
/// built that may need the evaluator.
pub fn beside(
    project: &Project,
    names: &[Name],
    times: &Times,
    build: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Parts>> {
    let pending = guests::Pending::begin(project)?;
    std::thread::scope(|scope| {
        let guests = scope.spawn(|| {
            times.count(Kind::Builds, "the guests", || {
                timed("building the guests", || {
                    guests::build_pending(project, pending)
                })
            })
        });
        let parts = scope.spawn(|| {
            let had = names.iter().map(|name| parts(project, *name, times));
            had.collect::<Vec<_>>()
        });
        let built = build();
        let guests = guests
            .join()
            .map_err(|_| anyhow::anyhow!("building the guests panicked"))?;
        let parts = parts
            .join()
            .map_err(|_| anyhow::anyhow!("fetching the peers panicked"))?;
        guests.and(built)?;
        Ok(parts)
    })
}

fn parts(project: &Project, name: Name, times: &Times) -> Parts {
    let server = server(name)
        .map(|(what, install)| times.count(Kind::Fetching, what, || timed(what, install)));
    Parts {
        server,
        options: options(project, name, times),
    }
}

fn options(
    project: &Project,
    name: Name,
    times: &Times,
) -> anyhow::Result<Vec<(&'static str, Part)>> {
    let peers: &Path = &project.root.join("peers");
    let part = |kind, name: &str, make: &dyn Fn() -> Part| times.count(kind, name, make);
    let temporal = || peers::temporal(peers);
    let minilm = || inference::minilm(project);
    Ok(match name {
        Name::Workflow => {
            let restate = || peers::restate(peers);
            vec![
                ("--peers", Ok(peers.to_owned())),
                ("--restate", part(Kind::Fetching, "Restate", &restate)),
                ("--temporal", part(Kind::Fetching, "Temporal", &temporal)),
                ("--strace", part(Kind::Fetching, "strace", &peers::strace)),
            ]
        }
        // Without a cluster there is nothing to measure.
        Name::Temporal | Name::Workers => {
            let go = || peers::go(project, peers);
            vec![
                ("--peers", Ok(peers.to_owned())),
                (
                    "--temporal",
                    Ok(part(Kind::Fetching, "Temporal", &temporal)?),
                ),
                ("--parrot", Ok(project.components().join("parrot.wasm"))),
                ("--go", part(Kind::Builds, "the worker in Go", &go)),
            ]
        }
        // Without its weights there is nothing to measure.
        Name::Inference => {
            let onnxruntime = || peers::onnxruntime(peers);
            vec![
                ("--peers", Ok(peers.to_owned())),
                ("--minilm", Ok(part(Kind::Fetching, "MiniLM", &minilm)?)),
                (
                    "--onnxruntime",
                    part(Kind::Fetching, "onnxruntime", &onnxruntime),
                ),
            ]
        }
        Name::Retrieval => vec![
            ("--repository", Ok(project.root.clone())),
            ("--minilm", part(Kind::Fetching, "MiniLM", &minilm)),
        ],
        _ => Vec::new(),
    })
}
