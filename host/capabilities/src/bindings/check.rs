//! What of a configuration no binding can have, found before any is opened.

use std::path::{Path, PathBuf};

use super::{BindingError, BindingsConfig, full_name};

/// Refuses names, limits and places that no binding can have. Of two bindings none may
/// reach the other's bytes; two read-only ones may share a path: neither can tell the
/// other anything.
pub(super) fn check(config: &BindingsConfig) -> Result<(), BindingError> {
    let mut seen: Vec<(String, PathBuf, bool)> = Vec::new();
    for (namespace, bindings) in &config.namespaces {
        check_name("the namespace", namespace)?;
        for (capability, name, binding) in bindings.all() {
            check_name("the binding", name)?;
            let second = full_name(namespace, capability, name);
            if let Some((limit, _)) = binding.limits().into_iter().find(|(_, it)| *it == 0) {
                let binding = second;
                return Err(BindingError::ZeroLimit { binding, limit });
            }
            let Some((path, read_only)) = binding.place() else {
                continue;
            };
            let path = resolve(path);
            let overlapping = seen.iter().find(|(_, other, other_read_only)| {
                !(read_only && *other_read_only)
                    && (path.starts_with(other) || other.starts_with(&path))
            });
            if let Some((first, ..)) = overlapping {
                return Err(BindingError::Overlap {
                    first: first.clone(),
                    second,
                    path,
                });
            }
            seen.push((second, path, read_only));
        }
    }
    Ok(())
}

fn check_name(what: &'static str, name: &str) -> Result<(), BindingError> {
    let valid = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if valid {
        return Ok(());
    }
    Err(BindingError::InvalidName {
        what,
        name: name.to_owned(),
    })
}

/// The path without links, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => path,
    }
}
