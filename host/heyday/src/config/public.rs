//! Where clients reach the server, and under which hosts.

use std::net::SocketAddr;

use url::Url;

use super::{Config, ConfigError, wrong};

impl Config {
    pub(super) fn check_public_url(&self) -> Result<(), ConfigError> {
        let Some(url) = &self.public_url else {
            return Ok(());
        };
        if Url::parse(url).is_ok_and(|url| is_base(&url)) {
            return Ok(());
        }
        wrong(
            "public_url",
            "it is an address such as https://heyday.example, without a password, a query and a \
             fragment",
        )
    }

    /// What the addresses begin with that the server gives out, which listens there.
    #[must_use]
    pub fn public_url(&self, listen: SocketAddr) -> String {
        let said = self.public_url.clone();
        said.unwrap_or_else(|| format!("http://{listen}"))
    }

    /// Hosts that a request may name, beyond those of the address that is listened on.
    #[must_use]
    pub fn all_hosts(&self) -> Vec<String> {
        let url = self.public_url.as_deref().map(Url::parse);
        let public = url.and_then(|url| {
            let url = url.ok()?;
            let host = url.host_str()?;
            // As a client writes it: without the port that the scheme has anyway.
            Some(
                url.port()
                    .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            )
        });
        self.hosts.iter().cloned().chain(public).collect()
    }
}

/// Whether paths can be put behind an address.
fn is_base(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_address_is_a_host_too() {
        let of = |text| {
            let config: Config = toml::from_str(text).expect(text);
            config.check().expect(text);
            let listen = SocketAddr::from(([127, 0, 0, 1], 7));
            (config.public_url(listen), config.all_hosts())
        };
        let said = of("hosts = ['b']\npublic_url = 'https://heyday.example:443/h/'");
        let hosts = vec!["b".to_owned(), "heyday.example".to_owned()];
        assert_eq!(said, ("https://heyday.example:443/h/".to_owned(), hosts));
        let (_, hosts) = of("public_url = 'http://heyday.example:8443'");
        assert_eq!(hosts, ["heyday.example:8443"]);
        assert_eq!(of(""), ("http://127.0.0.1:7".to_owned(), Vec::new()));
    }
}
