//! Looks at a host before anybody is asked to approve work on it, so that what cannot succeed is
//! not begun.
//!
//! Invariant: a check never writes, so that it can be repeated at any time by anybody.

use std::time::Duration;

use crate::bmc::{Bmc, BmcError};
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind};
use metalbot_core::domain::host::Host;
use metalbot_core::domain::workflow::Check;

/// Looks at a host whose BMC does not answer; a second look costs little beside a false alarm.
const LOOKS: u32 = 2;
const PAUSE: Duration = Duration::from_secs(1);

/// Why a host does not pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    pub kind: ErrorKind,
    /// For operators.
    pub message: String,
}

/// Whether the host passes the check.
pub async fn check(check: Check, host: &Host, bmc: &dyn Bmc) -> Result<(), Unfit> {
    match check {
        Check::BmcConsole => bmc_console(host, bmc).await,
    }
}

async fn bmc_console(host: &Host, bmc: &dyn Bmc) -> Result<(), Unfit> {
    let mut looks = 1;
    loop {
        match bmc.power(host).await {
            Ok(_) => return Ok(()),
            Err(error) if error.class() != ErrorClass::Rejected && looks < LOOKS => {
                looks += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(unfit(&error)),
        }
    }
}

fn unfit(error: &BmcError) -> Unfit {
    // A BMC's own words may hold what PostgreSQL cannot store.
    Unfit { kind: error.kind(), message: error.to_string().replace('\0', "") }
}
