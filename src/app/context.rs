//! The person, origin and time of a request: the first argument of every use case.

use time::OffsetDateTime;

use metalbot_core::domain::origin::Origin;
use metalbot_core::domain::principal::{Actor, Principal};

/// One request of one person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestContext {
    pub principal: Principal,
    pub origin: Origin,
    /// Idempotency key: notices that the request queues are keyed by it, so a repeat queues
    /// nothing.
    pub key: String,
    /// Time at which the person asked, if that may be some time ago.
    pub asked_at: Option<OffsetDateTime>,
}

impl RequestContext {
    /// Login of the person.
    pub fn login(&self) -> &str {
        &self.principal.login
    }

    /// Person and origin as the audit keeps them.
    pub fn actor(&self) -> Actor {
        Actor { who: self.principal.login.clone(), via: self.origin.via() }
    }
}
