//! Addresses of objects that have none of their own: those of a folder of files.
//!
//! `{BASE}/presigned/{NAMESPACE}/{BINDING}/{KEY}?expires=SECONDS&signature=HEX`, under which
//! the server of this process answers. Who has one needs no token, so the signature is all
//! that lets in: HMAC-SHA256, by a key that only servers of one state have, over the method,
//! the namespace, the binding, the key and the end, each with its length before it, so that
//! no two of them are the same text. The end counts seconds since the Unix epoch.
//!
//! An address is also refused when the binding's limit says so now: `presign_ms = 0` ends all
//! that were given out.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;

use super::{BlobLimits, Presigned};

/// The begin of the path, below the base.
pub const PATH: &str = "/presigned";

/// What stands in a path as it is: RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What is signed begins with this: nothing else that the key may sign one day is an address.
const PURPOSE: &str = "heyday-presigned-1";

/// The addresses of a server. A handle, cheap to clone.
#[derive(Clone)]
pub struct Addresses(Arc<Signer>);

struct Signer {
    base: String,
    key: hmac::Key,
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = &self.0.base;
        f.debug_struct("Addresses").field("base", base).finish()
    }
}

/// The addresses of one binding's objects.
#[derive(Debug, Clone)]
pub struct ContainerAddresses {
    addresses: Addresses,
    namespace: String,
    binding: String,
}

/// An address as a request has it. Nothing in it was checked.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// The request's method, as it was sent.
    pub method: &'a str,
    /// Whose binding.
    pub namespace: &'a str,
    /// The binding.
    pub binding: &'a str,
    /// The object, decoded.
    pub key: &'a str,
    /// The member `expires`: seconds since the Unix epoch.
    pub expires: &'a str,
    /// The member `signature`.
    pub signature: &'a str,
}

/// Why nobody may do anything by an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It was not signed here, or not for this method and object.
    #[error(
        "the address was not given out for this method and this object, or it was altered; ask for \
         another one"
    )]
    Signature,
    /// Its time is over.
    #[error("the address was good until a time that has passed; ask for another one")]
    Expired,
    /// The binding does not give out addresses for so long any more.
    #[error("the binding's limit `presign_ms` does not allow the address any more")]
    Withdrawn,
}

impl Presigned {
    /// The method that it is.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
        }
    }
}

impl Addresses {
    /// Addresses below `base`, `http[s]://HOST[:PORT][/PATH]`, signed by a secret.
    #[must_use]
    pub fn new(base: &str, secret: &[u8]) -> Self {
        Self(Arc::new(Signer {
            base: base.trim_end_matches('/').to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }))
    }

    /// Those of one binding.
    #[must_use]
    pub fn of(&self, namespace: &str, binding: &str) -> ContainerAddresses {
        ContainerAddresses {
            addresses: self.clone(),
            namespace: namespace.to_owned(),
            binding: binding.to_owned(),
        }
    }

    /// Whether an address was given out here, for this method and object, and is good now;
    /// how long still. Whether its binding allows it is said by
    /// [`BlobLimits::check_presigned`].
    ///
    /// # Errors
    /// [`AddressError::Signature`] before all else: who cannot sign learns nothing.
    pub fn check(&self, it: &Presented<'_>) -> Result<Duration, AddressError> {
        self.check_at(it, now())
    }

    fn check_at(&self, it: &Presented<'_>, now: Duration) -> Result<Duration, AddressError> {
        let signature = decode(it.signature).ok_or(AddressError::Signature)?;
        let text = text(it.method, it.namespace, it.binding, it.key, it.expires);
        // In constant time.
        hmac::verify(&self.0.key, &text, &signature).map_err(|_| AddressError::Signature)?;
        // What we signed is a number.
        let expires: u64 = it.expires.parse().map_err(|_| AddressError::Signature)?;
        let left = Duration::from_secs(expires).saturating_sub(now);
        if left.is_zero() {
            return Err(AddressError::Expired);
        }
        Ok(left)
    }
}

impl BlobLimits {
    /// Whether an address may be good for so long still.
    ///
    /// # Errors
    /// [`AddressError::Withdrawn`] where the limit is lower by now.
    pub fn check_presigned(&self, left: Duration) -> Result<(), AddressError> {
        let longest = self.longest_presigned_ms();
        // One that was given out in this second counts from the second's end.
        if longest == 0 || left > Duration::from_millis(longest) + Duration::from_secs(1) {
            return Err(AddressError::Withdrawn);
        }
        Ok(())
    }
}

impl ContainerAddresses {
    /// An address of an object, whose key was checked.
    #[must_use]
    pub fn sign(&self, key: &str, what: Presigned, lasts: Duration) -> String {
        self.sign_at(key, what, lasts, now())
    }

