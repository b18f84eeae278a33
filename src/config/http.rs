//! `[http]`: where Metalbot answers, and who stands in front of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Deserializer};

use crate::runtime::client_address::TrustedProxies;

/// `[http]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    #[serde(deserialize_with = "socket")]
    pub listen: SocketAddr,
    /// Address in links; see [`Config::public_url`](super::Config::public_url).
    pub public_url: Option<String>,
    /// Health and metrics answer here as well, metrics here only.
    #[serde(deserialize_with = "some_socket")]
    pub health_listen: Option<SocketAddr>,
    /// Proxies whose word on a client's address counts.
    pub trusted_proxies: TrustedProxies,
    pub max_connections: u32,
    /// Of one address, unless it is a trusted proxy's.
    pub max_connections_per_address: u32,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            public_url: None,
            health_listen: None,
            trusted_proxies: TrustedProxies::default(),
            max_connections: 4_096,
            max_connections_per_address: 256,
        }
    }
}

fn socket<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    // The one name that means the same everywhere.
    let literal = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text,
    };
    literal.parse().map_err(|_| {
        serde::de::Error::custom(
            "write an address with its port: 127.0.0.1:8080, [::1]:8080, or 0.0.0.0:8080 for all \
             that this machine has",
        )
    })
}

fn some_socket<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    socket(from).map(Some)
}

/// Says what is wrong with an address for people, to which paths are appended.
pub(super) fn public_url_problem(text: &str) -> Option<&'static str> {
    const EXAMPLE: &str = "write http:// or https:// and the name that people use, such as \
                           https://metal.example.org";
    let Ok(url) = text.parse::<reqwest::Url>() else { return Some(EXAMPLE) };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Some(EXAMPLE);
    }
    if url.path() != "/" {
        return Some(
            "it has a path, and pages are served from the root only: give Metalbot a name or a port \
             of its own",
        );
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("it must not hold a user or a password: it stands in every link");
    }
    (url.query().is_some() || url.fragment().is_some()).then_some("it must not hold ? or #")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_people_has_nothing_behind_its_name() {
        for right in ["https://metal.example.org", "http://10.0.0.1:8080/", "http://[::1]:80"] {
            assert_eq!(public_url_problem(right), None, "{right}");
        }
        for (wrong, part) in [
            ("https://example.org/metalbot", "path"),
            ("https://example.org/?a", "?"),
            ("https://example.org/#a", "#"),
            ("https://bob:secret@example.org", "password"),
            ("ftp://example.org", "https://"),
            ("metal", "https://"),
            ("https://", "https://"),
        ] {
            assert!(public_url_problem(wrong).is_some_and(|why| why.contains(part)), "{wrong}");
        }
    }
}
