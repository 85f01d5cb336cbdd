//! The interfaces in `wit` explain themselves, and the codes of their errors are the host's.

use std::collections::BTreeSet;
use std::path::Path;

use wit_parser::{Docs, Resolve, TypeDefKind};

use crate::support::repository;

/// The names of what lies in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Each package by the name of its folder.
fn packages() -> Vec<(String, Resolve)> {
    let folder = repository().join("wit");
    let packages = names(&folder).into_iter().map(|name| {
        let mut resolve = Resolve::default();
        resolve.push_dir(folder.join(&name)).unwrap();
        (name, resolve)
    });
    let packages: Vec<_> = packages.collect();
    assert!(packages.len() > 9);
    packages
}

/// What an error's `code` may be: each line that begins with one says when it is answered.
fn explained(docs: &Docs) -> BTreeSet<String> {
    let lines = docs.contents.as_deref().unwrap_or_default().lines();
    let codes = lines.filter_map(|line| {
        let (code, words) = line.strip_prefix('`')?.split_once("`: ")?;
        (!words.trim().is_empty()).then(|| code.to_owned())
    });
    codes.collect()
}

/// The codes that a package explains.
fn codes(resolve: &Resolve) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (_, definition) in resolve.types.iter() {
        if let (Some("error"), TypeDefKind::Record(record)) =
            (definition.name.as_deref(), &definition.kind)
        {
            let fields = record.fields.iter().filter(|field| field.name == "code");
            codes.extend(fields.flat_map(|field| explained(&field.docs)));
        }
    }
    codes
}

/// The codes in the source of who answers a package's errors, from one line of it to
/// another: each is the last text of its line.
fn answered(package: &str) -> BTreeSet<String> {
    let capability = format!("host/capabilities/src/{package}/mod.rs");
    let (file, begin, end) = match package {
        "plugin" => ("host/sandbox/src/plugin.rs", "fn heartbeat(", "    }"),
        "expressions" => ("plugins/expressions/src/program.rs", "fn as_str(", "    }"),
        _ => (capability.as_str(), "codes! {", "}"),
    };
    let source = std::fs::read_to_string(repository().join(file)).unwrap();
    let lines = source.lines().skip_while(|line| !line.contains(begin));
    let lines = lines.take_while(|line| *line != end);
    let codes = lines.filter_map(|line| line.strip_suffix("\",")?.rsplit_once('"'));
    codes.map(|(_, code)| code.to_owned()).collect()
}

#[test]
fn each_function_is_explained() {
    let mut bare = Vec::new();
    for (package, resolve) in packages() {
        for (_, interface) in resolve.interfaces.iter() {
            for function in interface.functions.values() {
                let docs = function.docs.contents.as_deref().unwrap_or_default();
                if docs.trim().is_empty() {
                    bare.push(format!("{package}: {}", function.name));
                }
            }
        }
    }
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}

#[test]
fn the_codes_of_errors_are_those_that_are_answered() {
    let packages = packages();
    for (package, resolve) in &packages {
        let answered = answered(package);
        assert!(!answered.is_empty(), "{package}");
        assert_eq!(codes(resolve), answered, "{package}");
    }
    // None of them is forgotten: whoever has codes has a package.
    let folder = repository().join("host/capabilities/src");
    let mut found = 0;
    for name in names(&folder) {
        let source = std::fs::read_to_string(folder.join(&name).join("mod.rs"));
        if source.is_ok_and(|source| source.contains("\ncodes! {")) {
            found += 1;
            let has_package = packages.iter().any(|(package, _)| *package == name);
            assert!(has_package, "{name} has no package in wit");
        }
    }
    // All but those of what every plugin exports, and of the evaluator.
    assert_eq!(found, packages.len() - 2);
}
