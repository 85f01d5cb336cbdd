//! The real Temporal server and PostgreSQL, for the tests: the server as the Go module
//! proxy has it, built once into the user's cache folder, and Debian's PostgreSQL.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::{go, process};

/// The server's module and its version.
const MODULE: &str = "go.temporal.io/server";
const VERSION: &str = "v1.29.1";
/// Where its programs lie below the cache folder.
const FOLDER: &str = "temporal-server-1.29.1";
/// Its programs, by their places in the module: the server, and what makes its tables.
const PROGRAMS: [&str; 2] = ["cmd/server", "cmd/tools/sql"];
/// Where Debian puts the programs of each version of PostgreSQL.
const POSTGRES: &str = "/usr/lib/postgresql";

/// The folder of the server's programs, if they are built.
pub fn server() -> Option<PathBuf> {
    process::cached(FOLDER)
}

/// The folder of PostgreSQL's programs, if they are installed.
pub fn postgres() -> Option<PathBuf> {
    let whole = |folder: &Path| {
        ["initdb", "postgres", "pg_isready"]
            .iter()
            .all(|program| folder.join(program).is_file())
    };
    if let Some(program) = process::find("postgres")
        && let Some(folder) = program.parent().filter(|folder| whole(folder))
    {
        return Some(folder.to_owned());
    }
    let versions = std::fs::read_dir(POSTGRES).ok()?;
    versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| whole(folder))
        .max()
}

/// Installs PostgreSQL where it is missing.
pub fn install_postgres() -> anyhow::Result<()> {
    if postgres().is_none() {
        process::apt_install(&["postgresql"])?;
        postgres().context("apt-get installed no PostgreSQL")?;
    }
    Ok(())
}

/// Builds and installs what is missing; the error says what cannot be had here.
pub fn install() -> anyhow::Result<()> {
    install_postgres()?;
    let programs = PROGRAMS.map(|program| format!("{MODULE}/{program}@{VERSION}"));
    go::build(FOLDER, &programs)
}
