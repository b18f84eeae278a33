//! The requests that Metalbot makes of a management controller, whatever protocol it speaks.
//!
//! Invariants: every error has an [`ErrorKind`], and by it a class, so that nobody upstream guesses
//! from a message whether a power cycle may be repeated; nothing that changes a host is sent without
//! a [`Permit`] that is asked for right before.
//!
//! [`ipmi`] is the one implementation so far. What its crate calls a target is made of a [`Host`] and
//! its credentials there, and only there.

pub mod ipmi;
mod vendor;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind};
use metalbot_core::domain::host::{Host, HostName};
use metalbot_core::domain::workflow::{BootDevice, PowerTo};
use metalbot_ipmi::Error as IpmiError;

pub use metalbot_ipmi::{
    Act, BootOverride, BootSelector, BootTime, DeviceInfo, Permit, Power, Readings, SelEntry,
    unrestricted,
};
pub use vendor::identity;

/// Failure of a request to a BMC. Messages are for operators and never hold a secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BmcError {
    #[error(transparent)]
    Ipmi(#[from] IpmiError),
    #[error("host {host} names credentials {credentials:?} that do not exist")]
    UnknownCredentials { host: HostName, credentials: String },
}

impl BmcError {
    /// Class of the error: says what may be done after it.
    pub fn class(&self) -> ErrorClass {
        self.kind().class()
    }

    /// Stable name by which failures are grouped into tickets.
    pub fn kind(&self) -> ErrorKind {
        match self {
            BmcError::Ipmi(error) => ipmi_kind(error),
            BmcError::UnknownCredentials { .. } => ErrorKind::Misconfigured,
        }
    }
}

fn ipmi_kind(error: &IpmiError) -> ErrorKind {
    match error {
        IpmiError::Unreachable { .. } => ErrorKind::BmcUnreachable,
        IpmiError::UnknownName { .. } => ErrorKind::BmcName,
        IpmiError::Local { .. } => ErrorKind::OwnShortage,
        IpmiError::Busy { .. } => ErrorKind::BmcBusy,
        IpmiError::Credentials { .. } => ErrorKind::BmcCredentials,
        IpmiError::Privilege { .. } => ErrorKind::BmcPrivilege,
        IpmiError::NoCommonCipher { .. } => ErrorKind::BmcCipher,
        IpmiError::Refused { .. } => ErrorKind::BmcRefused,
        IpmiError::Protocol { .. } => ErrorKind::BmcProtocol,
        IpmiError::OutcomeUnknown { .. } => ErrorKind::OutcomeUnknown,
        IpmiError::NoPermit { .. } => ErrorKind::NoPermit,
        IpmiError::Misconfigured { .. } => ErrorKind::Misconfigured,
    }
}

/// The boot device of a plan, as [`BootOverride`] names it.
pub fn boot_selector(device: BootDevice) -> BootSelector {
    match device {
        BootDevice::None => BootSelector::None,
        BootDevice::Pxe => BootSelector::Pxe,
        BootDevice::Disk => BootSelector::Disk,
        BootDevice::Safe => BootSelector::Safe,
        BootDevice::Diag => BootSelector::Diag,
        BootDevice::Cdrom => BootSelector::Cdrom,
        BootDevice::Bios => BootSelector::Bios,
    }
}

/// A way to reach BMCs. One value serves the whole fleet; each call opens and closes what it needs.
#[async_trait]
pub trait Bmc: Send + Sync + 'static {
    /// Opens what all calls share, so that a shortage that comes later cannot keep it from opening.
    async fn prepare(&self) -> std::io::Result<()>;

    /// Reads the chassis power state. Never writes.
    async fn power(&self, host: &Host) -> Result<Power, BmcError>;

    /// Issues one power command, once. It does not wait for the effect and never repeats an act
    /// whose reply was lost: that is [`ErrorKind::OutcomeUnknown`].
    async fn set_power(
        &self,
        host: &Host,
        to: PowerTo,
        permit: &Arc<dyn Permit>,
    ) -> Result<(), BmcError>;

    /// Lights the identify lamp for the given time, at most 255 s; zero turns it off.
    async fn identify(
        &self,
        host: &Host,
        on_for: Duration,
        permit: &Arc<dyn Permit>,
    ) -> Result<(), BmcError>;

    /// Reads the boot device override; `None` when no valid one is set.
    async fn boot_device(&self, host: &Host) -> Result<Option<BootOverride>, BmcError>;

    /// Sets the boot device override.
    async fn set_boot_device(
        &self,
        host: &Host,
        boot: BootOverride,
        permit: &Arc<dyn Permit>,
    ) -> Result<(), BmcError>;

    async fn device_info(&self, host: &Host) -> Result<DeviceInfo, BmcError>;

    /// Reads the newest entries of the BMC's event log, at most `last`, oldest first. It ends in
    /// time, perhaps with fewer.
    async fn events(&self, host: &Host, last: usize) -> Result<Vec<SelEntry>, BmcError>;

    /// Reads power consumption and inlet temperature.
    async fn readings(&self, host: &Host) -> Result<Readings, BmcError>;
}

#[cfg(test)]
mod tests {
    use metalbot_ipmi::Retry;

    use super::*;

    /// Kind and class are ours, [`IpmiError::retry`] is the crate's: they must not disagree.
    #[test]
    fn what_may_be_done_after_an_error_is_the_same_by_kind_and_by_protocol() {
        let (address, detail) = (|| "10.0.0.7".to_owned(), String::new);
        for error in [
            IpmiError::Unreachable { address: address() },
            IpmiError::UnknownName { name: address() },
            IpmiError::Busy { address: address() },
            IpmiError::Credentials { address: address() },
            IpmiError::Privilege { address: address(), detail: detail() },
            IpmiError::NoCommonCipher { address: address() },
            IpmiError::Refused { address: address(), code: 0xd5 },
            IpmiError::Protocol { address: address(), detail: detail() },
            IpmiError::OutcomeUnknown { address: address() },
            IpmiError::NoPermit { address: address() },
            IpmiError::Misconfigured { detail: detail() },
        ] {
            let class = match error.retry() {
                Retry::Safe => ErrorClass::Transient,
                Retry::Useless => ErrorClass::Rejected,
                Retry::LookFirst => ErrorClass::Unknown,
            };
            assert_eq!(BmcError::from(error.clone()).class(), class, "{error:?}");
        }
        // What is missing here is of a class of its own: it may be repeated, and for ever.
        let local = IpmiError::Local { detail: detail() };
        assert_eq!(local.retry(), Retry::Safe);
        assert_eq!(BmcError::from(local).class(), ErrorClass::Own);
    }
}
