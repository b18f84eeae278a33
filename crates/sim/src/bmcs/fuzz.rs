//! Entry points for `fuzz/`: all code that reads bytes from a console. Compiled for the fuzz target
//! and for the test below, which makes a short run of the same.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::behaviour::Behaviour;
use super::chassis::Chassis;
use super::storage::{self, EventLog};
use super::wire::{self, Cipher, SimSessionKeys};
use super::world::BmcWorld;

/// Gives the bytes to a BMC as datagrams and as commands, none of which may make it panic. Without
/// a session no act on a host may happen.
pub fn any_bytes(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    match choice % 2 {
        0 => datagrams(bytes),
        _ => commands(bytes),
    }
}

/// Splits bytes into pieces, each with its length first.
fn pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (piece, after) = rest.split_at(rest.len().min((*length).into()));
        pieces.push(piece);
        bytes = after;
    }
    pieces
}

fn datagrams(bytes: &[u8]) {
    let peer = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000);
    let mut world = BmcWorld::new(1, Behaviour { tag_zero: true, ..Behaviour::default() }, 1);
    let mut out = Vec::new();
    for datagram in pieces(bytes) {
        world.arrive(Instant::now(), 0, peer, datagram, &mut out);
        let keys = SimSessionKeys::of(Cipher::Seventeen, b"key");
        if let Some(wire::Packet::Sealed { packet, payload, .. }) = wire::read(datagram) {
            let _ = keys.open(packet, payload);
        }
    }
    assert!(world.acts.is_empty());
}

fn commands(bytes: &[u8]) {
    let (how, now) = (Behaviour::default(), Instant::now());
    let (mut chassis, mut log) = (Chassis::new(true), EventLog::default());
    for piece in pieces(bytes) {
        let _ = wire::request(piece).map(|request| request.answer(0, &[1]));
        let Some((command, data)) = piece.split_first() else { continue };
        let _ = log.run(*command, data);
        let _ = storage::repository(&how, *command, data);
        let _ = storage::sensor(3, true, *command, data);
        let _ = storage::dcmi(3, true, *command, data);
        let _ = chassis.control(&how, data, now);
        let _ = chassis.set_boot(&how, data, now);
        let _ = chassis.boot(&how, data, now + Duration::from_secs(61));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::any_bytes(&bytes);
        }
    }
}
