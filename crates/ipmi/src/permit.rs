//! The right to act, asked for again at the last moment.

use std::fmt;
use std::sync::Arc;

/// The right to act on a machine. It is asked right before the packet that acts leaves: since it
/// was given, the process may have stood still, or somebody else may have got the machine.
///
/// When it does not hold, nothing is sent and the call ends in [`Error::NoPermit`].
///
/// [`Error::NoPermit`]: crate::Error::NoPermit
#[derive(Clone)]
pub struct Permit(Arc<dyn Fn() -> bool + Send + Sync>);

impl Permit {
    /// Asks `holds` each time; it must answer at once.
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Permit {
        Permit(Arc::new(holds))
    }

    /// For a caller that nobody can take the machine from.
    pub fn always() -> Permit {
        Permit::new(|| true)
    }

    /// Whether it holds now. Asking may have an effect of the caller's own: it says that the act
    /// follows at once.
    pub fn holds(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_a_permit_does_not_ask_it() {
        let permit = Permit::new(|| panic!("it was asked"));
        assert_eq!(format!("{permit:?}"), "Permit { .. }");
    }
}
