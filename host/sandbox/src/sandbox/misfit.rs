//! What a component that the linker refuses imports and this host does not have.
//!
//! The linker ends at the first function that it lacks. A plugin that is built against newer
//! interfaces may import many, and who builds it wants to know them all.

use std::collections::BTreeMap;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};

/// So many functions are named; how many more there are is said.
const NAMED: usize = 50;

/// The highest patch version by which interfaces are linked, with room: WASI has 12.
const PATCHES: u64 = 99;

/// Says why a linker refuses a component, where it did so with `error`.
pub(super) fn why<T: 'static>(
    linker: &Linker<T>,
    component: &Component,
    error: &wasmtime::Error,
) -> String {
    let engine = linker.engine();
    let mut linked = Linked {
        probe: linker.clone(),
        names: BTreeMap::new(),
    };
    // This one gets what is missing, so that it tells what else does not fit.
    let mut whole = linker.clone();
    let mut missing = Vec::new();
    let kind = component.component_type();
    for (name, import) in kind.imports(engine) {
        let ComponentItem::ComponentInstance(imported) = import.ty else {
            continue;
        };
        let Ok(mut interface) = whole.instance(&linked.name(name)) else {
            continue;
        };
        for (function, export) in imported.exports(engine) {
            let is_function = matches!(export.ty, ComponentItem::ComponentFunc(_));
            // What is there already is refused.
            if is_function && interface.func_new(function, |_, _, _, _| Ok(())).is_ok() {
                missing.push(format!("{name}#{function}"));
            }
        }
    }
    if missing.is_empty() {
        return format!("{error:#}");
    }
    let more = missing.len().saturating_sub(NAMED);
    missing.truncate(NAMED);
    let mut text = missing.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    let besides = match whole.instantiate_pre(component) {
        Ok(_) => String::new(),
        Err(error) => format!("; besides, {error:#}"),
    };
    format!(
        "it imports functions that this host does not have: {text}; build it against this \
         host's interfaces, or update the host{besides}"
    )
}

/// By which names a linker has its interfaces: it links each to an import of another patch
/// version too, but is extended by the very name only.
struct Linked<T: 'static> {
    probe: Linker<T>,
    /// By interface and minor version. An import may have any patch version, and a component
    /// many of them.
    names: BTreeMap<String, String>,
}

impl<T: 'static> Linked<T> {
    /// The name of the interface that an import is linked to; its own where there is none.
    fn name(&mut self, import: &str) -> String {
        let parts = import.split_once('@').and_then(|(interface, version)| {
            let version: semver::Version = version.parse().ok()?;
            Some(format!("{interface}@{}.{}", version.major, version.minor))
        });
        let Some(minor) = parts else {
            return import.to_owned();
        };
        let probe = &mut self.probe;
        let name = self.names.entry(minor).or_insert_with_key(|minor| {
            let mut names = (0..=PATCHES).rev().map(|patch| format!("{minor}.{patch}"));
            // A linker tells what it has by refusing to take it again, and by nothing else.
            let found = names.find(|name| {
                let taken = probe.root().func_new(name, |_, _, _, _| Ok(()));
                taken.is_err()
            });
            found.unwrap_or_else(|| import.to_owned())
        });
        name.clone()
    }
}
