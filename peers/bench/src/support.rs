//! What the integration tests have: questions and what answers them, the knowledge example,
//! and the servers that they start, as they start them. `cargo xtask bench` fetches those
//! and names their folders.
//!
//! Servers are started on the thread that waits for the benchmark: the kernel ends a server
//! with the thread that started it.

#![allow(dead_code, clippy::unwrap_used, reason = "written for the tests")]

#[path = "../../../tests/src/support/example.rs"]
pub mod example;
#[path = "../../../tests/src/support/fresh.rs"]
pub mod fresh;
#[path = "../../../tests/src/support/judged.rs"]
pub mod judged;
#[path = "../../../tests/src/support/keeper.rs"]
pub mod keeper;
#[path = "../../../tests/src/support/neo4j.rs"]
pub mod neo4j;
#[path = "../../../tests/src/support/ports.rs"]
pub mod ports;
#[path = "../../../tests/src/support/postgres.rs"]
pub mod postgres;
#[path = "../../../tests/src/support/signals.rs"]
pub mod signals;
#[path = "../../../tests/src/support/weaviate.rs"]
pub mod weaviate;

/// What those modules need of the tests' own server.
pub mod server {
    pub use crate::servers::PATIENCE;
}

/// A server that those modules start, which panic where it does not start: why is printed,
/// and the rest is measured without it.
pub fn started<T>(name: &str, start: impl FnOnce() -> Option<T>) -> Option<T> {
    let start = std::panic::AssertUnwindSafe(start);
    std::panic::catch_unwind(start).unwrap_or_else(|why| {
        let why: &str = match (why.downcast_ref::<String>(), why.downcast_ref::<&str>()) {
            (Some(why), _) => why,
            (None, Some(&why)) => why,
            (None, None) => "it panicked",
        };
        crate::report::compared(name, Err(anyhow::anyhow!("{why}")))
    })
}

/// A folder of programs that `cargo xtask bench` names in a variable; it has said why
/// where there is none.
pub fn folder(variable: &str) -> Option<std::path::PathBuf> {
    std::env::var_os(variable).map(Into::into)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_server_that_does_not_start_is_left_out() {
        assert_eq!(super::started("a server", || Some(7)), Some(7));
        assert_eq!(super::started("a server", || None::<u8>), None);
        let panics = || -> Option<u8> { panic!("it ended") };
        assert_eq!(super::started("a server", panics), None);
    }
}
