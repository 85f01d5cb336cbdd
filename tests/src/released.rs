//! What was released stays: `tests/wit` has the interfaces of each release, and
//! `tests/guests/released-*` a component that is built against each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::json;
use wit_parser::{
    Function, Handle, PackageId, Resolve, Type, TypeDefKind, TypeId, TypeOwner, WorldItem, WorldKey,
};

use crate::support::server::Server;
use crate::support::{component, repository};

/// A package of interfaces: its parts as text, by their names. What only people read is
/// not in it.
struct Package {
    /// `heyday:kv`, and the part of its version within which all versions link.
    name: String,
    /// Types and functions of each interface.
    interfaces: BTreeMap<String, BTreeMap<String, String>>,
    /// What each world imports and exports.
    worlds: BTreeMap<String, [BTreeSet<String>; 2]>,
}

/// A named type, with the interface that has it.
fn called(resolve: &Resolve, id: TypeId) -> Option<String> {
    let named = &resolve.types[id];
    let name = named.name.as_ref()?;
    let owner = match named.owner {
        TypeOwner::Interface(id) => resolve.interfaces[id].name.as_deref(),
        TypeOwner::World(_) | TypeOwner::None => None,
    };
    Some(format!("{}.{name}", owner.unwrap_or_default()))
}

/// A type where it is used.
fn used(resolve: &Resolve, of: &Type) -> String {
    match of {
        Type::Id(id) => called(resolve, *id).unwrap_or_else(|| definition(resolve, *id)),
        primitive => format!("{primitive:?}").to_lowercase(),
    }
}

/// A type where there may be none.
fn maybe(resolve: &Resolve, of: Option<&Type>) -> String {
    of.map_or_else(|| "_".to_owned(), |of| used(resolve, of))
}

/// A type where it is made.
fn definition(resolve: &Resolve, id: TypeId) -> String {
    let kind = &resolve.types[id].kind;
    let name = kind.as_str();
    let parts: Vec<String> = match kind {
        TypeDefKind::Record(record) => {
            let fields = record.fields.iter();
            fields
                .map(|it| format!("{}: {}", it.name, used(resolve, &it.ty)))
                .collect()
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter();
            cases
                .map(|it| format!("{}: {}", it.name, maybe(resolve, it.ty.as_ref())))
                .collect()
        }
        TypeDefKind::Enum(all) => all.cases.iter().map(|it| it.name.clone()).collect(),
        TypeDefKind::Flags(all) => all.flags.iter().map(|it| it.name.clone()).collect(),
        TypeDefKind::Tuple(tuple) => tuple.types.iter().map(|it| used(resolve, it)).collect(),
        TypeDefKind::Resource => Vec::new(),
        TypeDefKind::Handle(Handle::Own(id) | Handle::Borrow(id)) => {
            vec![used(resolve, &Type::Id(*id))]
        }
        TypeDefKind::Option(of) | TypeDefKind::List(of) | TypeDefKind::Type(of) => {
            vec![used(resolve, of)]
        }
        TypeDefKind::Result(of) => vec![
            maybe(resolve, of.ok.as_ref()),
            maybe(resolve, of.err.as_ref()),
        ],
        _ => panic!("no interface had a {name} so far; say here what is compared of it"),
    };
    format!("{name}<{}>", parts.join(", "))
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let parameters = function.params.iter();
    let parameters: Vec<String> = parameters
        .map(|it| format!("{}: {}", it.name, used(resolve, &it.ty)))
        .collect();
    let how = if function.kind.is_async() {
        "async func"
    } else {
        "func"
    };
    let answer = maybe(resolve, function.result.as_ref());
    format!("{how}({}) -> {answer}", parameters.join(", "))
}

/// What a world imports or exports, as text.
fn item(resolve: &Resolve, key: &WorldKey, item: &WorldItem) -> String {
    match (key, item) {
        (WorldKey::Interface(id), _) => resolve.interfaces[*id].name.clone().unwrap_or_default(),
        (WorldKey::Name(name), WorldItem::Function(function)) => {
            format!("{name}: {}", signature(resolve, function))
        }
        (WorldKey::Name(name), _) => {
            panic!("no world had {name} by itself so far; say here what is compared of it")
        }
    }
}

