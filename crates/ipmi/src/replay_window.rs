//! Protection against replays: each sequence number of a session is accepted once, and only near
//! the highest one.

/// Received sequence numbers, IPMI 2.0 section 6.12.13: up to 16 away from the highest, each once.
#[derive(Debug, Default)]
pub struct ReplayWindow {
    highest: u32,
    /// Received numbers as bits: bit n is set when `highest - n` was received.
    seen: u32,
}

impl ReplayWindow {
    const REACH: u32 = 16;

    /// True if a number is new and near enough; it counts as received from then on.
    pub fn admit(&mut self, sequence: u32) -> bool {
        if sequence == 0 {
            return false;
        }
        // The BMC chooses the first number: 1 by the specification, but others occur.
        if self.highest == 0 {
            *self = ReplayWindow { highest: sequence, seen: 1 };
            return true;
        }
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            if ahead > Self::REACH {
                return false;
            }
            *self = ReplayWindow { highest: sequence, seen: self.seen << ahead | 1 };
            return true;
        }
        let behind = self.highest - sequence;
        if behind > Self::REACH || self.seen & 1 << behind != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_takes_each_number_once_and_none_from_afar() {
        let mut window = ReplayWindow::default();
        assert!(!window.admit(0));
        assert!(window.admit(1));
        assert!(!window.admit(1), "a duplicate");
        assert!(window.admit(4));
        assert!(window.admit(2), "overtaken");
        assert!(!window.admit(2));
        assert!(!window.admit(4 + 17), "too far ahead");
        assert!(window.admit(4 + 16));
        assert!(!window.admit(3), "too far behind");
    }
}
