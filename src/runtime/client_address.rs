//! Whose address a request came from, where proxies stand in front.
//!
//! Invariant: what a header says counts only as far as it was written by proxies that are trusted:
//! everybody else can write what they like.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;
use serde::Deserialize;

/// Written by nginx, HAProxy, Apache and Caddy alike: each appends whom it was asked by.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Proxies whose word on a client's address counts: addresses and networks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct TrustedProxies(Vec<IpNet>);

impl TryFrom<Vec<String>> for TrustedProxies {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let parse = |text: String| {
            let network = text.parse::<IpNet>().ok();
            network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).ok_or_else(|| {
                format!("{text:?} is neither an address nor a network such as 10.0.0.0/8")
            })
        };
        texts.into_iter().map(parse).collect::<Result<_, _>>().map(TrustedProxies)
    }
}

impl TrustedProxies {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of the client of a request that came from `peer`.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return peer;
        }
        let lines = headers.get_all(FORWARDED_FOR).iter();
        let hops: Vec<&str> =
            lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).collect();
        let mut client = peer;
        for hop in hops.iter().rev() {
            // What cannot be read ends what can be believed.
            let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
            client = address.to_canonical();
            if !self.contains(client) {
                break;
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_counts_as_far_as_trusted_proxies_wrote_it() {
        let trusted = TrustedProxies::try_from(vec![
            "127.0.0.1".to_owned(),
            "10.0.0.0/8".into(),
            "fd00::/8".into(),
        ])
        .unwrap();
        let client = |peer: &str, lines: &[&str]| {
            let headers = lines.iter().map(|line| {
                (axum::http::HeaderName::from_static(FORWARDED_FOR), line.parse().unwrap())
            });
            trusted.client(peer.parse().unwrap(), &headers.collect()).to_string()
        };
        assert_eq!(client("192.0.2.9", &["198.51.100.1"]), "192.0.2.9", "nobody's word");
        assert_eq!(client("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("::ffff:127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("127.0.0.1", &["6.6.6.6, 198.51.100.1, 10.1.2.3"]), "198.51.100.1");
        assert_eq!(client("127.0.0.1", &["6.6.6.6", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("127.0.0.1", &["198.51.100.1, nonsense"]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(
            client("127.0.0.1", &["10.9.9.9"]),
            "10.9.9.9",
            "a client in a proxies' network"
        );
        assert_eq!(client("fd00::1", &["2001:db8::7"]), "2001:db8::7");
        assert!(TrustedProxies::try_from(vec!["proxy.example".to_owned()]).is_err());
    }
}
