//! Preflight checks of a host before anybody is asked to approve work on it, so that what cannot
//! succeed is not begun.
//!
//! Invariant: a check never writes, so that it can be repeated at any time by anybody.

use std::time::Duration;

use crate::bmc::{Bmc, Power};
use metalbot_core::domain::error_kind::{ErrorClass, HostError};
use metalbot_core::domain::host::Host;
use metalbot_core::domain::workflow::{Check, PowerIs};

/// Tries at a host whose BMC does not answer; a second one costs little beside a false alarm.
const LOOKS: u32 = 2;
const PAUSE: Duration = Duration::from_secs(1);

/// Runs one check on a host; returns the power state that it saw. The error says why the host does
/// not pass it.
pub async fn check(check: Check, host: &Host, bmc: &dyn Bmc) -> Result<PowerIs, HostError> {
    match check {
        Check::BmcConsole => bmc_console(host, bmc).await,
    }
}

async fn bmc_console(host: &Host, bmc: &dyn Bmc) -> Result<PowerIs, HostError> {
    let mut looks = 1;
    loop {
        match bmc.power(host).await {
            Ok(Power::On) => return Ok(PowerIs::On),
            Ok(Power::Off) => return Ok(PowerIs::Off),
            Err(error) if error.class() != ErrorClass::Rejected && looks < LOOKS => {
                looks += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(HostError::new(error.kind(), error.to_string())),
        }
    }
}
