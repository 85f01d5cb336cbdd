//! What of a configuration no binding can have, found before any is opened.

use std::path::{Component, Path, PathBuf};

use super::{BindingError, BindingsConfig, Reserved, full_name};

/// Refuses names, limits and places that no binding can have. Of two bindings none may
/// reach the other's bytes; two read-only ones may share a path: neither can tell the
/// other anything.
pub(super) fn check(config: &BindingsConfig, reserved: &Reserved) -> Result<(), BindingError> {
    // First: of what is in the data folder the default bindings would be told.
    check_reserved(config, reserved)?;
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

/// What no binding gives out, but that of secrets its own.
struct Hidden {
    path: PathBuf,
    whose: String,
    /// Given out by bindings of secrets, of which several may share it.
    secret: bool,
}

/// Refuses a binding that would give out, also for reading only, what is the host's own, what
/// another binding signs in with, or, where it is none of secrets, what is a secret of one.
fn check_reserved(config: &BindingsConfig, reserved: &Reserved) -> Result<(), BindingError> {
    let all = || {
        config.namespaces.iter().flat_map(|(namespace, bindings)| {
            bindings.all().map(move |(capability, name, binding)| {
                let full = full_name(namespace, capability, name);
                (full, capability == crate::secrets::NAME, binding)
            })
        })
    };
    let mut hidden: Vec<_> = reserved
        .paths
        .iter()
        .filter(|path| !path.as_os_str().is_empty())
        .map(|path| Hidden {
            path: resolve(path),
            whose: "which is the server's own".to_owned(),
            secret: false,
        })
        .collect();
    for (full, of_secrets, binding) in all() {
        hidden.extend(binding.credentials().iter().map(|path| Hidden {
            path: resolve(path),
            whose: format!("with which {full} signs in"),
            secret: false,
        }));
        if of_secrets {
            hidden.extend(binding.reached().iter().map(|path| Hidden {
                path: resolve(path),
                whose: format!("a secret of {full}"),
                secret: true,
            }));
        }
    }
    for (full, of_secrets, binding) in all() {
        for path in binding.reached() {
            let path = resolve(&path);
            let found = hidden.iter().find(|it| {
                !(it.secret && of_secrets)
                    && (path.starts_with(&it.path) || it.path.starts_with(&path))
            });
            if let Some(found) = found {
                return Err(BindingError::Reserved {
                    binding: full,
                    path: found.path.clone(),
                    whose: found.whose.clone(),
                });
            }
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

/// The path without links, as far as it exists. Links to what does not are followed too: who
/// opens one makes what it names.
fn resolve(path: &Path) -> PathBuf {
    follow(path, LINKS)
}

/// The most links that are followed to what does not exist: as many as Linux follows.
const LINKS: u32 = 40;

fn follow(path: &Path, links: u32) -> PathBuf {
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => {
            let above = follow(parent, links);
            let here = above.join(name);
            match here.read_link() {
                Ok(target) if links > 0 => follow(&above.join(target), links - 1),
                _ => here,
            }
        }
        // Of what is not there: it is no link.
        (Some(parent), Some(Component::ParentDir)) => {
            let mut above = follow(parent, links);
            above.pop();
            above
        }
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(bindings: Value, reserved: &[&Path]) -> Option<String> {
        let json = json!({ "namespaces": { "default": bindings } });
        let config = serde_json::from_value(json).expect("a configuration");
        let reserved = Reserved {
            paths: reserved.iter().map(|path| path.to_path_buf()).collect(),
            state: None,
        };
        let checked = check(&config, &reserved);
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn the_hosts_own_places_are_no_bindings() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("components")).expect("made");
        let linked = folder.path().join("linked");
        std::os::unix::fs::symlink(&data, &linked).expect("a link");
        let link = |name: &str, target: &str| {
            let link = folder.path().join(name);
            std::os::unix::fs::symlink(target, &link).expect("a link");
            link
        };
        // What they name is made when it is opened.
        let to_none = link("to-none", "data/host.db");
        let to_link = link("to-link", "./to-none");
        let to_folder = link("to-folder", "linked/components/none");
        let (database, components) = (data.join("host.db"), data.join("components"));
        let own = [database.as_path(), components.as_path()];
        for (path, whose) in [
            (folder.path().to_owned(), &database),
            (data.clone(), &database),
            (linked.clone(), &database),
            (linked.join("host.db"), &database),
            (components.clone(), &components),
            (data.join("components/ab/cd"), &components),
            (data.join("none/../components/ab"), &components),
            (linked.join("none/above/../../host.db"), &database),
            (to_none, &database),
            (to_link, &database),
            (to_folder.join("ab"), &components),
        ] {
            let whose = whose.canonicalize().unwrap_or_else(|_| {
                let data = data.canonicalize().expect("a folder");
                data.join("host.db")
            });
            let told = format!("{}, which is the server's own", whose.display());
            for (capability, binding) in [
                ("blob", json!({ "path": path, "read_only": true })),
                ("sql", json!({ "path": path })),
                ("kv", json!({ "path": path })),
                ("vector", json!({ "path": path })),
                ("graph", json!({ "path": path })),
                ("config", json!({ "folder": path })),
            ] {
                let error = refused(json!({ capability: { "x": binding } }), &own);
                let error = error.unwrap_or_else(|| panic!("{capability} {path:?}"));
                let binding = format!("default/{capability}/x");
                assert!(error.contains(&binding) && error.contains(&told), "{error}");
            }
        }
        let fine = json!({
            "sql": { "default": { "path": data.join("bindings/sql/default.db") },
                     "beside": { "path": data.join("host.db.copy") } },
            "blob": { "documents": { "path": folder.path().join("documents") } },
        });
        assert_eq!(refused(fine, &own), None);
        let round = json!({ "sql": { "x": { "path": link("round", "round").join("x.db") } } });
        assert_eq!(refused(round, &own), None);
        let mail = json!({ "secrets": { "x": { "folder": data, "names": { "mail": "smtp" } } } });
        assert_eq!(refused(mail, &own), None);
        let token =
            json!({ "secrets": { "x": { "folder": linked, "names": { "a": "host.db" } } } });
        refused(token, &own).expect("one of the host's files");
    }

    #[test]
    fn what_a_binding_signs_in_with_and_secrets_are_given_out_by_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["password", "smtp", "public"] {
            std::fs::write(at(name), "x").expect("written");
        }
        std::os::unix::fs::symlink(at("password"), at("linked")).expect("a link");
        let url = "postgres://r@localhost/d";
        let sql = json!({ "main": { "postgres": { "url": url, "password_file": at("linked") } } });
        let mail = json!({ "mail": { "folder": folder.path(), "names": { "mail": "smtp" } } });
        let with = |capability: &str, binding: Value| {
            let mut all = json!({ "sql": sql, "secrets": mail });
            all[capability]["x"] = binding;
            refused(all, &[])
        };
        let only = |entry: &str| json!({ "folder": folder.path(), "names": { "a": entry } });
        let blob = json!({ "path": folder.path(), "read_only": true });
        for (capability, binding, told) in [
            ("secrets", only("password"), "default/sql/main signs in"),
            ("secrets", only("linked"), "default/sql/main signs in"),
            ("config", only("password"), "default/sql/main signs in"),
            ("config", only("smtp"), "a secret of default/secrets/mail"),
            (
                "config",
                json!({ "folder": folder.path() }),
                "/x would give out",
            ),
            ("blob", blob, "/x would give out"),
        ] {
            let error = with(capability, binding).unwrap_or_else(|| panic!("{capability}: {told}"));
            assert!(error.contains(told), "{error}");
        }
        // Secrets may be given out twice, and what is none.
        assert_eq!(with("secrets", only("smtp")), None);
        assert_eq!(with("config", only("public")), None);
        // A file's entries likewise.
        let (file, names) = (at("all.toml"), |entry: &str| json!({ "a": entry }));
        std::fs::write(&file, "").expect("written");
        let both = |settings: Value| {
            let secrets = json!({ "x": { "file": file, "names": names("mail.password") } });
            refused(
                json!({ "secrets": secrets, "config": { "y": settings } }),
                &[],
            )
        };
        let some = |entry: &str| json!({ "file": file, "names": names(entry) });
        assert_eq!(both(some("mail.from")), None);
        both(some("mail.password")).expect("the secret");
        both(json!({ "file": file })).expect("all of it");
    }
}
