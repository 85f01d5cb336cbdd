//! What the tests share: the real server in a process of its own, a client for it, the
//! command line, the built components, certificates and a TLS front, and readers
//! for the specification's kit.

pub mod backends;
pub mod buckets;
pub mod certificates;
pub mod cli;
pub mod cluster;
pub mod collector;
pub mod documents;
pub mod emulator;
pub mod example;
pub mod fresh;
pub mod front;
pub mod gherkin;
pub mod google_stand_in;
pub mod google_storage;
pub mod handmade;
pub mod held;
pub mod http_server;
pub mod judged;
pub mod keeper;
pub mod neo4j;
pub mod ports;
pub mod postgres;
pub mod probe;
pub mod relay;
pub mod s3;
pub mod s3_below_a_path;
pub mod secret_manager_stand_in;
pub mod server;
pub mod signals;
pub mod temporal;
pub mod weaviate;
pub mod worker;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Waits until something is looked at again that was first looked at then: an eighth of the time
/// since. What comes soon is seen soon, and who waits long leaves the machine to what is waited
/// for, which a look each few milliseconds kept busy.
pub async fn pause(since: Instant) {
    let (least, most) = (Duration::from_millis(10), Duration::from_millis(100));
    tokio::time::sleep((since.elapsed() / 8).clamp(least, most)).await;
}

/// Where `cargo xtask` put the built components.
pub fn component(name: &str) -> Vec<u8> {
    let folder = std::env::var_os("HEYDAY_COMPONENTS")
        .map(PathBuf::from)
        .expect("HEYDAY_COMPONENTS is set by `cargo xtask test`; run the tests with it");
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The built component of that name under another one of as many letters: another plugin,
/// which does the same. What it writes must not have its name in it.
pub fn renamed(name: &str, other: &str) -> Vec<u8> {
    assert_eq!(name.len(), other.len(), "lengths stand in the binary");
    let mut bytes = component(name);
    let mut at = 0;
    while let Some(found) = bytes[at..]
        .windows(name.len())
        .position(|window| window == name.as_bytes())
    {
        let place = at + found;
        at = place + name.len();
        bytes[place..at].copy_from_slice(other.as_bytes());
    }
    bytes
}

/// The repository whose tests cargo runs. With a target folder of two checkouts they may have
/// been built in the other one.
pub fn repository() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR");
    let manifest = manifest.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.join("..")
}

/// The folder of the examples.
pub fn examples() -> PathBuf {
    repository().join("examples")
}

/// The built `heyday`.
pub fn binary() -> PathBuf {
    std::env::var_os("HEYDAY_BIN")
        .map(PathBuf::from)
        .expect("HEYDAY_BIN is set by `cargo xtask test`; run the tests with it")
}

/// Where all servers of the tests keep compiled code, so that each component is compiled
/// once, and the evaluator not at all where an earlier run did.
pub fn cache() -> PathBuf {
    std::env::var_os("HEYDAY_CACHE")
        .map_or_else(|| binary().with_file_name("compiled"), PathBuf::from)
}

/// What the folders are of that `cargo xtask test` names in these variables.
const FOLDERS: [(&str, &str); 6] = [
    ("HEYDAY_POSTGRES", "PostgreSQL"),
    ("HEYDAY_TEMPORAL_SERVER", "Temporal's real server"),
    ("HEYDAY_NEO4J", "Neo4j"),
    ("HEYDAY_WEAVIATE", "Weaviate"),
    ("HEYDAY_S3_GATEWAY", "a gateway that speaks S3"),
    ("HEYDAY_GCS_EMULATOR", "an emulator of Google Cloud Storage"),
];

/// Lists the test that asks as not run, or those of its rows that need this; which fails where
/// nothing may be missing.
pub fn not_run(what: &str, why: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!in_ci, "all that needs {what} would not run: {why}");
    eprintln!("not run: all that needs {what}: {why}");
    let Some(list) = std::env::var_os("HEYDAY_NOT_RUN") else {
        return;
    };
    // The harness calls each test's thread as the test.
    let thread = std::thread::current();
    let line = format!("{what}\t{}\n", thread.name().unwrap_or("a test"));
    let list = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(list);
    list.unwrap().write_all(line.as_bytes()).unwrap();
}

/// A folder of programs that `cargo xtask test` names in a variable. Without it the caller
/// leaves out its tests, or the rows of them, and they are [listed](not_run).
pub fn folder(variable: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(variable) {
        return Some(folder.into());
    }
    let known = FOLDERS.iter().find(|(name, _)| *name == variable);
    let what = known.map_or(variable, |(_, what)| what);
    not_run(what, &format!("{variable} is set by `cargo xtask test`"));
    None
}

/// The folder of the specification, its examples and its kit. Without one the caller
/// leaves out its tests, and they are [listed](not_run).
pub fn specification() -> Option<PathBuf> {
    let folder = std::env::var_os("HEYDAY_SPEC_DIR").map_or_else(
        || repository().join("../shared/serverless-workflow"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    not_run("the specification", "it is missing; set HEYDAY_SPEC_DIR");
    None
}
