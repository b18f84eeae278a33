//! Resolves a BMC's address, as the inventory writes it, to a socket address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::Error;

/// Port of RMCP (IANA: asf-rmcp), used when the address has none.
const DEFAULT_PORT: u16 = 623;

/// Resolves the address of a BMC: a literal as it is, a name by the system's resolver.
pub async fn resolve(address: &str, timeout: Duration) -> Result<SocketAddr, Error> {
    let unreachable = || Error::Unreachable { address: address.to_owned() };
    match parse(address)? {
        Endpoint::Literal(peer) => Ok(peer),
        Endpoint::Name(name, port) => {
            let lookup = tokio::net::lookup_host((name, port));
            let found = tokio::time::timeout(timeout, lookup).await;
            let mut found = found.map_err(|_| unreachable())?.map_err(|error| {
                tracing::debug!(%error, name, "cannot resolve the name of a BMC");
                unreachable()
            })?;
            found.next().ok_or_else(unreachable)
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Endpoint<'a> {
    Literal(SocketAddr),
    Name(&'a str, u16),
}

fn parse(address: &str) -> Result<Endpoint<'_>, Error> {
    if let Ok(peer) = address.parse::<SocketAddr>()
        && peer.port() != 0
    {
        return Ok(Endpoint::Literal(peer));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(address).parse::<IpAddr>() {
        return Ok(Endpoint::Literal(SocketAddr::new(ip, DEFAULT_PORT)));
    }
    let (name, port) = match address.split_once(':') {
        Some((name, port)) => (name, port.parse().unwrap_or(0)),
        None => (address, DEFAULT_PORT),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if port == 0 || name.is_empty() || !name.bytes().all(plain) {
        return Err(Error::Misconfigured {
            detail: format!("{address:?} is not a BMC address: write `address` or `address:port`"),
        });
    }
    Ok(Endpoint::Name(name, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let literal = |text: &str| Endpoint::Literal(text.parse().unwrap());
        assert_eq!(parse("10.0.0.1"), Ok(literal("10.0.0.1:623")));
        assert_eq!(parse("10.0.0.1:6230"), Ok(literal("10.0.0.1:6230")));
        assert_eq!(parse("fe80::1"), Ok(literal("[fe80::1]:623")));
        assert_eq!(parse("[fe80::1]"), Ok(literal("[fe80::1]:623")));
        assert_eq!(parse("[fe80::1]:99"), Ok(literal("[fe80::1]:99")));
        assert_eq!(parse("bmc-1.example"), Ok(Endpoint::Name("bmc-1.example", 623)));
        assert_eq!(parse("bmc-1:99"), Ok(Endpoint::Name("bmc-1", 99)));
        for wrong in ["", ":623", "a b", "10.0.0.1:0", "10.0.0.1:x", "bmc:", "bmc:65536", "[::1"] {
            assert!(matches!(parse(wrong), Err(Error::Misconfigured { .. })), "{wrong:?} passed");
        }
    }
}
