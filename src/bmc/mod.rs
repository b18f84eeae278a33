//! What Metalbot asks of a management controller, whatever it speaks.
//!
//! Invariant: every error says by its [`Class`] what may be done next, so that nobody upstream
//! guesses from a message whether a power cycle may be repeated; nothing that changes a host is sent
//! without a [`Permit`] that holds at that moment.

pub mod ipmi;
mod vendor;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::host::Host;
use crate::domain::job::NO_PERMIT;
use crate::domain::workflow::{BootDevice, PowerTo};

/// Chassis power as the BMC reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    On,
    Off,
}

/// What may be done after an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Nothing happened; the same request may be repeated.
    Transient,
    /// The BMC understood and refuses; repeating cannot help.
    Rejected,
    /// It may or may not have happened: probe the host's state first.
    Unknown,
}

/// Boot device override, IPMI 2.0 section 28.13.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootOverride {
    pub device: BootDevice,
    pub efi: bool,
    pub persistent: bool,
}

/// The right to act on a host, looked at again immediately before an act leaves this machine: since
/// it was decided on, the process may have stood still, or somebody else may have the job.
#[derive(Clone)]
pub struct Permit(Arc<dyn Fn() -> bool + Send + Sync>);

impl Permit {
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Permit {
        Permit(Arc::new(holds))
    }

    /// For a caller that nobody can take the host from.
    pub fn always() -> Permit {
        Permit::new(|| true)
    }

    pub fn holds(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.holds()).finish()
    }
}

/// Identity of a BMC, IPMI 2.0 section 20.1.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeviceInfo {
    pub manufacturer_id: u32,
    pub product_id: u16,
    /// Firmware as `major.minor`.
    pub firmware: String,
    /// IPMI version as `major.minor`.
    pub ipmi: String,
}

/// One entry of a BMC's own event log, in words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BmcEvent {
    /// By the BMC's clock, which may be wrong: `2026-11-23 14:02:11`.
    pub at: String,
    /// Kind and number of the sensor: `Power Supply 0x64`.
    pub sensor: String,
    pub event: String,
    /// Whether it began or ended; not every entry says so.
    pub asserted: Option<bool>,
}

impl fmt::Display for BmcEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BmcEvent { at, sensor, event, asserted } = self;
        let end = match asserted {
            Some(true) => ", asserted",
            Some(false) => ", deasserted",
            None => "",
        };
        write!(f, "{at} {sensor}: {event}{end}")
    }
}

/// What a host's sensors say; `None` is what its BMC cannot tell.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Readings {
    pub power_watts: Option<f64>,
    /// Temperature of the air that comes in, in degrees Celsius.
    pub inlet_celsius: Option<f64>,
}

/// Why a request to a BMC failed. Messages are for operators and never hold a secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BmcError {
    #[error("the BMC at {address} does not answer")]
    Unreachable { address: String },
    #[error("the BMC at {address} is busy or has no free session slot")]
    Busy { address: String },
    #[error("the BMC at {address} refused the user name or password")]
    Credentials { address: String },
    #[error("the BMC at {address} grants too little privilege: {detail}")]
    Privilege { address: String, detail: String },
    #[error("the BMC at {address} accepts neither cipher suite 17 nor 3")]
    NoCommonCipher { address: String },
    #[error("the BMC at {address} refused the command: completion code {code:#04x}")]
    Refused { address: String, code: u8 },
    #[error("the BMC at {address} answered against the protocol: {detail}")]
    Protocol { address: String, detail: String },
    #[error("the BMC at {address} went silent after the command was sent: it may have acted")]
    OutcomeUnknown { address: String },
    #[error("the right to act on the host ended before anything was sent to {address}")]
    NoPermit { address: String },
    #[error("{detail}")]
    Misconfigured { detail: String },
}

impl BmcError {
    pub fn class(&self) -> Class {
        match self {
            BmcError::Unreachable { .. }
            | BmcError::Busy { .. }
            | BmcError::Protocol { .. }
            | BmcError::NoPermit { .. } => Class::Transient,
            BmcError::Credentials { .. }
            | BmcError::Privilege { .. }
            | BmcError::NoCommonCipher { .. }
            | BmcError::Refused { .. }
            | BmcError::Misconfigured { .. } => Class::Rejected,
            BmcError::OutcomeUnknown { .. } => Class::Unknown,
        }
    }

    /// Short stable name by which failures are grouped into tickets.
    pub fn kind(&self) -> &'static str {
        match self {
            BmcError::Unreachable { .. } => "bmc_unreachable",
            BmcError::Busy { .. } => "bmc_busy",
            BmcError::Credentials { .. } => "bmc_credentials",
            BmcError::Privilege { .. } => "bmc_privilege",
            BmcError::NoCommonCipher { .. } => "bmc_cipher",
            BmcError::Refused { .. } => "bmc_refused",
            BmcError::Protocol { .. } => "bmc_protocol",
            BmcError::OutcomeUnknown { .. } => "outcome_unknown",
            BmcError::NoPermit { .. } => NO_PERMIT,
            BmcError::Misconfigured { .. } => "misconfigured",
        }
    }
}

/// A way to reach BMCs. One value serves the whole fleet; each call opens and closes what it needs.
#[async_trait]
pub trait Bmc: Send + Sync + 'static {
    /// Reads the chassis power state. Never writes.
    async fn power(&self, host: &Host) -> Result<Power, BmcError>;

    /// Issues one power command, once. It does not wait for the effect and never repeats an act
    /// whose reply was lost: that is [`BmcError::OutcomeUnknown`].
    async fn set_power(&self, host: &Host, to: PowerTo, permit: &Permit) -> Result<(), BmcError>;

    /// Lights the identify lamp for the given time, at most 255 s; zero turns it off.
    async fn identify(
        &self,
        host: &Host,
        on_for: Duration,
        permit: &Permit,
    ) -> Result<(), BmcError>;

    /// Reads the boot device override; `None` when no valid one is set.
    async fn boot_device(&self, host: &Host) -> Result<Option<BootOverride>, BmcError>;

    /// Sets the boot device override.
    async fn set_boot_device(
        &self,
        host: &Host,
        boot: BootOverride,
        permit: &Permit,
    ) -> Result<(), BmcError>;

    async fn device_info(&self, host: &Host) -> Result<DeviceInfo, BmcError>;

    /// Reads the newest entries of the BMC's event log, at most `last`, oldest first. It ends in
    /// time, perhaps with fewer.
    async fn events(&self, host: &Host, last: usize) -> Result<Vec<BmcEvent>, BmcError>;

    /// Reads power consumption and inlet temperature.
    async fn readings(&self, host: &Host) -> Result<Readings, BmcError>;
}
