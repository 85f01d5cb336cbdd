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
pub mod s3;
pub mod s3_below_a_path;
pub mod secret_manager_stand_in;
pub mod server;
pub mod signals;
pub mod temporal;
pub mod weaviate;
pub mod worker;

use std::path::PathBuf;

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

/// The folder of the examples.
pub fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples")
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

/// A folder of programs that `cargo xtask test` names in a variable. Without it the caller
/// lists its tests as not run, which fails where nothing may be missing.
pub fn folder(variable: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(variable) {
        return Some(folder.into());
    }
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    let why = format!("{variable} is set by `cargo xtask test`");
    assert!(!in_ci, "{why}; run the tests with it");
    eprintln!("not run: {why}");
    None
}

/// The folder of the specification, its examples and its kit. Without one the caller
/// lists its tests as not run, which fails where nothing may be missing.
pub fn specification() -> Option<PathBuf> {
    let folder = std::env::var_os("HEYDAY_SPEC_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/serverless-workflow"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!in_ci, "the specification is missing; set HEYDAY_SPEC_DIR");
    eprintln!("not run: the specification is missing; set HEYDAY_SPEC_DIR");
    None
}
