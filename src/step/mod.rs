//! The things that can be done to a host. An action in `commands/` is a list of them.
//!
//! Invariant: a step either is harmless to repeat, or says by [`Step::probe`] whether it happened.

use async_trait::async_trait;
use tokio::time::Instant;

use crate::bmc::{Bmc, BmcError, Permit};
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind, HostError};
use metalbot_core::domain::host::Host;
use metalbot_core::domain::workflow::{PlannedStep, StepAction};

mod boot_device;
mod identify;
mod power;
mod wait_power;

/// Host that a step works on, and the means.
#[derive(Clone, Copy)]
pub struct StepContext<'a> {
    pub host: &'a Host,
    pub bmc: &'a dyn Bmc,
    pub permit: &'a Permit,
    /// Time at which all attempts of the step must be over.
    pub deadline: Instant,
}

/// Verdict of the host's real state on an act whose outcome nobody saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Happened, or need not happen any more.
    Done,
    /// Did not happen.
    NotDone,
    /// May have happened, and may safely happen again.
    Repeatable,
    /// Cannot be seen in the host's state: only a person may decide.
    Undecidable,
}

/// Error of a step.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// Class: what may be done next. It may say more than the kind alone does.
    pub class: ErrorClass,
    pub kind: ErrorKind,
    /// Message for operators.
    pub message: String,
}

impl From<BmcError> for StepError {
    fn from(error: BmcError) -> Self {
        StepError { class: error.class(), kind: error.kind(), message: error.to_string() }
    }
}

impl From<StepError> for HostError {
    fn from(error: StepError) -> Self {
        HostError::new(error.kind, error.message)
    }
}

/// One thing done to a host.
#[async_trait]
pub trait Step: Send + Sync {
    /// Does it, and returns when it is done as far as can be seen.
    async fn run(&self, cx: StepContext<'_>) -> Result<(), StepError>;

    /// Finds out whether an earlier [`Step::run`] of unknown outcome happened. Never writes.
    async fn probe(&self, cx: StepContext<'_>) -> Result<Probe, StepError>;
}

/// Returns the step that a plan asks for.
pub fn of(planned: &PlannedStep) -> Box<dyn Step> {
    match planned.action {
        StepAction::Power { to } => Box::new(power::SetPower { to }),
        StepAction::WaitPower { is, on_deadline } => {
            Box::new(wait_power::WaitPower { is, on_deadline })
        }
        StepAction::Identify { seconds } => Box::new(identify::Identify { seconds }),
        StepAction::BootDevice { device, efi, persistent } => {
            Box::new(boot_device::SetBootDevice { device, efi, persistent })
        }
    }
}
