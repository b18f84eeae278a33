//! All simulated BMCs, and the network between them and the console.
//!
//! Pure: callers pass datagrams and the time; the result is events with their due times. Invariant:
//! the same seed and the same calls give the same events.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::behaviour::{Behaviour, Noise};
use super::chassis::Deed;
use super::controller::{BmcCounters, Controller, Moment};

/// Length of the RMCP header with the session header.
const HEADER: usize = 16;

/// Act of a BMC on its host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BmcAct {
    pub at: Instant,
    /// Number of the BMC, from 0.
    pub bmc: usize,
    pub deed: Deed,
}

/// Datagram under way, with its due time.
#[derive(Debug)]
pub struct Arrival {
    pub at: Instant,
    pub bmc: usize,
    pub peer: SocketAddrV4,
    pub way: Direction,
    pub datagram: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    ToBmc,
    ToConsole,
}

#[derive(Debug)]
pub struct BmcWorld {
    pub bmcs: Vec<(Arc<Behaviour>, Controller)>,
    pub acts: Vec<BmcAct>,
    /// Number of datagrams from consoles.
    pub heard: u64,
    random: StdRng,
    noise: usize,
}

impl BmcWorld {
    pub fn new(count: usize, behaviour: Behaviour, seed: u64) -> BmcWorld {
        let behaviour = Arc::new(behaviour);
        let bmcs =
            (0..count).map(|number| (behaviour.clone(), Controller::new(number as u32))).collect();
        BmcWorld { bmcs, acts: Vec::new(), heard: 0, random: StdRng::seed_from_u64(seed), noise: 0 }
    }

    /// Accepts a datagram from a console and delivers it over the network to the BMC.
    pub fn arrive(
        &mut self,
        now: Instant,
        bmc: usize,
        peer: SocketAddrV4,
        datagram: &[u8],
        out: &mut Vec<Arrival>,
    ) {
        let Some((how, _)) = self.bmcs.get(bmc) else { return };
        let how = how.clone();
        self.heard += 1;
        for late in self.fates(&how) {
            if late.is_zero() {
                self.hear(now, bmc, peer, datagram, out);
            } else {
                let datagram = datagram.to_vec();
                out.push(Arrival { at: now + late, bmc, peer, way: Direction::ToBmc, datagram });
            }
        }
    }

    /// Handles a datagram that reached the BMC.
    pub fn hear(
        &mut self,
        now: Instant,
        bmc: usize,
        peer: SocketAddrV4,
        datagram: &[u8],
        out: &mut Vec<Arrival>,
    ) {
        let (how, controller) = &mut self.bmcs[bmc];
        let how = how.clone();
        let mut moment = Moment { now, peer, how: &how, random: &mut self.random };
        let (answer, deed) = controller.hear(&mut moment, datagram);
        if let Some(deed) = deed {
            self.acts.push(BmcAct { at: now, bmc, deed });
        }
        let Some(answer) = answer else { return };
        let at = now + how.delay;
        let mut send = |at, datagram| {
            out.push(Arrival { at, bmc, peer, way: Direction::ToConsole, datagram });
        };
        if how.noise != Noise::None {
            for noise in self.noise(&answer) {
                send(at, noise);
            }
        }
        if how.noise == Noise::Instead {
            return;
        }
        for late in self.fates(&how) {
            send(at + late, answer.clone());
        }
    }

    /// Faults of the network for one datagram: the delay of each copy that arrives; no copy if it
    /// is lost.
    fn fates(&mut self, how: &Behaviour) -> impl Iterator<Item = Duration> + use<> {
        let mut roll = |share: f64| share > 0.0 && self.random.random_bool(share);
        let copies = usize::from(!roll(how.drop)) * (1 + usize::from(roll(how.duplicate)));
        let mut late = [Duration::ZERO; 2];
        for each in &mut late {
            if roll(how.hold) {
                *each = how.late;
            }
        }
        late.into_iter().take(copies)
    }

    fn noise(&mut self, answer: &[u8]) -> [Vec<u8>; 4] {
        let turn = self.noise;
        self.noise += 1;
        let cut = |length: usize| answer[..length % answer.len()].to_vec();
        let mut flipped = answer.to_vec();
        // The first bytes of RMCP are not checked, and nothing protects the body of the key
        // exchange: a flipped bit there gives another valid answer, which only UDP's checksum
        // prevents.
        let sealed = answer[5] & 0xc0 != 0;
        let flippable = if sealed { answer.len() - 4 } else { HEADER - 4 };
        let place = 4 + turn % flippable;
        flipped[place] ^= 1 << (turn / answer.len() % 8);
        let random = (0..turn % 200).map(|_| self.random.random()).collect();
        [cut(2 * turn), cut(2 * turn + 1), flipped, random]
    }

    pub fn tally(&self, bmc: usize) -> BmcCounters {
        self.bmcs[bmc].1.tally
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000);

    fn open_request(tag: u8) -> Vec<u8> {
        let body = [
            tag, 4, 0, 0, 1, 2, 3, 4, 0, 0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 8, 4, 0, 0, 0, 2, 0, 0, 8,
            1, 0, 0, 0,
        ];
        let head = [6, 0, 0xff, 7, 6, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0];
        [&head[..], &body].concat()
    }

    fn answers(behaviour: Behaviour, times: usize) -> Vec<Arrival> {
        let mut world = BmcWorld::new(1, behaviour, 1);
        let mut out = vec![];
        for _ in 0..times {
            world.arrive(Instant::now(), 0, PEER, &open_request(7), &mut out);
        }
        out
    }

    #[test]
    fn an_opening_is_answered_and_repeated_the_same() {
        let out = answers(Behaviour::default(), 2);
        assert_eq!(out.len(), 2);
        assert_eq!(out[0].datagram.len(), 16 + 36);
        assert_eq!(out[0].datagram[16..18], [7, 0]);
        assert_eq!(out[0].datagram, out[1].datagram);
    }

    #[test]
    fn shares_are_about_what_they_say() {
        let lost = 2_000 - answers(Behaviour { drop: 0.1, ..Behaviour::default() }, 2_000).len();
        // Twice the share, because requests and answers are both lost.
        assert!((300..460).contains(&lost), "{lost}");
        let behaviour = Behaviour { duplicate: 0.1, ..Behaviour::default() };
        let more = answers(behaviour, 2_000).len() - 2_000;
        assert!((330..510).contains(&more), "{more}");
    }

    #[test]
    fn noise_has_every_length_in_time() {
        let out = answers(Behaviour { noise: Noise::Before, ..Behaviour::default() }, 100);
        assert_eq!(out.len(), 500);
        for length in 0..52 {
            let cut = |event: &&Arrival| event.datagram.len() == length;
            assert!(out.iter().any(|event| cut(&event)), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_heard_without_panic(
            body in proptest::collection::vec(any::<u8>(), 0..80),
            kind in 0x10u8..0x16,
        ) {
            let mut world = BmcWorld::new(1, Behaviour::default(), 1);
            let mut out = vec![];
            world.arrive(Instant::now(), 0, PEER, &body, &mut out);
            let head = [6, 0, 0xff, 7, 6, kind, 0, 0, 0, 0, 0, 0, 0, 0, body.len() as u8, 0];
            let packet = [&head[..], &body].concat();
            world.arrive(Instant::now(), 0, PEER, &packet, &mut out);
            world.arrive(Instant::now(), 0, PEER, &[&[6, 0, 0xff, 6][..], &body].concat(), &mut out);
            prop_assert!(world.acts.is_empty());
        }
    }
}
