//! Which bindings are in one place of a server, in the server's own words: an address has
//! many names, and a configuration does not show that two of them are one. For `heyday doctor`.

use crate::diagnosis::{Finding, Findings, Health, Location};

/// Where the bindings are that were asked so far.
#[derive(Default)]
pub(super) struct Neighbours(Vec<Neighbour>);

struct Neighbour {
    binding: String,
    location: String,
    read_only: bool,
}

impl Neighbours {
    /// What is to be said of a binding in a database whose rights keep its roles apart.
    pub(super) fn in_database(&mut self, binding: String, location: Location) -> Vec<Finding> {
        let mut findings = Findings::default();
        let Location {
            database,
            role,
            read_only,
        } = location;
        let same = self.others(&role, |other| !(read_only && other.read_only));
        let others = self.others(&database, |_| true);
        if !same.is_empty() {
            findings.fail(
                "sharing",
                format!(
                    "its role is also that of {same}, by another name of the server: each reaches \
                     all that the other has"
                ),
                "give each binding a role of its own, which `heyday binding setup` makes, or make \
                 them all `read_only`",
            );
        } else if !others.is_empty() {
            findings.warn(
                "sharing",
                format!(
                    "its database is also that of {others}: each can read the names of the \
                     other's tables and the texts of its functions and views there, and NOTIFY \
                     and advisory locks reach both"
                ),
                "give bindings that must know nothing of each other databases of their own",
            );
        }
        self.add(binding.clone(), database, read_only);
        self.add(binding, role, read_only);
        findings.into_inner()
    }

    /// What is to be said of a binding on a server that keeps nobody apart.
    pub(super) fn on_server(
        &mut self,
        binding: String,
        location: String,
        read_only: bool,
    ) -> Vec<Finding> {
        let mut findings = Findings::default();
        let others = self.others(&location, |other| !(read_only && other.read_only));
        if !others.is_empty() {
            findings.fail(
                "sharing",
                format!("its server is also that of {others}, by another name: it has one graph"),
                "give each binding a server of its own, or make them all `read_only`",
            );
        }
        self.add(binding, location, read_only);
        findings.into_inner()
    }

    fn others(&self, location: &str, counts: impl Fn(&Neighbour) -> bool) -> String {
        let there = self.0.iter().filter(|it| it.location == location);
        let names: Vec<_> = there
            .filter(|it| counts(it))
            .map(|it| it.binding.as_str())
            .collect();
        names.join(", ")
    }

    fn add(&mut self, binding: String, location: String, read_only: bool) {
        self.0.push(Neighbour {
            binding,
            location,
            read_only,
        });
    }
}

/// Whether a binding is of any use as it is.
pub(super) fn usable(findings: &[Finding]) -> bool {
    findings.iter().all(|it| it.status != Health::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_several_bindings_is_told_to_those_that_come_later() {
        let mut neighbours = Neighbours::default();
        let mut at = |binding: &str, database: &str| {
            let location = Location {
                database: database.to_owned(),
                role: format!("of {binding}"),
                read_only: false,
            };
            let found = neighbours.in_database(binding.to_owned(), location);
            found.into_iter().next()
        };
        assert_eq!(at("default/sql/a", "one"), None);
        assert_eq!(at("default/sql/b", "two"), None);
        at("default/kv/c", "one").expect("told");
        let told = at("other/sql/d", "one").expect("told");
        assert_eq!((told.check, told.status), ("sharing", Health::Warning));
        assert!(
            told.found.contains("default/sql/a, default/kv/c:"),
            "{told:?}"
        );
        assert!(!told.found.contains("default/sql/b"), "{told:?}");
    }

    #[test]
    fn one_role_of_several_bindings_fails_unless_none_writes() {
        let mut neighbours = Neighbours::default();
        let mut at = |binding: &str, database: &str, read_only| {
            let location = Location {
                database: database.to_owned(),
                role: "role r".to_owned(),
                read_only,
            };
            let found = neighbours.in_database(binding.to_owned(), location);
            found.into_iter().next()
        };
        assert_eq!(at("default/sql/a", "one", true), None);
        assert_eq!(at("default/kv/b", "two", true), None);
        let told = at("other/sql/c", "three", false).expect("told");
        assert_eq!((told.check, told.status), ("sharing", Health::Failed));
        assert!(
            told.found.contains("default/sql/a, default/kv/b,"),
            "{told:?}"
        );
    }

    #[test]
    fn a_server_of_several_graphs_fails_unless_none_writes() {
        let mut neighbours = Neighbours::default();
        let mut at = |binding: &str, location: &str, read_only| {
            let (binding, location) = (binding.to_owned(), location.to_owned());
            let found = neighbours.on_server(binding, location, read_only);
            found.into_iter().next()
        };
        assert_eq!(at("default/graph/a", "one", true), None);
        assert_eq!(at("default/graph/b", "two", false), None);
        assert_eq!(at("default/graph/c", "one", true), None);
        let told = at("other/graph/d", "one", false).expect("told");
        assert_eq!((told.check, told.status), ("sharing", Health::Failed));
        assert!(
            told.found.contains("default/graph/a, default/graph/c,"),
            "{told:?}"
        );
    }
}