impl Package {
    fn of(resolve: &Resolve, id: PackageId) -> Self {
        let package = &resolve.packages[id];
        let name = &package.name;
        let version = name.version.as_ref().unwrap();
        let interfaces = package.interfaces.iter().map(|(name, id)| {
            let interface = &resolve.interfaces[*id];
            let types = interface.types.iter();
            let types = types.map(|(name, id)| (format!("type {name}"), definition(resolve, *id)));
            let functions = interface.functions.iter();
            let functions =
                functions.map(|(name, it)| (format!("func {name}"), signature(resolve, it)));
            let parts: BTreeMap<String, String> = types.chain(functions).collect();
            (name.clone(), parts)
        });
        let worlds = package.worlds.iter().map(|(name, id)| {
            let world = &resolve.worlds[*id];
            let sides = [&world.imports, &world.exports].map(|side| {
                let items = side.iter().map(|(key, of)| item(resolve, key, of));
                items.collect::<BTreeSet<String>>()
            });
            (name.clone(), sides)
        });
        Self {
            name: format!(
                "{}:{}@{}.{}",
                name.namespace, name.name, version.major, version.minor
            ),
            interfaces: interfaces.collect(),
            worlds: worlds.collect(),
        }
    }

    /// The packages in the folders of a folder, by their names.
    fn all(folder: &Path) -> BTreeMap<String, Self> {
        let mut all = BTreeMap::new();
        for folder in folders(folder) {
            let mut resolve = Resolve::default();
            let (id, _) = resolve.push_dir(&folder).unwrap();
            let package = Self::of(&resolve, id);
            all.insert(package.name.clone(), package);
        }
        all
    }

    /// What a component that knows this package would miss in a newer one, or have to
    /// have for it.
    fn faults(&self, newer: &Self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |what: String| faults.push(format!("{}: {what}", self.name));
        let exports = self.worlds.values().flat_map(|[_, exports]| exports);
        let exported: BTreeSet<&String> = exports.collect();
        if self.name != newer.name {
            fault(format!("its name is {}", newer.name));
        }
        for (name, old) in &self.interfaces {
            let Some(new) = newer.interfaces.get(name) else {
                fault(format!("{name} is gone"));
                continue;
            };
            for (part, old) in old {
                match new.get(part) {
                    Some(new) if new == old => {}
                    Some(new) => fault(format!("{name}: {part} was {old} and is {new}")),
                    None => fault(format!("{name}: {part} is gone")),
                }
            }
            let gained = new.keys().filter(|part| !old.contains_key(*part));
            for part in gained.filter(|_| exported.contains(name)) {
                fault(format!("{name} is exported and has gained {part}"));
            }
        }
        for (name, [imports, exports]) in &self.worlds {
            let Some([new_imports, new_exports]) = newer.worlds.get(name) else {
                fault(format!("the world {name} is gone"));
                continue;
            };
            for import in imports.difference(new_imports) {
                fault(format!("the world {name} does not import {import}"));
            }
            for export in exports.symmetric_difference(new_exports) {
                fault(format!("the world {name} has changed its export {export}"));
            }
        }
        faults
    }
}

/// The folders in a folder.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// The folder of each release's interfaces.
fn releases() -> Vec<PathBuf> {
    let releases = folders(&repository().join("tests/wit"));
    assert!(!releases.is_empty());
    releases
}

