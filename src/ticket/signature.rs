//! Signature of a failure: two failures with the same one belong together. It is made of the target,
//! the step, the kind of error, and the message without what differs from host to host.

use sha2::{Digest, Sha256};

use metalbot_core::domain::triage::{HostFailure, Source, TicketTarget};

/// Message without the host's name, addresses and numbers, so that it is the same for two hosts that
/// failed in one way. A code such as `0xd5` stays: it is the cause's name.
pub fn normalise(failure: &HostFailure) -> String {
    let name = failure.host.as_str();
    let short = name.split('.').next().unwrap_or(name);
    let mut words = Vec::new();
    for word in failure.error.to_lowercase().split_whitespace() {
        let (head, core, tail) = bare(word);
        let core = match core {
            _ if core == name || core == short => "HOST".to_owned(),
            _ if is_address(core) => "ADDRESS".to_owned(),
            _ if is_code(core) => core.to_owned(),
            _ => numbers_out(core),
        };
        words.push(format!("{head}{core}{tail}"));
    }
    words.join(" ")
}

/// Signature of a failure that goes to this target, as 32 hexadecimal digits.
pub fn signature(failure: &HostFailure, target: &TicketTarget) -> String {
    let source = match &failure.source {
        Source::Step { run, title } => format!("step {run} {title}"),
        Source::Check { name } => format!("check {name}"),
    };
    let mut hash = Sha256::new();
    let components = target.components.iter().map(String::as_str);
    let place: [&str; 3] = [&target.site, &target.project, &target.issue_type];
    let cause: [&str; 3] = [&source, failure.kind.as_str(), &normalise(failure)];
    for part in place.into_iter().chain(components).chain(cause) {
        // With their lengths, so that no two lists of parts are one text.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

/// A word without the punctuation around it.
fn bare(word: &str) -> (&str, &str, &str) {
    let edge = |c: char| !c.is_alphanumeric();
    let core = word.trim_matches(edge);
    let at = if core.is_empty() { word.len() } else { word.find(core).unwrap_or(0) };
    (&word[..at], core, &word[at + core.len()..])
}

/// An IP or MAC address, with a port or a prefix length or without.
fn is_address(word: &str) -> bool {
    let word = word.split(['/', '%']).next().unwrap_or(word).trim_matches(['[', ']']);
    let host = word.rsplit_once(':').map_or(word, |(host, _)| host).trim_matches(['[', ']']);
    let ip = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
    let pairs: Vec<&str> = word.split([':', '-']).collect();
    let mac = pairs.len() == 6
        && pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
    ip(word) || ip(host) || mac
}

/// One byte in hexadecimal digits: a completion code or a status.
fn is_code(word: &str) -> bool {
    let digits = word.strip_prefix("0x").unwrap_or_default();
    (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Each run of digits, also of hexadecimal ones behind `0x`, becomes `#`.
fn numbers_out(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        let hex =
            rest.strip_prefix("0x").map_or(0, |digits| run(digits, |b| b.is_ascii_hexdigit()));
        let length = if hex > 0 { hex + 2 } else { run(rest, |b| b.is_ascii_digit()) };
        if length > 0 {
            out.push('#');
            rest = &rest[length..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

fn run(text: &str, is: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|b| is(*b)).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use metalbot_core::domain::error_kind::ErrorKind;

    fn failure(host: &str, error: &str) -> HostFailure {
        HostFailure {
            host: host.parse().unwrap(),
            owner: "o".into(),
            datacenter: "d".into(),
            rack: "r".into(),
            sku: "s".into(),
            bmc: Default::default(),
            usual: Default::default(),
            action: "reboot".into(),
            source: Source::Step { run: "power".into(), title: "cut the power".into() },
            kind: ErrorKind::BmcRefused,
            error: error.into(),
        }
    }

    fn target() -> TicketTarget {
        TicketTarget {
            site: "a".into(),
            project: "OPS".into(),
            issue_type: "Task".into(),
            components: Vec::new(),
            labels: Vec::new(),
            priority: None,
            assignee: None,
            fields: BTreeMap::new(),
        }
    }

    #[test]
    fn what_differs_from_host_to_host_is_taken_out() {
        for (error, expected) in [
            ("the BMC at 127.0.1.9:6230 refused it", "the bmc at ADDRESS refused it"),
            ("[fe80::1%eth0]:623, no answer", "[ADDRESS, no answer"),
            ("2001:db8::7 is away", "ADDRESS is away"),
            ("port 00:1B:44:11:3a:b7 is down.", "port ADDRESS is down."),
            ("web09 and web09.fra1.example: no", "HOST and HOST: no"),
            ("completion code 0xd5", "completion code 0xd5"),
            ("session 0x1f3a2b, try 17 of 20", "session #, try # of #"),
            ("slot7a (3.5s)", "slot#a (#.#s)"),
            ("— …", "— …"),
            ("", ""),
        ] {
            let host = if error.contains("example") { "web09.fra1.example" } else { "web09" };
            assert_eq!(normalise(&failure(host, error)), expected, "{error}");
        }
    }

    #[test]
    fn a_signature_is_one_cause_at_one_place() {
        let one = failure("web09", "the BMC at 10.0.0.9 does not answer");
        let two = failure("web10", "the BMC at 10.0.0.10 does not answer");
        assert_eq!(signature(&one, &target()), signature(&two, &target()));
        let elsewhere = TicketTarget { project: "HW".into(), ..target() };
        let priority = TicketTarget { priority: Some("High".into()), ..target() };
        assert_ne!(signature(&one, &target()), signature(&one, &elsewhere));
        assert_eq!(signature(&one, &target()), signature(&one, &priority));
        for other in [
            HostFailure { kind: ErrorKind::PowerState, ..one.clone() },
            HostFailure { error: "something else".into(), ..one.clone() },
            HostFailure { source: Source::Check { name: "power".into() }, ..one.clone() },
        ] {
            assert_ne!(signature(&one, &target()), signature(&other, &target()));
        }
    }
}
