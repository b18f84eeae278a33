//! Which packets of a session are taken: each sequence number once, and none from afar, so that a
//! packet that somebody sends again changes nothing.

/// Sequence numbers that were received, IPMI 2.0 section 6.12.13: up to 16 away from the highest,
/// each once.
#[derive(Debug, Default)]
pub struct ReplayWindow {
    highest: u32,
    /// Bit n: `highest - n` was received.
    seen: u32,
}

impl ReplayWindow {
    const REACH: u32 = 16;

    /// Whether a number is new and near enough.
    pub fn admit(&mut self, sequence: u32) -> bool {
        if sequence == 0 {
            return false;
        }
        // The first number is the BMC's choice: 1 by the specification, others are met.
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
