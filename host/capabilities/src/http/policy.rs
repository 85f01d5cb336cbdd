//! What may be requested: rules of the form `METHOD:HOST[:PORT][/PATH]`.

use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Method;
use url::{Host, Url};

/// One rule. `*` stands for any method; a host is exact, an address, or `*.suffix`
/// (which the suffix itself is not); without a port the scheme's own is meant; a path
/// allows what lies at or below it, by whole segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRule {
    method: Option<Method>,
    host: RuleHost,
    port: Option<u16>,
    path: Vec<String>,
    /// As it was written.
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RuleHost {
    Exact(Host),
    Below(String),
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{rule}` is no rule: {why} (write METHOD:HOST[:PORT][/PATH], as in GET:api.example.com/v1)"
)]
pub struct RuleError {
    /// The text.
    pub rule: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for HttpRule {
    type Err = RuleError;

    fn from_str(rule: &str) -> Result<Self, RuleError> {
        let fail = |why| RuleError {
            rule: rule.to_owned(),
            why,
        };
        let (method, rest) = rule.split_once(':').ok_or_else(|| fail("it has no `:`"))?;
        let method = match method {
            "*" => None,
            method if method.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                Some(Method::from_str(method).map_err(|_| fail("the method is empty"))?)
            }
            _ => return Err(fail("a method is `*` or upper-case letters")),
        };
        if rest.contains(['?', '#', '@', '\\']) {
            return Err(fail("it has no query, fragment or user"));
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (wildcard, authority) = match authority.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, authority),
        };
        if authority.is_empty() || authority.contains('*') {
            return Err(fail("a host is a name, an address or `*.` and a name"));
        }
        // The parser of the requests' own URLs, so that both are normalized alike.
        let url = Url::parse(&format!("http://{authority}{path}"))
            .map_err(|_| fail("its host, port or path is malformed"))?;
        let port = explicit_port(authority).map_err(|()| fail("its port is not one"))?;
        let host = url.host().ok_or_else(|| fail("it has no host"))?.to_owned();
        let host = match (wildcard, host) {
            (false, host) => RuleHost::Exact(host),
            (true, Host::Domain(suffix)) if suffix.contains('.') => {
                RuleHost::Below(format!(".{suffix}"))
            }
            (true, _) => return Err(fail("`*.` needs a name of at least two parts")),
        };
        Ok(Self {
            method,
            host,
            port,
            path: segments(&url).ok_or_else(|| fail("its path hides a `/` or a `..`"))?,
            text: rule.to_owned(),
        })
    }
}

fn explicit_port(authority: &str) -> Result<Option<u16>, ()> {
    // An IPv6 address stands in brackets.
    let after_host = authority
        .rsplit_once(']')
        .map_or(authority, |(_, rest)| rest);
    match after_host.rsplit_once(':') {
        None => Ok(None),
        Some((_, port)) => match port.parse() {
            Ok(0) | Err(_) => Err(()),
            Ok(port) => Ok(Some(port)),
        },
    }
}

/// How often a path may be decoded until nothing is left to decode. Each time costs as much as it
/// is long, and a text that ends only after thousands would hold a thread for minutes.
const DECODINGS: usize = 8;

/// The segments of a path, percent-decoded; none where a server may read another path: one
/// that decodes twice, or that leaves out what follows a `;`.
fn segments(url: &Url) -> Option<Vec<String>> {
    let mut decoded = Vec::new();
    for segment in url.path().split('/').filter(|segment| !segment.is_empty()) {
        let text = percent_decode(segment)?;
        let mut read = text.clone();
        let mut left = DECODINGS;
        loop {
            let name = read.split(';').next().unwrap_or_default();
            if name == "." || name == ".." || read.contains(['/', '\\', '\0']) {
                return None;
            }
            match percent_decode(&read) {
                Some(again) if again != read => read = again,
                _ => break,
            }
            left = left.checked_sub(1)?;
        }
        decoded.push(text);
    }
    Some(decoded)
}

fn percent_decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What a matching rule allows of the addresses behind the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Public addresses only.
    Public,
    /// The host is named by its address, or is `localhost`.
    Named,
}

impl HttpRule {
    fn allows(&self, method: &Method, url: &Url) -> Option<Reach> {
        if self.method.as_ref().is_some_and(|own| own != method) {
            return None;
        }
        let host = url.host()?;
        let reach = match (&self.host, &host) {
            (RuleHost::Exact(own), host) if own.to_string() == host.to_string() => match host {
                Host::Domain(name) if *name != "localhost" => Reach::Public,
                _ => Reach::Named,
            },
            (RuleHost::Below(suffix), Host::Domain(name)) if name.ends_with(suffix.as_str()) => {
                Reach::Public
            }
            _ => return None,
        };
        let port = url.port_or_known_default()?;
        let expected = match self.port {
            Some(port) => port,
            None if url.scheme() == "https" => 443,
            None => 80,
        };
        if port != expected {
            return None;
        }
        // A rule for all paths need not understand them.
        let below = self.path.is_empty() || segments(url)?.starts_with(&self.path);
        below.then_some(reach)
    }
}

/// All rules of a flow or plugin; without any, nothing is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpPolicy {
    rules: Vec<HttpRule>,
}

impl HttpPolicy {
    /// These rules.
    #[must_use]
    pub const fn new(rules: Vec<HttpRule>) -> Self {
        Self { rules }
    }

    /// Reads rules from grants.
    ///
    /// # Errors
    /// The first that is no rule.
    pub fn parse<'a>(rules: impl IntoIterator<Item = &'a str>) -> Result<Self, RuleError> {
        let rules = rules
            .into_iter()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// The rule that allows a request, as it was granted.
    #[must_use]
    pub fn rule(&self, method: &str, url: &Url) -> Option<&str> {
        let method = Method::from_str(method).ok()?;
        let (rule, _) = self.find(&method, url)?;
        Some(&rule.text)
    }

    pub(super) fn reach(&self, method: &Method, url: &Url) -> Option<Reach> {
        self.find(method, url).map(|(_, reach)| reach)
    }

    fn find(&self, method: &Method, url: &Url) -> Option<(&HttpRule, Reach)> {
        let mut found = None;
        for rule in &self.rules {
            match rule.allows(method, url) {
                Some(Reach::Named) => return Some((rule, Reach::Named)),
                Some(Reach::Public) => found = found.or(Some((rule, Reach::Public))),
                None => {}
            }
        }
        found
    }
}

/// The address that a URL names instead of a host.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(rules: &[&str], method: Method, url: &str) -> Option<Reach> {
        HttpPolicy::parse(rules.iter().copied())
            .expect("valid rules")
            .reach(&method, &Url::parse(url).expect("a URL"))
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert_eq!(reach(&[], Method::GET, "https://example.com/"), None);
    }

    #[test]
    fn rules_match_method_host_port_and_whole_segments() {
        let rules = [
            "GET:api.example.com/v1",
            "*:*.example.org",
            "POST:127.0.0.1:8080",
        ];
        let get = |url: &str| reach(&rules, Method::GET, url);
        assert_eq!(get("https://api.example.com/v1"), Some(Reach::Public));
        assert_eq!(get("http://API.example.com/v1/a?b"), Some(Reach::Public));
        assert_eq!(get("https://api.example.com/v10"), None);
        assert_eq!(get("https://api.example.com/v1/../v2"), None);
        assert_eq!(get("https://api.example.com/v1/%2e%2e/v2"), None);
        assert_eq!(get("https://api.example.com/v1/..%2fv2"), None);
        for hidden in [
            "..;/v2",
            "..;a=b/v2",
            "%2e%2e;/v2",
            "%2e%2e%3b/v2",
            ".;/v2",
            "%252e%252e/v2",
            "%25252e%25252e/v2",
            "..%252fv2",
            "..%255cv2",
            "%252e%252e%253b/v2",
            "a%00/v2",
            "a%2500/v2",
            "%c0%ae%c0%ae/v2",
            "%u002e/v2",
        ] {
            let url = format!("https://api.example.com/v1/{hidden}");
            assert_eq!(get(&url), None, "{url}");
        }
        // Each decoding leaves another one.
        let endless = format!("https://api.example.com/v1/%{}", "25".repeat(20));
        assert_eq!(get(&endless), None);
        for plain in ["a;b=c", "..a", "a..;b", "100%25", "100%2525", "a%20b", ";"] {
            let url = format!("https://api.example.com/v1/{plain}");
            assert_eq!(get(&url), Some(Reach::Public), "{url}");
        }
        assert_eq!(get("https://api.example.com:8443/v1"), None);
        assert_eq!(get("https://api.example.com.evil.net/v1"), None);
        assert_eq!(get("https://user@evil.net/v1"), None);
        assert_eq!(get("https://a.b.example.org/"), Some(Reach::Public));
        assert_eq!(
            get("https://a.b.example.org/x%2Fy"),
            Some(Reach::Public),
            "a rule without a path takes any"
        );
        assert_eq!(get("https://example.org/"), None);
        assert_eq!(get("https://badexample.org/"), None);
        assert_eq!(get("http://127.0.0.1:8080/"), None);
        let post = |url| reach(&rules, Method::POST, url);
        assert_eq!(post("https://api.example.com/v1"), None);
        assert_eq!(post("http://127.0.0.1:8080/x"), Some(Reach::Named));
        // Other spellings of the same address.
        assert_eq!(post("http://2130706433:8080/x"), Some(Reach::Named));
        assert_eq!(post("http://127.0.0.1/x"), None);
    }

    #[test]
    fn the_rule_that_allows_a_request_is_known_as_it_was_granted() {
        let rules = ["*:*.example.com", "GET:API.example.com", "*:127.0.0.1:80"];
        let policy = HttpPolicy::parse(rules).expect("valid rules");
        let rule = |method, url: &str| policy.rule(method, &url.parse().expect("a URL"));
        assert_eq!(rule("GET", "https://api.example.com/a"), Some(rules[0]));
        assert_eq!(rule("PUT", "http://127.0.0.1/"), Some(rules[2]));
        assert_eq!(rule("GET", "https://example.com/"), None);
        assert_eq!(rule("no method", "https://api.example.com/"), None);
        let policy = HttpPolicy::parse([rules[1]]).expect("a valid rule");
        let url: Url = "https://api.example.com/".parse().expect("a URL");
        assert_eq!(policy.rule("GET", &url), Some(rules[1]));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for rule in [
            "",
            "GET",
            "get:example.com",
            "GET:",
            "GET:*",
            "GET:*.com",
            "GET:a*.com",
            "GET:example.com?x",
            "GET:user@example.com",
            "GET:example.com:0",
            "GET:example.com:99999",
            "GET:exa mple.com",
            "GET:*.127.0.0.1",
        ] {
            assert!(rule.parse::<HttpRule>().is_err(), "{rule}");
        }
        assert!("*:[::1]:80/a".parse::<HttpRule>().is_ok());
    }
}