    fn sign_at(&self, key: &str, what: Presigned, lasts: Duration, now: Duration) -> String {
        let Self {
            addresses,
            namespace,
            binding,
        } = self;
        // Not shorter than was asked for.
        let expires = (now + lasts).as_secs() + u64::from(now.subsec_nanos() > 0);
        let expires = expires.to_string();
        let text = text(what.method(), namespace, binding, key, &expires);
        let signature = encode(hmac::sign(&addresses.0.key, &text).as_ref());
        let segments: Vec<String> = key
            .split('/')
            .map(|segment| utf8_percent_encode(segment, ESCAPED).to_string())
            .collect();
        format!(
            "{}{PATH}/{namespace}/{binding}/{}?expires={expires}&signature={signature}",
            addresses.0.base,
            segments.join("/")
        )
    }
}

/// What is signed.
fn text(method: &str, namespace: &str, binding: &str, key: &str, expires: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for part in [PURPOSE, method, namespace, binding, key, expires] {
        text.extend((part.len() as u64).to_be_bytes());
        text.extend(part.as_bytes());
    }
    text
}

fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    // `from_str_radix` takes signs too.
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    const NOW: Duration = Duration::from_millis(1_800_000_000_500);

    fn addresses() -> Addresses {
        Addresses::new("https://heyday.example/base/", b"secret")
    }

    fn signed(what: Presigned) -> Url {
        let lasts = Duration::from_secs(60);
        let of = addresses().of("default", "work");
        let address = of.sign_at("a/ü b?#%2e", what, lasts, NOW);
        Url::parse(&address).expect("an address")
    }

    /// As the server reads it.
    fn presented(url: &Url) -> (Vec<String>, Vec<String>) {
        let path = url.path().strip_prefix("/base/presigned/").expect("ours");
        let decoded = percent_encoding::percent_decode_str(path)
            .decode_utf8()
            .expect("UTF-8");
        let parts = decoded.splitn(3, '/').map(str::to_owned).collect();
        let values = url.query_pairs().map(|(_, value)| value.into_owned());
        (parts, values.collect())
    }

    #[test]
    fn an_address_is_good_for_one_method_object_and_time() {
        let url = signed(Presigned::Get);
        let (path, query) = presented(&url);
        assert_eq!(path, ["default", "work", "a/ü b?#%2e"]);
        assert_eq!(query[0], "1800000061");
        let good = Presented {
            method: "GET",
            namespace: &path[0],
            binding: &path[1],
            key: &path[2],
            expires: &query[0],
            signature: &query[1],
        };
        let check = |it: Presented<'_>, now| addresses().check_at(&it, now);
        assert_eq!(check(good, NOW), Ok(Duration::from_millis(60_500)));
        let last = Duration::from_millis(1_800_000_060_999);
        assert_eq!(check(good, last), Ok(Duration::from_millis(1)));
        let over = Duration::from_secs(1_800_000_061);
        assert_eq!(check(good, over), Err(AddressError::Expired));
        let forged = "0".repeat(64);
        let upper = good.signature.to_uppercase();
        let same = Presented {
            signature: &upper,
            ..good
        };
        assert!(check(same, NOW).is_ok());
        for altered in [
            Presented {
                method: "PUT",
                ..good
            },
            Presented {
                method: "HEAD",
                ..good
            },
            Presented {
                namespace: "other",
                ..good
            },
            Presented {
                binding: "other",
                ..good
            },
            Presented {
                key: "a/ü b?#.",
                ..good
            },
            // The same letters, divided elsewhere.
            Presented {
                binding: "work/a",
                key: "ü b?#%2e",
                ..good
            },
            Presented {
                expires: "1800000062",
                ..good
            },
            Presented {
                expires: "01800000061",
                ..good
            },
            Presented {
                signature: &forged,
                ..good
            },
            Presented {
                signature: "",
                ..good
            },
            Presented {
                signature: "+",
                ..good
            },
            Presented {
                signature: &good.signature[1..],
                ..good
            },
        ] {
            // Also of one whose time is over: that is not told to who cannot sign.
            for now in [NOW, over] {
                let refused = check(altered, now);
                assert_eq!(refused, Err(AddressError::Signature), "{altered:?}");
            }
        }
        let others = Addresses::new("https://heyday.example/base", b"another");
        assert_eq!(others.check_at(&good, NOW), Err(AddressError::Signature));
        assert!(!format!("{others:?}").contains("another"));
    }

    #[test]
    fn a_lower_limit_withdraws_what_was_given_out() {
        let left = Duration::from_millis(60_500);
        for (presign_ms, expected) in [
            (60_000, Ok(())),
            (30_000, Err(AddressError::Withdrawn)),
            (0, Err(AddressError::Withdrawn)),
        ] {
            let limits = BlobLimits {
                presign_ms,
                ..BlobLimits::default()
            };
            assert_eq!(limits.check_presigned(left), expected, "{presign_ms}");
        }
    }
}
