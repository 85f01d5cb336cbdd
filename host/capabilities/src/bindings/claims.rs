//! What only one binding may have: a role on a server, names of a bucket.

use super::{BindingError, StateDatabase};
use crate::postgres::{PostgresConfig, Server};

/// Who signs in where, of the bindings opened so far. Whoever signs in as one role reaches
/// all that it owns, so a role belongs to one binding; in a bucket, what begins with a
/// prefix does.
pub(crate) struct Claims {
    all: Vec<Claim>,
    /// The host's own.
    state: Option<StateDatabase>,
}

struct Claim {
    binding: String,
    /// A role and its server, or a bucket.
    place: String,
    /// Of the names there.
    prefix: String,
    read_only: bool,
}

impl Claims {
    /// None so far, beside the database of the host's own state.
    pub(super) const fn beside(state: Option<StateDatabase>) -> Self {
        Self {
            all: Vec::new(),
            state,
        }
    }

    /// Refuses the role and the database of the host's state: who has either can change it, or
    /// hold it up by its locks. One that cannot be used is told when it is opened.
    pub(super) fn check_state(
        &self,
        binding: &str,
        config: &PostgresConfig,
    ) -> Result<(), BindingError> {
        let (Some(state), Ok(server)) = (&self.state, Server::new(config)) else {
            return Ok(());
        };
        let (address, role, database) = server.parts();
        let of_state = format!("{}:{}", state.host, state.port);
        let plain = |one: &str| by_one_name(&one.to_ascii_lowercase());
        if plain(&address) != plain(&of_state) {
            return Ok(());
        }
        let what = if role == state.role {
            "role"
        } else if database == state.database {
            "database"
        } else {
            return Ok(());
        };
        Err(BindingError::OfState {
            binding: binding.to_owned(),
            what,
            address,
        })
    }

    pub(super) fn claim(
        &mut self,
        binding: &str,
        identity: String,
        read_only: bool,
    ) -> Result<(), BindingError> {
        self.claim_below(binding, identity, String::new(), read_only)
    }

    /// Claims only the names that begin with a prefix.
    pub(super) fn claim_below(
        &mut self,
        binding: &str,
        identity: String,
        prefix: String,
        read_only: bool,
    ) -> Result<(), BindingError> {
        let place = by_one_name(&identity);
        let same = self.all.iter().find(|other| {
            other.place == place
                && !(read_only && other.read_only)
                && (prefix.starts_with(&other.prefix) || other.prefix.starts_with(&prefix))
        });
        let binding = binding.to_owned();
        if let Some(first) = same {
            return Err(BindingError::Shared {
                first: first.binding.clone(),
                second: binding,
                identity,
            });
        }
        self.all.push(Claim {
            binding,
            place,
            prefix,
            read_only,
        });
        Ok(())
    }
}

/// An address of this machine by one of its names. Those of others are compared as they stand, but
/// for the dot that a whole name may end in.
fn by_one_name(identity: &str) -> String {
    ["localhost:", "[::1]:", "::1:"]
        .iter()
        .fold(identity.replace(".:", ":"), |it, name| {
            it.replace(name, "127.0.0.1:")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_and_the_database_of_the_hosts_state_are_no_bindings() {
        let claims = Claims::beside(Some(StateDatabase {
            host: "localhost".to_owned(),
            port: 5432,
            role: "heyday".to_owned(),
            database: "state".to_owned(),
        }));
        let refused = |url: &str| {
            let config = PostgresConfig {
                url: url.to_owned(),
                ..PostgresConfig::default()
            };
            let checked = claims.check_state("default/sql/x", &config);
            checked.err().map(|error| error.to_string())
        };
        for (url, told) in [
            ("postgres://heyday@localhost/other", "has the role of"),
            ("postgres://heyday@127.0.0.1:5432/state", "has the role of"),
            ("postgres://r@[::1]/state", "has the database of"),
            ("postgres://heyday@LocalHost/other", "has the role of"),
        ] {
            let error = refused(url).expect(url);
            let found = error.contains("default/sql/x") && error.contains(told);
            assert!(found, "{url}: {error}");
        }
        for url in [
            "postgres://r@localhost/other",
            "postgres://heyday@localhost:5433/state",
        ] {
            assert_eq!(refused(url), None, "{url}");
        }
    }
}
