//! The right to act, checked again at the last moment.

use std::fmt;
use std::sync::Arc;

/// Right to act on a machine. It is checked right before the packet that acts is sent: since it was
/// given, the process may have been stopped for a while, or somebody else may have got the machine.
///
/// When the permit no longer holds, nothing is sent and the call ends in [`Error::NoPermit`].
///
/// [`Error::NoPermit`]: crate::Error::NoPermit
#[derive(Clone)]
pub struct Permit(Arc<dyn Fn() -> bool + Send + Sync>);

impl Permit {
    /// Creates a permit that calls `holds` at each check; `holds` must return at once.
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Permit {
        Permit(Arc::new(holds))
    }

    /// Creates a permit that always holds, for a caller that nobody can take the machine from.
    pub fn always() -> Permit {
        Permit::new(|| true)
    }

    /// True if the permit holds now. The check may have an effect in the caller's code, which can
    /// rely on the act following at once.
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
