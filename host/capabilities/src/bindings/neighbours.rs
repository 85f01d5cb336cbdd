//! Which bindings are in one place of a server, in the server's own words: an address has
//! many names, and a configuration does not show that two of them are one. For `heyday doctor`.

use crate::diagnosis::{Finding, Findings, Health};
use crate::postgres::Place;

/// Where the bindings are that were asked so far.
pub(super) struct Neighbours {
    /// Those in databases of PostgreSQL.
    in_databases: Vec<(String, Place)>,
    on_servers: Vec<OnServer>,
    /// Where the host's own state is, if a server has it.
    state: Option<Place>,
}

/// A binding on a server that keeps nobody apart.
struct OnServer {
    binding: String,
    location: String,
    read_only: bool,
}

impl Neighbours {
    pub(super) const fn of(state: Option<Place>) -> Self {
        Self {
            in_databases: Vec::new(),
            on_servers: Vec::new(),
            state,
        }
    }

    /// What is to be said of a binding in a database whose rights keep its roles apart.
    pub(super) fn in_database(&mut self, binding: String, place: Place) -> Vec<Finding> {
        let mut findings = Findings::default();
        self.beside_the_state(&mut findings, &place);
        let same = self
            .in_those(|other| place.shares_role(other) && !(place.read_only && other.read_only));
        let others = self.in_those(|other| place.shares_database(other));
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
        self.in_databases.push((binding, place));
        findings.into_inner()
    }

    /// What is to be said where the host's own state is there, too.
    fn beside_the_state(&self, findings: &mut Findings, place: &Place) {
        let Some(state) = &self.state else {
            return;
        };
        if place.shares_role(state) {
            findings.fail(
                "sharing",
                format!(
                    "its role {} is also that of the server's own state, whose connections it \
                     may end and, in the same database, whose grants, tokens and audit it may read \
                     and write",
                    place.role
                ),
                "give the binding a role of its own (`heyday binding setup`)",
            );
        } else if place.shares_database(state) {
            findings.warn(
                "sharing",
                "its database is also that of the server's own state: plugins can read the names \
                 of its tables, and NOTIFY and advisory locks, which servers use among \
                 themselves, reach both",
                "give the state a database of its own",
            );
        }
    }

    /// What is to be said of a binding on a server that keeps nobody apart.
    pub(super) fn on_server(
        &mut self,
        binding: String,
        location: String,
        read_only: bool,
    ) -> Vec<Finding> {
        let mut findings = Findings::default();
        let others = self
            .on_servers
            .iter()
            .filter(|other| other.location == location && !(read_only && other.read_only));
        let others = names(others.map(|other| other.binding.as_str()));
        if !others.is_empty() {
            findings.fail(
                "sharing",
                format!("its server is also that of {others}, by another name: it has one graph"),
                "give each binding a server of its own, or make them all `read_only`",
            );
        }
        self.on_servers.push(OnServer {
            binding,
            location,
            read_only,
        });
        findings.into_inner()
    }

    /// The bindings in such databases.
    fn in_those(&self, such: impl Fn(&Place) -> bool) -> String {
        let there = self.in_databases.iter().filter(|(_, place)| such(place));
        names(there.map(|(binding, _)| binding.as_str()))
    }
}

fn names<'a>(bindings: impl Iterator<Item = &'a str>) -> String {
    bindings.collect::<Vec<_>>().join(", ")
}

/// Whether a binding is of any use as it is.
pub(super) fn usable(findings: &[Finding]) -> bool {
    findings.iter().all(|it| it.status != Health::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(database: &str, since: &str, role: &str) -> Place {
        Place {
            database: database.to_owned(),
            since: since.to_owned(),
            role: role.to_owned(),
            read_only: false,
        }
    }

    #[test]
    fn a_database_of_several_bindings_is_told_to_those_that_come_later() {
        let mut neighbours = Neighbours::of(None);
        let mut at = |binding: &str, database: &str| {
            let found = neighbours.in_database(binding.to_owned(), place(database, "1", binding));
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
        let mut neighbours = Neighbours::of(None);
        let mut at = |binding: &str, database: &str, read_only| {
            let place = Place {
                read_only,
                ..place(database, "1", "r")
            };
            let found = neighbours.in_database(binding.to_owned(), place);
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
    fn who_is_where_the_state_is_is_told() {
        let mut neighbours = Neighbours::of(Some(place("5", "1", "heyday")));
        let mut at = |database: &str, since: &str, role: &str| {
            let found = neighbours.in_database(role.to_owned(), place(database, since, role));
            found
                .into_iter()
                .find(|it| it.found.contains("own state"))
                .map(|it| (it.check, it.status))
        };
        let (warning, failed) = (("sharing", Health::Warning), ("sharing", Health::Failed));
        assert_eq!(at("5", "1", "plugins"), Some(warning));
        assert_eq!(at("5", "1", "heyday"), Some(failed));
        assert_eq!(at("6", "1", "heyday"), Some(failed));
        assert_eq!(at("6", "1", "plugins"), None);
        // Names and numbers mean nothing on another server.
        assert_eq!(at("5", "2", "heyday"), None);
    }

    #[test]
    fn a_server_of_several_graphs_fails_unless_none_writes() {
        let mut neighbours = Neighbours::of(None);
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
