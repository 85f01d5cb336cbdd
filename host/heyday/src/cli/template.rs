//! `heyday plugin new` and `upgrade`: a plugin's folder with everything it needs to build.
//!
//! The binary carries the SDK, its macros and the WIT packages of its own version, and a
//! template with a lock file. They are written into the plugin's own folder:
//!
//! ```text
//! NAME/Cargo.toml  src/lib.rs  Cargo.lock     the plugin: its author's
//! NAME/heyday-sdk/                            the SDK and its macros: replaced by `upgrade`
//! NAME/wit/                                   the WIT packages: replaced by `upgrade`
//! ```
//!
//! So a clone of the folder builds anywhere, without this repository and without this
//! binary, and plain `cargo test` runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::error::CliError;
use super::view;

static TEMPLATE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk-guest/template");
static SDK_SOURCE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk-guest/src");
static MACROS_SOURCE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk-guest/macros/src");
static WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../wit");
static SDK_MANIFEST: &[u8] = include_bytes!("../../../../sdk-guest/Cargo.toml");
static MACROS_MANIFEST: &[u8] = include_bytes!("../../../../sdk-guest/macros/Cargo.toml");

/// The SDK's folder in a plugin's.
const SDK: &str = "heyday-sdk";
/// The folder of the WIT packages in a plugin's; the SDK looks for it beside its own.
const WIT_FOLDER: &str = "wit";
/// The lock file.
const LOCK: &str = "Cargo.lock";
/// A WIT package that only the host's own evaluator uses.
const INTERNAL_WIT: &str = "expressions";
/// The place in the template where the plugin's name goes.
const NAME: &str = "{{name}}";
/// Names that cargo refuses for a package, or that Rust keeps for itself.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

/// Files by their path below the plugin's folder.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn add(files: &mut Files, below: &Path, folder: &Dir<'_>) {
    for file in folder.files() {
        files.insert(below.join(file.path()), file.contents().to_vec());
    }
    for inner in folder.dirs() {
        add(files, below, inner);
    }
}

/// What `upgrade` replaces: the SDK and the WIT packages.
fn sdk_files() -> Files {
    let mut files = Files::new();
    let sdk = Path::new(SDK);
    files.insert(sdk.join("Cargo.toml"), SDK_MANIFEST.to_vec());
    files.insert(sdk.join("macros/Cargo.toml"), MACROS_MANIFEST.to_vec());
    add(&mut files, &sdk.join("src"), &SDK_SOURCE);
    add(&mut files, &sdk.join("macros/src"), &MACROS_SOURCE);
    add(&mut files, Path::new(WIT_FOLDER), &WIT);
    files.retain(|path, _| !path.starts_with(Path::new(WIT_FOLDER).join(INTERNAL_WIT)));
    files
}

/// Everything that `new` writes.
fn plugin_files(name: &str) -> Files {
    let mut files = Files::new();
    add(&mut files, Path::new(""), &TEMPLATE);
    for (path, contents) in &mut files {
        let text = String::from_utf8_lossy(contents).replace(NAME, name);
        let text = if path == Path::new(LOCK) {
            sorted_lock(&text)
        } else {
            text
        };
        *contents = text.into_bytes();
    }
    files.extend(sdk_files());
    files
}

/// A lock file whose packages are in cargo's order again after one was renamed, so that
/// `--locked` accepts it.
fn sorted_lock(text: &str) -> String {
    const PACKAGE: &str = "[[package]]\n";
    let mut parts = text.split(PACKAGE);
    let head = parts.next().unwrap_or_default();
    let mut packages: Vec<String> = parts
        .map(|package| format!("{}\n", package.trim_end()))
        .collect();
    packages.sort_by_key(|package| {
        // As cargo orders them: 0.9 before 0.10.
        let version = semver::Version::parse(&value(package, "version"));
        (value(package, "name"), version.ok())
    });
    let packages: Vec<String> = packages
        .iter()
        .map(|package| format!("{PACKAGE}{package}"))
        .collect();
    format!("{head}{}", packages.join("\n"))
}

/// The text of `key = "..."` in a package of a lock file.
fn value(package: &str, key: &str) -> String {
    package
        .lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .trim_start()
                .strip_prefix("= \"")?
                .strip_suffix('"')
        })
        .unwrap_or_default()
        .to_owned()
}

/// The names of the packages in a lock file.
fn locked_names(lock: &str) -> Vec<String> {
    lock.split("[[package]]\n")
        .skip(1)
        .map(|package| value(package, "name"))
        .collect()
}

/// The names of what a package in a lock file depends on.
fn depends(lock: &str, name: &str) -> BTreeSet<String> {
    let packages = lock.split("[[package]]\n").skip(1);
    let own = packages.filter(|package| value(package, "name") == name);
    own.flat_map(str::lines)
        .filter_map(|line| line.strip_prefix(" \""))
        .filter_map(|line| line.split([' ', '"']).next())
        .map(str::to_owned)
        .collect()
}

