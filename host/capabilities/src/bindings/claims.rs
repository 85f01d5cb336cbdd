//! What only one binding may have: a role on a server, names of a bucket.

use super::BindingError;

/// Who signs in where, of the bindings opened so far. Whoever signs in as one role reaches
/// all that it owns, so a role belongs to one binding; in a bucket, what begins with a
/// prefix does.
#[derive(Default)]
pub(crate) struct Claims(Vec<Claim>);

struct Claim {
    binding: String,
    /// A role and its server, or a bucket.
    place: String,
    /// Of the names there.
    prefix: String,
    read_only: bool,
}

impl Claims {
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
        let same = self.0.iter().find(|other| {
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
        self.0.push(Claim {
            binding,
            place,
            prefix,
            read_only,
        });
        Ok(())
    }
}

/// An address of this machine by one of its names. Names of others are compared as they stand.
fn by_one_name(identity: &str) -> String {
    ["localhost:", "[::1]:", "::1:"]
        .iter()
        .fold(identity.to_owned(), |it, name| {
            it.replace(name, "127.0.0.1:")
        })
}
