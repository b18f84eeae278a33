//! What a simulated BMC does right, and how it misbehaves as real ones do.

use std::time::Duration;

use super::wire::Cipher;
use crate::rack::{MANUFACTURER, PASSWORD, USER};

/// How one BMC and the way to it behave. The default is a good BMC on a good network.
///
/// Shares are between 0 and 1 and are rolled for each datagram, in each direction.
#[derive(Clone, PartialEq, Debug)]
pub struct Behaviour {
    /// Time that it takes to answer a datagram.
    pub delay: Duration,
    /// Share of datagrams that get lost.
    pub drop: f64,
    /// Share of datagrams that arrive twice.
    pub duplicate: f64,
    /// Share of datagrams that are held back by `late`, so that later ones overtake them.
    pub hold: f64,
    pub late: Duration,
    /// What comes besides the answers.
    pub noise: Noise,

    /// Who has made it, by IANA's private enterprise numbers.
    pub manufacturer: u32,
    pub ciphers: &'static [Cipher],
    pub user: &'static str,
    pub password: &'static str,
    /// Highest level that the user gets, IPMI 2.0 table 13-10: 2 user, 3 operator, 4 administrator.
    pub privilege: u8,
    /// Too high a level is refused when the session is raised, not already in the key exchange.
    pub late_refusal: bool,
    /// Sessions at once, of which opening ones count.
    pub slots: usize,
    /// A silent session's slot is freed after this time (the specification's is 60 s).
    pub session_timeout: Duration,
    /// Answers in the key exchange carry tag 0, whatever the request's was.
    pub tag_zero: bool,
    /// Refusals in the key exchange end after the status.
    pub short_errors: bool,
    /// This many requests of each session are first answered with 'node busy'.
    pub busy: u32,

    pub soft: Soft,
    /// Time after which an act shows in the power state; a cycle is off for as long again.
    pub lag: Duration,
    /// Whether the boot flags can be told not to expire, and after which time they do otherwise.
    pub keeps_boot_flags: bool,
    pub boot_flags_expire: Duration,

    /// Whether it knows DCMI's power reading.
    pub dcmi: bool,
    /// Most bytes of a sensor's record that it gives at a time; asked for more it refuses.
    pub longest_read: usize,
}

/// What the operating system makes of a soft off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Soft {
    Obeyed,
    /// The BMC accepts it, and nothing happens.
    Ignored,
    /// The BMC does not know the command: completion code 0xcc.
    Refused,
}

/// Datagrams that are no answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noise {
    None,
    /// Before each answer come two that are cut off at the next length in turn, one with a flipped
    /// bit at the next place, and random bytes of the next length.
    Before,
    /// Instead of each answer come the same.
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
