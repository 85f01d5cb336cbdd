//! Licences of all crates that go into the binary, by the lists of `deny.toml`: `cargo deny`
//! looks at more than these, but is not installed everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::str::SplitWhitespace;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::process::{self, Project};

/// Workspaces whose crates go into the binary, and what they are built for; `None` is this
/// machine.
const SHIPPED: [(&str, Option<&str>); 2] = [(".", None), ("plugins", Some("wasm32-wasip2"))];

/// Refuses crates with a licence that `deny.toml` does not allow.
pub fn check(project: &Project) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(project.root.join("deny.toml")).context("deny.toml")?;
    let policy = Policy::read(&text)?;
    let about = process::output(&mut project.cargo(["-vV"]))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("cargo does not say what it builds for")?;
    let mut refused = BTreeSet::new();
    for (workspace, target) in SHIPPED {
        // What other machines need besides would be downloaded first.
        let target = target.unwrap_or(host);
        let mut command = project.cargo(["metadata", "--locked", "--format-version", "1"]);
        command
            .args(["--filter-platform", target])
            .current_dir(project.root.join(workspace));
        let metadata: Value = serde_json::from_str(&process::output(&mut command)?)
            .context("cargo metadata answers no JSON")?;
        let packages = metadata["packages"].as_array();
        let packages = packages.context("cargo metadata names no packages")?;
        refused.extend(
            packages
                .iter()
                .filter_map(|package| policy.refusal(package)),
        );
    }
    if !refused.is_empty() {
        let refused: Vec<String> = refused.into_iter().collect();
        bail!(
            "deny.toml does not allow the licences of\n  {}",
            refused.join("\n  ")
        );
    }
    Ok(())
}

/// What `deny.toml` says of licences.
struct Policy {
    allowed: BTreeSet<String>,
    /// What is allowed besides, by crate.
    exceptions: BTreeMap<String, BTreeSet<String>>,
    /// The licences of crates whose manifests have none. What a file says that they name
    /// instead, only `cargo deny` compares.
    clarified: BTreeMap<String, String>,
}

impl Policy {
    fn read(text: &str) -> anyhow::Result<Self> {
        let parsed: Value = toml::from_str(text).context("deny.toml is no TOML")?;
        let licences = &parsed["licenses"];
        let names = |list: &Value| -> BTreeSet<String> {
            let names = list.as_array().into_iter().flatten();
            names
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect()
        };
        let of = |entry: &Value| entry["crate"].as_str().unwrap_or_default().to_owned();
        let entries = |list: &str| licences[list].as_array().into_iter().flatten();
        Ok(Self {
            allowed: names(&licences["allow"]),
            exceptions: entries("exceptions")
                .map(|entry| (of(entry), names(&entry["allow"])))
                .collect(),
            clarified: entries("clarify")
                .filter_map(|entry| Some((of(entry), entry["expression"].as_str()?.to_owned())))
                .collect(),
        })
    }

    /// A crate, as `cargo metadata` tells of it, and its licence, where that is not allowed.
    fn refusal(&self, package: &Value) -> Option<String> {
        let text = |member: &str| package[member].as_str().unwrap_or_default();
        let name = text("name");
        let licence = package["license"].as_str();
        let Some(licence) = licence.or_else(|| self.clarified.get(name).map(String::as_str)) else {
            return Some(format!("{name} {}: none is given", text("version")));
        };
        let excepted = self.exceptions.get(name);
        let allowed = |licence: &str| {
            self.allowed.contains(licence)
                || excepted.is_some_and(|allowed| allowed.contains(licence))
        };
        let refused = !fulfilled(licence, &allowed);
        refused.then(|| format!("{name} {}: {licence}", text("version")))
    }
}

/// Whether what is allowed fulfils an SPDX expression, of which older manifests have a `/` for
/// `OR`. One that cannot be read is not fulfilled.
fn fulfilled(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut terms = Terms {
        words: spaced.split_whitespace().peekable(),
        allowed,
    };
    terms.any() && terms.words.next().is_none()
}

/// What is left of an expression.
struct Terms<'a> {
    words: Peekable<SplitWhitespace<'a>>,
    allowed: &'a dyn Fn(&str) -> bool,
}

impl Terms<'_> {
    fn any(&mut self) -> bool {
        let mut any = self.all();
        while self.words.next_if_eq(&"OR").is_some() {
            any |= self.all();
        }
        any
    }

    fn all(&mut self) -> bool {
        let mut all = self.one();
        while self.words.next_if_eq(&"AND").is_some() {
            all &= self.one();
        }
        all
    }

    fn one(&mut self) -> bool {
        let Some(word) = self.words.next() else {
            return false;
        };
        if word == "(" {
            let inner = self.any();
            return self.words.next() == Some(")") && inner;
        }
        let mut licence = word.to_owned();
        if self.words.next_if_eq(&"WITH").is_some() {
            licence.push_str(" WITH ");
            licence.push_str(self.words.next().unwrap_or_default());
        }
        (self.allowed)(&licence)
    }
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;

    #[test]
    fn an_expression_is_fulfilled_by_what_is_allowed() {
        let allowed = |licence: &str| ["MIT", "ISC", "Apache-2.0 WITH X"].contains(&licence);
        for expression in [
            "MIT",
            "GPL-3.0-only OR MIT",
            "GPL-3.0-only/MIT",
            "MIT AND ISC",
            "Apache-2.0 WITH X OR Apache-2.0",
            "(GPL-3.0-only OR MIT) AND ISC",
            "GPL-3.0-only AND ISC OR MIT",
            "((MIT))",
        ] {
            assert!(fulfilled(expression, &allowed), "{expression}");
        }
        for expression in [
            "",
            "Apache-2.0",
            "MIT AND GPL-3.0-only",
            "(MIT OR ISC) AND GPL-3.0-only",
            "MIT ISC",
            "(MIT",
            "MIT)",
            "mit",
            "MIT WITH X",
        ] {
            assert!(!fulfilled(expression, &allowed), "{expression}");
        }
    }

    #[test]
    fn the_list_is_that_of_deny_toml() {
        let root = Project::locate().expect("it is found").root;
        let text = std::fs::read_to_string(root.join("deny.toml")).expect("deny.toml");
        let policy = Policy::read(&text).expect("a policy");
        let refusal = |name: &str, licence: Option<&str>| {
            policy.refusal(&json!({ "name": name, "version": "1.2.3", "license": licence }))
        };
        assert_eq!(refusal("any", Some("MIT OR Apache-2.0")), None);
        assert_eq!(
            refusal("any", Some("GPL-3.0-only")).as_deref(),
            Some("any 1.2.3: GPL-3.0-only")
        );
        assert_eq!(
            refusal("any", None).as_deref(),
            Some("any 1.2.3: none is given")
        );
        // One that is excepted, and one that is clarified.
        assert_eq!(refusal("colored", Some("MPL-2.0")), None);
        assert!(refusal("any", Some("MPL-2.0")).is_some());
        assert_eq!(refusal("cfg_block", None), None);
    }
}