/// Refuses a name that the server, cargo or Rust would refuse later.
pub fn check_name(name: &str) -> Result<(), CliError> {
    if !view::is_name(name) {
        return Err(CliError::usage_help(
            format!("{name:?} cannot be a plugin's name"),
            "a name has 1 to 63 lower-case letters, digits and hyphens, and begins with a letter: `word-count`",
        ));
    }
    let reserved = RESERVED.contains(&name);
    let lock = TEMPLATE
        .get_file(LOCK)
        .and_then(|file| file.contents_utf8())
        .unwrap_or_default();
    if reserved || locked_names(lock).iter().any(|locked| locked == name) {
        let whose = if reserved {
            "a word of Rust or cargo"
        } else {
            "the name of a crate that the SDK needs"
        };
        return Err(CliError::usage_help(
            format!("{name:?} cannot be a plugin's name: it is {whose}"),
            format!("add a word, such as `{name}-plugin`"),
        ));
    }
    Ok(())
}

fn write(folder: &Path, files: &Files) -> anyhow::Result<()> {
    use anyhow::Context as _;
    for (path, contents) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("{} cannot be made", parent.display()))?;
        }
        std::fs::write(&path, contents)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

/// Makes a plugin of that name in a folder that is not there yet.
///
/// # Errors
/// When the name cannot be, the folder is there, or it cannot be written.
pub fn create(name: &str, folder: &Path) -> Result<(), CliError> {
    check_name(name)?;
    if folder.symlink_metadata().is_ok() {
        return Err(CliError::Refused {
            message: format!("{} is there already", folder.display()),
            help: Some("choose another name, or another place with --path DIR".to_owned()),
        });
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return Err(CliError::usage(format!(
            "the folder {} is not there",
            parent.display()
        )));
    }
    // Written beside and renamed: an interrupted `new` leaves no half plugin.
    let made = || -> anyhow::Result<()> {
        let beside = tempfile::Builder::new()
            .prefix(".heyday-new-")
            .tempdir_in(parent)?;
        let inner = beside.path().join(name);
        write(&inner, &plugin_files(name))?;
        std::fs::rename(&inner, folder)?;
        Ok(())
    };
    made().map_err(|error| {
        CliError::Other(error.context(format!("{} cannot be made", folder.display())))
    })
}

/// What `upgrade` did with the lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Replaced by this version's.
    Replaced,
    /// Kept, because it pins crates of the plugin's own; cargo adds what the SDK needs.
    Kept,
}

/// Replaces the SDK, the WIT packages and the lock file of a plugin by this version's.
///
/// # Errors
/// When the folder is no plugin made by `plugin new`, or cannot be written.
pub fn upgrade(folder: &Path) -> Result<Lock, CliError> {
    let manifest = folder.join("Cargo.toml");
    if !folder.join(SDK).join("Cargo.toml").is_file() || !manifest.is_file() {
        return Err(CliError::usage_help(
            format!(
                "{} has no {SDK} folder: it was not made by `heyday plugin new`",
                folder.display()
            ),
            "name the plugin's folder",
        ));
    }
    let name = package_name(&manifest)?;
    let mut files = plugin_files(&name);
    let own = files.remove(Path::new(LOCK)).unwrap_or_default();
    let own = String::from_utf8_lossy(&own).into_owned();
    files.retain(|path, _| path.starts_with(SDK) || path.starts_with(WIT_FOLDER));
    let there = std::fs::read_to_string(folder.join(LOCK)).unwrap_or_default();
    let known = locked_names(&own);
    // A plugin may use a crate that the SDK needs, too.
    let replace = locked_names(&there)
        .iter()
        .all(|locked| known.contains(locked))
        && depends(&there, &name).is_subset(&depends(&own, &name));
    if replace {
        files.insert(PathBuf::from(LOCK), own.into_bytes());
    }
    let replaced = || -> anyhow::Result<()> {
        let beside = tempfile::Builder::new()
            .prefix(".heyday-upgrade-")
            .tempdir_in(folder)?;
        write(&beside.path().join("new"), &files)?;
        for part in [SDK, WIT_FOLDER] {
            // The old one moves into the temporary folder and goes with it.
            if folder.join(part).exists() {
                std::fs::rename(folder.join(part), beside.path().join(part))?;
            }
            std::fs::rename(beside.path().join("new").join(part), folder.join(part))?;
        }
        if replace {
            std::fs::rename(beside.path().join("new").join(LOCK), folder.join(LOCK))?;
        }
        Ok(())
    };
    replaced().map_err(|error| {
        CliError::Other(error.context(format!("{} cannot be upgraded", folder.display())))
    })?;
    Ok(if replace { Lock::Replaced } else { Lock::Kept })
}

