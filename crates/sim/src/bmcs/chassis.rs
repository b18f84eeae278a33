//! The host behind a simulated BMC: its power, its boot flags, and the log of acts on it.

use std::collections::VecDeque;
use std::time::Instant;

use super::behaviour::{Behaviour, Soft};

/// Act of a BMC on its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    Off,
    On,
    Cycle,
    Reset,
    Diagnose,
    Soft,
    /// Lamp, with its time in seconds.
    Identify(u8),
    /// Boot flags, without the parameter's number.
    Boot([u8; 5]),
}

#[derive(Debug)]
pub struct Chassis {
    on: bool,
    /// Power states with the times at which they show.
    changes: VecDeque<(Instant, bool)>,
    boot: [u8; 5],
    /// Time at which the flags were set, unless they were told not to expire.
    boot_set: Option<Instant>,
    boot_stays: bool,
}

/// Completion codes, IPMI 2.0 table 5-2.
pub const DONE: u8 = 0x00;
const NOT_IN_THIS_STATE: u8 = 0xd5;
const BAD_FIELD: u8 = 0xcc;
const PARAMETER_UNKNOWN: u8 = 0x80;
pub const TOO_SHORT: u8 = 0xc7;

const BOOT_VALID: u8 = 0x80;
const BOOT_PERSISTENT: u8 = 0x40;

impl Chassis {
    pub fn new(on: bool) -> Chassis {
        Chassis { on, changes: VecDeque::new(), boot: [0; 5], boot_set: None, boot_stays: false }
    }

    /// Leaves a boot device without its valid bit, as real BMCs do.
    pub fn leave_stale_boot_device(&mut self) {
        self.boot = [0, 0x01 << 2, 0, 0, 0];
    }

    pub fn is_on(&mut self, now: Instant) -> bool {
        while let Some((_, on)) = self.changes.pop_front_if(|(at, _)| *at <= now) {
            self.on = on;
        }
        self.on
    }

    pub fn set_on(&mut self, on: bool) {
        self.changes.clear();
        self.on = on;
    }

    /// Get Chassis Status, section 28.2.
    pub fn status(&mut self, now: Instant) -> [u8; 4] {
        [0x20 | u8::from(self.is_on(now)), 0x10, 0x40, 0x54]
    }

    /// Chassis Control, section 28.3: returns the act, or the completion code of a refusal.
    pub fn control(&mut self, how: &Behaviour, data: &[u8], now: Instant) -> Result<Deed, u8> {
        let deed = match data.first().ok_or(TOO_SHORT)? & 0x0f {
            0 => Deed::Off,
            1 => Deed::On,
            2 => Deed::Cycle,
            3 => Deed::Reset,
            4 => Deed::Diagnose,
            5 if how.soft != Soft::Refused => Deed::Soft,
            _ => return Err(BAD_FIELD),
        };
        let needs_power = matches!(deed, Deed::Cycle | Deed::Reset | Deed::Diagnose | Deed::Soft);
        if needs_power && !self.is_on(now) {
            return Err(NOT_IN_THIS_STATE);
        }
        let changes: &[bool] = match deed {
            Deed::Off => &[false],
            Deed::On => &[true],
            Deed::Cycle => &[false, true],
            Deed::Soft if how.soft == Soft::Obeyed => &[false],
            _ => &[],
        };
        for (turn, on) in (1..).zip(changes) {
            self.changes.push_back((now + how.lag * turn, *on));
        }
        let boots = matches!(deed, Deed::On | Deed::Cycle | Deed::Reset);
        if boots && self.boot[0] & BOOT_PERSISTENT == 0 {
            // The flags are used up: the device stays without its valid bit.
            self.boot[0] &= !BOOT_VALID;
        }
        Ok(deed)
    }

    /// Set System Boot Options, section 28.12.
    pub fn set_boot(
        &mut self,
        how: &Behaviour,
        data: &[u8],
        now: Instant,
    ) -> Result<Option<Deed>, u8> {
        match data {
            [0x03, clear, ..] if how.keeps_boot_flags => {
                self.boot_stays = clear & 0x08 != 0;
                Ok(None)
            }
            [0x05, flags @ ..] => {
                self.boot = flags.try_into().map_err(|_| TOO_SHORT)?;
                self.boot_set = Some(now);
                Ok(Some(Deed::Boot(self.boot)))
            }
            [] => Err(TOO_SHORT),
            // Set-in-progress, and acknowledgement of the boot information.
            [0x00 | 0x04, ..] => Ok(None),
            _ => Err(PARAMETER_UNKNOWN),
        }
    }

    /// Get System Boot Options, section 28.13.
    pub fn boot(&mut self, how: &Behaviour, data: &[u8], now: Instant) -> Result<Vec<u8>, u8> {
        let expired = self.boot_set.is_some_and(|set| now >= set + how.boot_flags_expire);
        if expired && !self.boot_stays {
            self.boot[0] &= !BOOT_VALID;
        }
        match data.first().ok_or(TOO_SHORT)? & 0x7f {
            0x05 => Ok([&[0x01, 0x05], &self.boot[..]].concat()),
            _ => Err(PARAMETER_UNKNOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cycle_is_seen_off_and_then_on_again() {
        let now = Instant::now();
        let how = Behaviour { lag: Duration::from_secs(10), ..Behaviour::default() };
        let mut chassis = Chassis::new(true);
        assert_eq!(chassis.control(&how, &[2], now), Ok(Deed::Cycle));
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(chassis.is_on(after(9)));
        assert!(!chassis.is_on(after(11)));
        assert!(chassis.is_on(after(21)));
    }

    #[test]
    fn a_host_that_is_off_cannot_be_cycled() {
        let now = Instant::now();
        let mut chassis = Chassis::new(false);
        assert_eq!(chassis.control(&Behaviour::default(), &[2], now), Err(0xd5));
        assert_eq!(chassis.control(&Behaviour::default(), &[1], now), Ok(Deed::On));
        assert_eq!(chassis.control(&Behaviour::default(), &[2], now), Ok(Deed::Cycle));
    }

    #[test]
    fn boot_flags_expire_unless_told_otherwise_and_are_used_up() {
        let now = Instant::now();
        let later = now + Duration::from_secs(61);
        let how = Behaviour::default();
        let pxe = [0x05, 0x80, 0x04, 0, 0, 0];
        let valid = |chassis: &mut Chassis, at| {
            chassis.boot(&how, &[0x05, 0, 0], at).unwrap()[2] & 0x80 != 0
        };
        let mut chassis = Chassis::new(true);
        chassis.set_boot(&how, &pxe, now).unwrap();
        assert!(valid(&mut chassis, now) && !valid(&mut chassis, later));
        chassis.set_boot(&how, &[0x03, 0x08], now).unwrap();
        chassis.set_boot(&how, &pxe, now).unwrap();
        assert!(valid(&mut chassis, later));
        chassis.control(&how, &[3], later).unwrap();
        assert!(!valid(&mut chassis, later), "the boot has used it up");
    }
}
