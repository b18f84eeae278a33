//! Who asks, by which way and when: the first argument of every use case.

use time::OffsetDateTime;

use metalbot_core::domain::origin::Origin;
use metalbot_core::domain::principal::{Actor, Principal};

/// One request of one person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestContext {
    pub principal: Principal,
    pub origin: Origin,
    /// Idempotency key: what the request queues is keyed by it, so that a repeat queues nothing.
    pub key: String,
    /// When they asked, if that may be some time ago.
    pub asked_at: Option<OffsetDateTime>,
}

impl RequestContext {
    /// Login of the person.
    pub fn login(&self) -> &str {
        &self.principal.login
    }

    /// As the audit keeps it.
    pub fn actor(&self) -> Actor {
        Actor { who: self.principal.login.clone(), via: self.origin.via() }
    }
}
