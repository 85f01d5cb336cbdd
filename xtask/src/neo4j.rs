//! Neo4j's Community Edition, for the tests: the server as Maven Central has it, kept in
//! the user's cache folder, on Debian's Java.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use heyday_toolchain::cache_folder;

use crate::{process, temporal};

/// The version of `org.neo4j:neo4j`.
const VERSION: &str = "5.26.30";
/// Where it lies below the cache folder.
const FOLDER: &str = "neo4j-5.26.30";
/// What copies an artifact with all that it needs into a folder.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";

/// The folder of the server's jars, if they were fetched and there is a Java for them.
pub fn server() -> Option<PathBuf> {
    let folder = cache_folder().ok()?.join(FOLDER);
    (folder.is_dir() && process::find("java").is_some()).then_some(folder)
}

/// Fetches and installs what is missing; the error says what cannot be had here.
pub fn install() -> anyhow::Result<()> {
    let folder = cache_folder()?.join(FOLDER);
    let has = |program: &str| process::find(program).is_some();
    process::apt_install(&missing(folder.is_dir(), has))?;
    temporal::install_once(&folder, fetch)
}

/// The packages to install: Java, and Maven where the jars are still to be fetched.
fn missing(fetched: bool, has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages = Vec::new();
    if !has("java") {
        packages.push("default-jre-headless");
    }
    if !fetched && !has("mvn") {
        packages.push("maven");
    }
    packages
}

fn fetch(folder: &Path) -> anyhow::Result<()> {
    let project = folder.join("pom.xml");
    std::fs::write(
        &project,
        format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\
             <modelVersion>4.0.0</modelVersion>\
             <groupId>heyday</groupId><artifactId>neo4j</artifactId><version>1</version>\
             <packaging>pom</packaging><dependencies><dependency><groupId>org.neo4j</groupId>\
             <artifactId>neo4j</artifactId><version>{VERSION}</version></dependency>\
             </dependencies></project>"
        ),
    )?;
    let mut command = process::command("mvn");
    command
        .args(["-q", "-B", COPY, "-DincludeScope=runtime"])
        .arg("-f")
        .arg(&project)
        .arg(format!("-DoutputDirectory={}", folder.display()));
    process::run(&mut command).context("Neo4j cannot be fetched")?;
    std::fs::remove_file(&project)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn all_that_is_missing_is_told_at_once() {
        let packages = ["default-jre-headless", "maven"];
        assert_eq!(missing(false, |_| false), packages);
        assert_eq!(missing(false, |program| program == "java"), packages[1..]);
        assert_eq!(missing(false, |program| program == "mvn"), packages[..1]);
        assert_eq!(missing(true, |_| false), packages[..1], "nothing to fetch");
        assert!(missing(false, |_| true).is_empty());
    }
}
