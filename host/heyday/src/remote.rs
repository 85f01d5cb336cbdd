//! What everybody who asks a Heyday server has in common: the command line and workers.

use url::Url;

/// Whether a server is on this machine.
#[must_use]
pub fn is_loopback(server: &Url) -> bool {
    match server.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// How an HTTP client for that server is made.
pub fn http(server: &Url) -> reqwest::ClientBuilder {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("heyday/", env!("CARGO_PKG_VERSION")))
        // A redirect would carry the token elsewhere.
        .redirect(reqwest::redirect::Policy::none());
    if server.scheme() == "http" {
        // No TLS: do without the system's certificates, which a bare machine lacks.
        builder = builder.tls_certs_only([]);
    }
    if is_loopback(server) {
        builder = builder.no_proxy();
    }
    builder
}