/// The package's name in a manifest.
pub fn package_name(manifest: &Path) -> Result<String, CliError> {
    let unreadable =
        |error: &dyn std::fmt::Display| CliError::usage(format!("{}: {error}", manifest.display()));
    let text = std::fs::read_to_string(manifest).map_err(|error| unreadable(&error))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| unreadable(&error))?;
    let name = table
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(toml::Value::as_str);
    name.map(str::to_owned)
        .ok_or_else(|| unreadable(&"it has no package name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files_below(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(next) = open.pop() {
            for entry in std::fs::read_dir(next).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    open.push(path)
                } else {
                    found.push(path)
                }
            }
        }
        found
    }

    #[test]
    fn a_new_plugin_has_all_it_needs() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("word-count");
        create("word-count", &folder).expect("made");
        for path in [
            "Cargo.toml",
            "Cargo.lock",
            "src/lib.rs",
            "heyday-sdk/Cargo.toml",
            "heyday-sdk/src/lib.rs",
            "heyday-sdk/macros/Cargo.toml",
            "heyday-sdk/macros/src/lib.rs",
            "wit/plugin/plugin.wit",
            "wit/sql/sql.wit",
            "wit/blob/blob.wit",
            "wit/kv/kv.wit",
            "wit/graph/graph.wit",
        ] {
            assert!(folder.join(path).is_file(), "{path}");
        }
        for path in files_below(&folder) {
            let below = path.strip_prefix(&folder).expect("below");
            assert!(
                !below.components().any(|part| part.as_os_str() == "target"),
                "{}",
                below.display()
            );
            let text = std::fs::read_to_string(&path).expect("text");
            assert!(
                !text.contains(NAME),
                "{} has a placeholder",
                below.display()
            );
        }
        assert_eq!(
            package_name(&folder.join("Cargo.toml")).expect("a name"),
            "word-count"
        );
        let lock = std::fs::read_to_string(folder.join(LOCK)).expect("a lock file");
        let names = locked_names(&lock);
        assert!(names.contains(&"word-count".to_owned()), "{names:?}");
        assert!(names.is_sorted(), "{names:?}");
        // The template's was made by cargo, so that its order is cargo's.
        let template = TEMPLATE
            .get_file(LOCK)
            .and_then(|file| file.contents_utf8());
        let others = |lock: &str, own: &str| -> Vec<String> {
            let packages = lock.split("[[package]]\n").map(str::trim_end);
            let others = packages.filter(|package| value(package, "name") != own);
            others.map(str::to_owned).collect()
        };
        assert_eq!(
            others(&lock, "word-count"),
            others(template.expect("a lock file"), NAME)
        );
        assert_eq!(
            std::fs::read_dir(parent.path()).expect("a folder").count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let parent = tempfile::tempdir().expect("a folder");
        let error = create("greet", parent.path()).expect_err("refused");
        assert_eq!(error.code(), 4);
        let nowhere = parent.path().join("no/such/greet");
        assert_eq!(create("greet", &nowhere).expect_err("refused").code(), 2);
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in [
            "",
            "Greet",
            "1st",
            "a_b",
            "a/b",
            "../x",
            "fn",
            "test",
            "std",
            "serde",
            "heyday-sdk",
        ] {
            let error = check_name(name).expect_err(name);
            assert_eq!(error.code(), 2, "{name}");
        }
        for name in ["greet", "word-count", "x1"] {
            check_name(name).expect(name);
        }
    }

    #[test]
    fn an_upgrade_replaces_the_sdk_and_leaves_the_plugin() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("greet");
        create("greet", &folder).expect("made");
        let before = std::fs::read(folder.join(LOCK)).expect("a lock file");
        std::fs::write(folder.join("src/lib.rs"), "// mine").expect("written");
        std::fs::write(folder.join("heyday-sdk/src/old.rs"), "").expect("written");
        std::fs::write(folder.join(LOCK), "").expect("written");
        assert_eq!(upgrade(&folder).expect("upgraded"), Lock::Replaced);
        assert_eq!(
            std::fs::read(folder.join(LOCK)).expect("a lock file"),
            before
        );
        assert_eq!(
            std::fs::read_to_string(folder.join("src/lib.rs")).expect("kept"),
            "// mine"
        );
        assert!(!folder.join("heyday-sdk/src/old.rs").exists());

        let before = String::from_utf8(before).expect("text");
        let package = "[[package]]\nname = \"zzz-own\"\nversion = \"1.0.0\"\n";
        let dependency = " \"heyday-sdk\",\n";
        for own in [
            format!("{before}\n{package}"),
            // One that the SDK needs for tests.
            before.replacen(dependency, &format!(" \"csv\",\n{dependency}"), 1),
        ] {
            assert_ne!(own, before);
            std::fs::write(folder.join(LOCK), &own).expect("written");
            assert_eq!(upgrade(&folder).expect("upgraded"), Lock::Kept);
            assert_eq!(
                std::fs::read_to_string(folder.join(LOCK)).expect("kept"),
                own
            );
        }
    }

    #[test]
    fn an_upgrade_wants_a_plugin_of_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(upgrade(folder.path()).expect_err("refused").code(), 2);
    }
}
