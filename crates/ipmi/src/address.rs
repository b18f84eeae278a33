//! Addresses of BMCs: every usual way to write one, the one form of each, and the sockets behind it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};

use crate::Error;

/// Port of RMCP (IANA: asf-rmcp), used when the address has none.
const DEFAULT_PORT: u16 = 623;
/// Longest name, RFC 1035 section 2.3.4.
const NAME_MAX: usize = 253;

/// Where a BMC is: `10.0.0.1`, `[2001:db8::1]:623`, `fe80::1%eth0` or a name, each with a port or
/// without. Two spellings of one address are equal and displayed alike.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    host: Host,
    port: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Host {
    Ip(IpAddr),
    /// Of one link, which the zone names.
    Link(Ipv6Addr, String),
    /// In lower case, without the dot at its end.
    Name(String),
}

/// Text that is no [`Address`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is not an address; use for example 10.0.0.1, 10.0.0.1:623, 2001:db8::1, \
     [2001:db8::1]:623 or a host name"
)]
pub struct NotAnAddress(pub String);

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Address, NotAnAddress> {
        parse(text).ok_or_else(|| NotAnAddress(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Address> {
    let port_of = |text: &str| match text.strip_prefix(':') {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port != 0)
        }
        Some(_) => None,
        None => text.is_empty().then_some(DEFAULT_PORT),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, port) = rest.split_once(']')?;
        return Some(Address { host: ipv6(inside)?, port: port_of(port)? });
    }
    if let Some(host) = ipv6(text) {
        return Some(Address { host, port: DEFAULT_PORT });
    }
    let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
    let host = match host.parse() {
        Ok(ip) => Host::Ip(IpAddr::V4(ip)),
        Err(_) => Host::Name(name(host)?),
    };
    Some(Address { host, port: port_of(port)? })
}

fn ipv6(text: &str) -> Option<Host> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let ip: Ipv6Addr = address.parse().ok()?;
    match zone {
        // An IPv4 address in IPv6's clothes is that address.
        None => Some(Host::Ip(IpAddr::V6(ip).to_canonical())),
        Some(zone) => {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@:".contains(&b);
            (!zone.is_empty() && zone.bytes().all(plain)).then(|| Host::Link(ip, zone.to_owned()))
        }
    }
}

fn name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let usual = !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(plain);
    // Numbers that are no address are a slip, not a name.
    let slip = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (usual && !slip && !name.starts_with('.') && !name.contains(".."))
        .then(|| name.to_ascii_lowercase())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = self.port == DEFAULT_PORT;
        match &self.host {
            Host::Ip(ip) if usual => write!(f, "{ip}"),
            Host::Ip(ip) => write!(f, "{}", SocketAddr::new(*ip, self.port)),
            Host::Link(ip, zone) if usual => write!(f, "{ip}%{zone}"),
            Host::Link(ip, zone) => write!(f, "[{ip}%{zone}]:{}", self.port),
            Host::Name(name) if usual => f.write_str(name),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Resolves the address of a BMC: a literal as it is, a name by the system's resolver. Returns at
/// least one, in the order in which to try them.
pub async fn resolve(text: &str, timeout: Duration) -> Result<Vec<SocketAddr>, Error> {
    let address: Address = text
        .parse()
        .map_err(|error: NotAnAddress| Error::Misconfigured { detail: error.to_string() })?;
    let host = match address.host {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(ip, address.port)]),
        // The system knows the number of a zone.
        Host::Link(ip, zone) => format!("{ip}%{zone}"),
        Host::Name(name) => name,
    };
    let failed = |why: &str| Error::Local {
        detail: format!("the name of the BMC {text} cannot be looked up: {why}"),
    };
    let looked_up = host.clone();
    let looking = tokio::task::spawn_blocking(move || look_up(&looked_up, address.port));
    let found = tokio::time::timeout(timeout, looking).await;
    let found = found.map_err(|_| failed("the resolver does not answer"))?;
    match found.map_err(|_| failed("the process ends"))? {
        Ok(found) => Ok(alternating(found)),
        Err(error) => match error.kind() {
            LookupErrorKind::NoName | LookupErrorKind::NoData => {
                Err(Error::UnknownName { name: host })
            }
            _ => Err(failed(&std::io::Error::from(error).to_string())),
        },
    }
}

fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, dns_lookup::LookupError> {
    let hints = AddrInfoHints { socktype: SockType::DGram.into(), ..Default::default() };
    let found = getaddrinfo(Some(host), None, Some(hints))?;
    let with_port = found.filter_map(Result::ok).map(|found| {
        let mut socket = found.sockaddr;
        socket.set_port(port);
        socket
    });
    Ok(with_port.collect())
}

/// Both families by turns, so that one that leads nowhere holds up little (RFC 8305 section 4).
fn alternating(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|one| one.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all: Vec<SocketAddr> = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return all;
        }
        for one in pair.into_iter().flatten() {
            if !all.contains(&one) {
                all.push(one);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_has_one_form() {
        for (text, form) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1:623", "10.0.0.1"),
            ("10.0.0.1:6230", "10.0.0.1:6230"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("[::ffff:10.0.0.1]:6230", "10.0.0.1:6230"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("[2001:db8::10]", "2001:db8::10"),
            ("[2001:db8::10]:623", "2001:db8::10"),
            ("[2001:db8::10]:99", "[2001:db8::10]:99"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("[FE80::1%eth0]:623", "fe80::1%eth0"),
            ("[fe80::1%bond0.7]:99", "[fe80::1%bond0.7]:99"),
            ("BMC-1.Example.", "bmc-1.example"),
            ("bmc_1.example:623", "bmc_1.example"),
            ("bmc-1:99", "bmc-1:99"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), form, "{text}");
            assert_eq!(form.parse(), Ok(address), "{text}");
        }
        for wrong in [
            "",
            ":623",
            "a b",
            "10.0.0.1:0",
            "10.0.0.1:x",
            "10.0.0.1:+9",
            "bmc:",
            "bmc:65536",
            "[::1",
            "::1]",
            "[::1]9",
            "[::1]:",
            "[10.0.0.1]",
            "[bmc]",
            "1.2.3",
            "10.0.0.256",
            "a:1:2",
            "a..b",
            ".",
            "fe80::1%",
            "fe80::1%a b",
            "10.0.0.1%eth0",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong:?} passed");
        }
    }

    #[test]
    fn families_alternate() {
        let sockets = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|text| text.parse().unwrap()).collect()
        };
        let found =
            sockets(&["[::1]:1", "[::2]:1", "[::1]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"]);
        let tried = sockets(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "1.1.1.3:1"]);
        assert_eq!(alternating(found), tried);
        assert_eq!(alternating(Vec::new()), []);
    }

    #[tokio::test]
    async fn a_zone_is_looked_up_by_the_system() {
        let found = resolve("[fe80::1%lo]:99", Duration::from_secs(5)).await.unwrap();
        let [SocketAddr::V6(found)] = found[..] else { panic!("{found:?}") };
        assert!(found.port() == 99 && found.scope_id() != 0, "{found:?}");
    }
}