#[test]
fn interfaces_have_all_that_each_release_had() {
    let now = Package::all(&repository().join("wit"));
    let mut faults = Vec::new();
    for release in releases() {
        let packages = Package::all(&release);
        assert!(packages.len() > 8, "{}", release.display());
        for (name, package) in packages {
            match now.get(&name) {
                Some(newer) => faults.extend(package.faults(newer)),
                None => faults.push(format!("{name} is gone")),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_kind_of_failure_of_the_host_is_explained() {
    let root = repository();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let source = read("host/durable/src/failure.rs");
    let kinds: Vec<&str> = source
        .lines()
        .filter(|line| line.trim_start().starts_with("pub const"))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    assert!(kinds.contains(&"worker-lost"), "{kinds:?}");
    let interface = read("wit/plugin/plugin.wit");
    let page = read("docs/errors.md");
    for kind in kinds {
        let explained = interface.lines().any(|line| {
            let text = line.trim_start().strip_prefix("/// `");
            text.is_some_and(|text| {
                let names = text.split_once(": ").map_or("", |(names, _)| names);
                names.split('`').any(|name| name == kind)
            })
        });
        assert!(explained, "{kind} in plugin.wit");
        assert!(page.contains(&format!("`{kind}`")), "{kind} in errors.md");
    }
}

#[test]
fn what_would_break_a_component_is_named() {
    const RELEASED: &str = "
        package heyday:box@0.1.0;
        interface inside {
            record error { code: string, }
            variant condition { always, version(u64), }
            enum level { low, high, }
            resource store {
                open: static func(name: string) -> result<store, error>;
                get: func(key: string, so: condition) -> option<list<u8>>;
            }
            level-of: func() -> level;
        }
        interface answers { run: func(input: string) -> result<string, string>; }
        world plugin { import inside; export answers; }";
    let read = |text: &str| {
        let mut resolve = Resolve::default();
        let id = resolve.push_source("box.wit", text).unwrap();
        Package::of(&resolve, id)
    };
    let released = read(RELEASED);
    let changed = |old: &str, new: &str| {
        assert!(RELEASED.contains(old), "{old}");
        read(&(RELEASED.replace(old, new) + " interface more { more: func(); }"))
    };
    for (old, new) in [
        ("@0.1.0", "@0.1.7"),
        ("enum level", "record more { a: u8, } enum level"),
        ("level-of:", "more: func() -> string; level-of:"),
        ("get: func", "put: func(key: string); get: func"),
        ("import inside;", "import inside; import more;"),
    ] {
        let faults = released.faults(&changed(old, new));
        assert!(faults.is_empty(), "{faults:?}");
    }
    for (old, new, expected) in [
        ("@0.1.0", "@0.2.0", "its name is heyday:box@0.2"),
        (
            "code: string,",
            "code: string, at: option<u8>,",
            "inside: type error was record<code: string> and is \
             record<code: string, at: option<u8>>",
        ),
        (
            "version(u64)",
            "version(u32)",
            "inside: type condition was variant<always: _, version: u64> and is \
             variant<always: _, version: u32>",
        ),
        (
            "low, high,",
            "low, middle, high,",
            "inside: type level was enum<low, high> and is enum<low, middle, high>",
        ),
        (
            "option<list<u8>>",
            "result<list<u8>, error>",
            "inside: func [method]store.get was func(self: borrow<inside.store>, key: string, \
             so: inside.condition) -> option<list<u8>> and is func(self: borrow<inside.store>, \
             key: string, so: inside.condition) -> result<list<u8>, inside.error>",
        ),
        (
            "level-of: func() -> level;",
            "",
            "inside: func level-of is gone",
        ),
        (
            "run: func",
            "stop: func(); run: func",
            "answers is exported and has gained func stop",
        ),
        (
            "import inside;",
            "",
            "the world plugin does not import inside",
        ),
        (
            "export answers;",
            "export answers; export more;",
            "the world plugin has changed its export more",
        ),
        ("world plugin", "world plug-in", "the world plugin is gone"),
    ] {
        let faults = released.faults(&changed(old, new));
        assert_eq!(faults, [format!("heyday:box@0.1: {expected}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_each_release_still_runs() {
    let server = Server::start().await.unwrap();
    for release in releases() {
        let version = release.file_name().unwrap().to_str().unwrap();
        let name = format!("released-{}", version.replace('.', "-"));
        let pushed = server.client.push(component(&name), "").await.unwrap();
        assert_eq!(pushed["active"], true, "{pushed}");
        let input = json!({ "n": 1 });
        let activity = format!("{name}.tell");
        let told = server.client.succeed(&activity, &input).await.unwrap();
        let expected = json!({
            "last": input, "attempt": 2, "of_the_run": true, "in_time": true,
            "cancelled": false, "reason": false,
        });
        assert_eq!(told, expected, "{name}");
    }
}
