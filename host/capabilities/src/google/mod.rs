//! What the backends of Google Cloud share: how the host signs in ([`token`]), which
//! addresses a token may go to, and what sends the requests of a sign-in.

mod token;

use std::time::Duration;

use url::{Host, Url};
use zeroize::Zeroizing;

pub(crate) use token::{Identity, SignError, Tokens};

use crate::error::chain;

/// The metadata server of a machine there.
pub(crate) const METADATA: &str = "http://metadata.google.internal";

/// Checks an address. `plain`: whether it may be without TLS wherever it is.
///
/// # Errors
/// What is wrong with it; the address is not told, which may hold a password.
pub(crate) fn address(text: &str, plain: bool) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "it begins with https:// and has a host")?;
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("it has no user, password, query or fragment");
    }
    match url.scheme() {
        "http" if plain => Ok(url),
        "http" | "https" if is_private(&url) => Ok(url),
        "http" => Err("a token goes there, so it begins with https://"),
        _ => Err("it begins with https:// and has a host"),
    }
}

/// Whether nobody on the way sees what goes to an address: by TLS, or there is no way.
pub(crate) fn is_private(url: &Url) -> bool {
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && here)
}

/// What sends requests that take so long at most.
///
/// # Errors
/// Why TLS cannot be set up.
pub(crate) fn client(timeout: Duration) -> Result<reqwest::Client, String> {
    // Fails only where another part of the process chose one, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .timeout(timeout)
        .user_agent(concat!("heyday/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| chain(&error))
}

/// A body of at most so many bytes.
pub(crate) async fn body(
    mut response: reqwest::Response,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| chain(&error.without_url()))?
    {
        if body.len() + chunk.len() > limit {
            return Err(format!("its answer has more than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
