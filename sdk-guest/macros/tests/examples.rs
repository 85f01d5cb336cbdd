//! Every public item of `heyday-sdk` has an example of its own, which `cargo test` runs as
//! a documentation test: what is missing or is no example is named here.
//!
//! It stands beside the macros, which read Rust anyway: the SDK's own manifest is a part of
//! every new plugin, whose lock file would have to name whatever its tests need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::{Attribute, Ident, ImplItem, Item, Meta, TraitItem, UseTree, Visibility};

/// The crate whose items a `pub use` may show as the SDK's own.
const MACROS: &str = "heyday_sdk_macros";

/// A module of the SDK, without those that are hidden.
struct Module {
    /// The last part of its path; `crate` is the root.
    name: String,
    /// Whether its path can be named outside of the crate.
    public: bool,
    documentation: String,
    items: Vec<Item>,
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Whether there is an attribute `#[doc(hidden)]`.
fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        matches!(&attribute.meta, Meta::List(list)
            if list.path.is_ident("doc") && list.tokens.to_string() == "hidden")
    })
}

fn documentation(attributes: &[Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes {
        if let Meta::NameValue(meta) = &attribute.meta
            && meta.path.is_ident("doc")
            && let syn::Expr::Lit(literal) = &meta.value
            && let syn::Lit::Str(line) = &literal.lit
        {
            text.push_str(&line.value());
            text.push('\n');
        }
    }
    text
}

/// Reads a file and the files of its modules. `folder` has the latter.
fn read(file: &Path, folder: &Path, name: &str, public: bool, into: &mut Vec<Module>) {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parsed =
        syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let module = Module {
        name: name.to_owned(),
        public,
        documentation: documentation(&parsed.attrs),
        items: parsed.items,
    };
    read_inner(module, folder, into);
}

/// A module whose items are known, and those in it.
fn read_inner(mut module: Module, folder: &Path, into: &mut Vec<Module>) {
    for item in &mut module.items {
        let Item::Mod(inner) = item else { continue };
        if is_hidden(&inner.attrs) {
            continue;
        }
        let name = inner.ident.to_string();
        let public = module.public && is_public(&inner.vis);
        let below = folder.join(&name);
        if let Some((_, items)) = inner.content.take() {
            let module = Module {
                documentation: documentation(&inner.attrs),
                name,
                public,
                items,
            };
            read_inner(module, &below, into);
        } else {
            let files: [PathBuf; 2] = [below.with_extension("rs"), below.join("mod.rs")];
            let file = files.iter().find(|file| file.is_file());
            let file = file.unwrap_or_else(|| panic!("there is no {}", files[0].display()));
            read(file, &below, &name, public, into);
        }
    }
    into.push(module);
}

/// What a `use` names: each with the part of the path before it.
fn named(tree: &UseTree, before: &str, into: &mut BTreeSet<(String, String)>) {
    let mut add = |ident: &Ident| {
        into.insert((before.to_owned(), ident.to_string()));
    };
    match tree {
        UseTree::Path(path) => named(&path.tree, &path.ident.to_string(), into),
        UseTree::Name(name) => add(&name.ident),
        UseTree::Rename(rename) => add(&rename.ident),
        UseTree::Group(group) => group
            .items
            .iter()
            .for_each(|tree| named(tree, before, into)),
        UseTree::Glob(_) => panic!("{before}::* does not tell what is public"),
    }
}

/// A public item.
struct Documented {
    /// What it is called in a message.
    path: String,
    /// What its example has to name; a module's may name anything.
    name: Option<String>,
    /// Whether it is written exactly so where it is used.
    exact: bool,
    documentation: String,
}

/// What `pub` and `#[macro_export]` show of some modules.
fn public_items(modules: &[Module]) -> Vec<Documented> {
    let mut shown = BTreeSet::new();
    for item in modules.iter().flat_map(|module| &module.items) {
        if let Item::Use(used) = item
            && is_public(&used.vis)
        {
            named(&used.tree, "crate", &mut shown);
        }
    }
    let is_shown =
        |module: &str, ident: &Ident| shown.contains(&(module.to_owned(), ident.to_string()));
    let mut found = Vec::new();
    for module in modules {
        let mut add = |owner: Option<&str>, name: &str, exact: bool, attributes: &[Attribute]| {
            let owner = owner.map_or_else(String::new, |owner| format!("{owner}::"));
            found.push(Documented {
                path: format!("{}::{owner}{name}", module.name),
                name: Some(name.to_owned()),
                exact,
                documentation: documentation(attributes),
            });
        };
        let is_seen = |attributes: &[Attribute], visibility: &Visibility, ident: &Ident| {
            is_public(visibility)
                && !is_hidden(attributes)
                && (module.public || is_shown(&module.name, ident))
        };
        for item in &module.items {
            let (attributes, visibility, ident, exact) = match item {
                Item::Const(it) => (&it.attrs, &it.vis, &it.ident, true),
                Item::Enum(it) => (&it.attrs, &it.vis, &it.ident, false),
                Item::Fn(it) => (&it.attrs, &it.vis, &it.sig.ident, true),
                Item::Static(it) => (&it.attrs, &it.vis, &it.ident, true),
                Item::Struct(it) => (&it.attrs, &it.vis, &it.ident, false),
                Item::Trait(it) => (&it.attrs, &it.vis, &it.ident, false),
                Item::Type(it) => (&it.attrs, &it.vis, &it.ident, false),
                Item::Impl(it) if it.trait_.is_none() => {
                    let syn::Type::Path(of) = &*it.self_ty else {
                        continue;
                    };
                    let of = of.path.segments.last().map(|part| part.ident.to_string());
                    for inner in &it.items {
                        if let ImplItem::Fn(inner) = inner
                            && is_public(&inner.vis)
                            && !is_hidden(&inner.attrs)
                        {
                            let name = inner.sig.ident.to_string();
                            add(of.as_deref(), &name, true, &inner.attrs);
                        }
                    }
                    continue;
                }
                Item::Macro(it) => {
                    let exported = it.attrs.iter().any(|it| it.path().is_ident("macro_export"));
                    if let Some(ident) = &it.ident
                        && exported
                        && (!is_hidden(&it.attrs) || is_shown("crate", ident))
                    {
                        let name = ident.to_string();
                        add(None, name.trim_start_matches("__"), true, &it.attrs);
                    }
                    continue;
                }
                Item::Use(it) if is_public(&it.vis) => {
                    let mut names = BTreeSet::new();
                    named(&it.tree, "crate", &mut names);
                    for (from, name) in &names {
                        if from == MACROS {
                            add(None, name, true, &it.attrs);
                        }
                    }
                    continue;
                }
                _ => continue,
            };
            if !is_seen(attributes, visibility, ident) {
                continue;
            }
            add(None, &ident.to_string(), exact, attributes);
            if let Item::Trait(it) = item {
                for inner in &it.items {
                    if let TraitItem::Fn(inner) = inner {
                        let name = inner.sig.ident.to_string();
                        add(Some(&ident.to_string()), &name, true, &inner.attrs);
                    }
                }
            }
        }
        if module.public {
            found.push(Documented {
                path: module.name.clone(),
                name: None,
                exact: false,
                documentation: module.documentation.clone(),
            });
        }
    }
    found
}

/// What a reader sees of the examples that run.
fn examples(documentation: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in documentation.lines().map(str::trim) {
        open = match (open, line.strip_prefix("```")) {
            (None, Some(how)) => Some((matches!(how, "" | "rust"), String::new())),
            (None, None) => None,
            (Some((runs, text)), Some(_)) => {
                found.extend(runs.then_some(text));
                None
            }
            (Some((runs, mut text)), None) => {
                if line != "#" && !line.starts_with("# ") {
                    text.push_str(line);
                    text.push('\n');
                }
                Some((runs, text))
            }
        };
    }
    found
}

/// Whether an example uses what is called so. A type need not be written out: what a
/// function answers has it too, and is often called like it.
fn names(example: &str, name: &str, exact: bool) -> bool {
    if exact {
        let mut words = example.split(|c: char| !c.is_alphanumeric() && c != '_');
        return words.any(|word| word == name);
    }
    let plain = |text: &str| text.replace('_', "").to_lowercase();
    plain(example).contains(&plain(name))
}

/// What is wrong with the examples of some items, each with its name.
fn faults(items: &[Documented]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for item in items {
        let examples = examples(&item.documentation);
        let path = &item.path;
        if examples.is_empty() {
            faults.push(format!("{path} has no example that runs"));
            continue;
        }
        let used = |example: &String| {
            let name = item.name.as_ref();
            name.is_none_or(|name| names(example, name, item.exact))
        };
        if !examples.iter().any(used) {
            faults.push(format!("no example of {path} uses it"));
        }
        for example in examples {
            if !example.contains("assert") {
                faults.push(format!("an example of {path} asserts nothing"));
            }
            if let Some(other) = seen.insert(example, path) {
                faults.push(format!("{path} and {other} have the same example"));
            }
        }
    }
    faults
}

#[test]
fn every_public_item_of_the_sdk_has_an_example_of_its_own() {
    // Cargo says it now: with a target folder of two checkouts it may have been built in the other.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it");
    let sources = Path::new(&manifest).join("../src");
    let mut modules = Vec::new();
    let root = sources.join("lib.rs");
    read(&root, &sources, "crate", true, &mut modules);
    let items = public_items(&modules);
    for known in [
        "crate",
        "prelude",
        "crate::activity",
        "crate::plugin",
        "activity::Plugin::run",
        "error::CapabilityError",
        "log::info",
        "once::Connection::once",
        "http::HttpReply",
        "http::HttpReply::json",
        "rows::ColumnIndex::position",
        "test::Context::generates",
    ] {
        assert!(
            items.iter().any(|item| item.path == known),
            "{known} is not found"
        );
    }
    let faults = faults(&items);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_has_no_example_is_named() {
    let source = r#"
        mod inner { pub struct Bare; pub struct Private; impl Bare { pub fn new() {} fn own() {} } }
        pub use inner::Bare;
        #[doc(hidden)]
        pub mod hidden { pub fn unseen() {} }
        pub(crate) fn within() {}

        /// ```ignore
        /// assert!(ignored());
        /// ```
        pub fn ignored() {}

        /// ```
        /// # assert!(concealed());
        /// assert_eq!(1 + 1, 2);
        /// ```
        pub fn concealed() {}

        /// ```
        /// idle();
        /// ```
        pub fn idle() {}

        /// ```
        /// assert!(one() && other());
        /// ```
        pub fn one() {}

        /// ```
        /// assert!(one() && other());
        /// ```
        pub fn other() {}

        /// ```
        /// let row_stream = open();
        /// assert!(row_stream.is_empty());
        /// ```
        pub struct RowStream;
    "#;
    let root = Module {
        name: "crate".to_owned(),
        public: true,
        documentation: "```\nassert!(true);\n```".to_owned(),
        items: syn::parse_file(source).expect("Rust").items,
    };
    let mut modules = Vec::new();
    read_inner(root, Path::new("none"), &mut modules);
    assert_eq!(
        faults(&public_items(&modules)),
        [
            "inner::Bare has no example that runs",
            "inner::Bare::new has no example that runs",
            "crate::ignored has no example that runs",
            "no example of crate::concealed uses it",
            "an example of crate::idle asserts nothing",
            "crate::other and crate::one have the same example",
        ]
    );
}
