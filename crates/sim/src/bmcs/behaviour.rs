//! Behaviour of a simulated BMC, and the faults that real BMCs have.

use std::time::Duration;

use super::wire::Cipher;
use crate::rack::{MANUFACTURER, PASSWORD, USER};

/// Behaviour of one BMC and of the network to it. The default is a good BMC on a good network.
///
/// Shares are between 0 and 1 and are drawn for each datagram, in each direction.
#[derive(Clone, PartialEq, Debug)]
pub struct Behaviour {
    /// Time between a datagram and its answer.
    pub delay: Duration,
    /// Share of datagrams that are lost.
    pub drop: f64,
    /// Share of datagrams that arrive twice.
    pub duplicate: f64,
    /// Share of datagrams that are delayed by `late`, so that later ones overtake them.
    pub hold: f64,
    pub late: Duration,
    /// Invalid datagrams, besides or instead of the answers.
    pub noise: Noise,

    /// Manufacturer, by IANA's private enterprise numbers.
    pub manufacturer: u32,
    pub ciphers: &'static [Cipher],
    pub user: &'static str,
    pub password: &'static str,
    /// Highest privilege level of the user, IPMI 2.0 table 13-10: 2 user, 3 operator, 4
    /// administrator.
    pub privilege: u8,
    /// Set to refuse a privilege level that is too high when the session is raised, not already in
    /// the key exchange.
    pub late_refusal: bool,
    /// Largest number of sessions at once, including those that are being opened.
    pub slots: usize,
    /// Time after which a silent session's slot is freed (60 s in the specification).
    pub session_timeout: Duration,
    /// Set to give answers in the key exchange tag 0, for any tag of the request.
    pub tag_zero: bool,
    /// Set to end refusals in the key exchange after the status.
    pub short_errors: bool,
    /// Number of requests of each session that are first answered with 'node busy'.
    pub busy: u32,

    pub soft: Soft,
    /// Time until an act shows in the power state; a cycle shows 'off' for as long again.
    pub lag: Duration,
    /// Set if the BMC can keep boot flags on request; others expire after `boot_flags_expire`.
    pub keeps_boot_flags: bool,
    pub boot_flags_expire: Duration,

    /// Set if the BMC supports DCMI's power reading.
    pub dcmi: bool,
    /// Largest number of bytes of a sensor's record per read; a read of more is refused.
    pub longest_read: usize,
}

/// Reaction of the operating system to a soft off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Soft {
    Obeyed,
    /// The BMC accepts it, and nothing happens.
    Ignored,
    /// The BMC refuses the command as unknown: completion code 0xcc.
    Refused,
}

/// Invalid datagrams that the BMC sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noise {
    None,
    /// Before each answer, four datagrams: two copies cut off at varying lengths, one copy with a
    /// flipped bit at a varying place, and random bytes of a varying length.
    Before,
    /// The same four datagrams instead of each answer.
    Instead,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            delay: Duration::ZERO,
            drop: 0.0,
            duplicate: 0.0,
            hold: 0.0,
            late: Duration::from_millis(50),
            noise: Noise::None,
            manufacturer: MANUFACTURER,
            ciphers: &Cipher::ALL,
            user: USER,
            password: PASSWORD,
            privilege: 4,
            late_refusal: false,
            slots: 4,
            session_timeout: Duration::from_secs(60),
            tag_zero: false,
            short_errors: false,
            busy: 0,
            soft: Soft::Obeyed,
            lag: Duration::ZERO,
            keeps_boot_flags: true,
            boot_flags_expire: Duration::from_secs(60),
            dcmi: true,
            longest_read: 0xff,
        }
    }
}
