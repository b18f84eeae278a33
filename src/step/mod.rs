//! The things that can be done to a host. An action in `commands/` is a list of them.
//!
//! A step is begun, which may act once, and then looked at until it is done; looking never acts, and is
//! repeated after crashes, waits and reports. [`Step::effect`] says what beginning it a second time would do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::bmc::{Bmc, BmcError, Permit};
use metalbot_core::domain::course::{Sight, StepEffect};
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind, HostError};
use metalbot_core::domain::host::Host;
use metalbot_core::domain::report::{ReceivedReport, ReportKind};
use metalbot_core::domain::workflow::{PlannedStep, StepAction};

mod boot_device;
mod identify;
mod power;
mod wait_power;
mod wait_report;

/// Host that a step works on, and the means.
#[derive(Clone, Copy)]
pub struct StepContext<'a> {
    pub host: &'a Host,
    pub bmc: &'a dyn Bmc,
    /// Time since the step was first taken up, by whatever worker.
    pub age: Duration,
    /// Time until the step's deadline.
    pub left: Duration,
    /// What the machine has reported of this attempt: the newest of each kind that the step
    /// [hears](Step::hears).
    pub reports: &'a [ReceivedReport],
}

/// What a step says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepState {
    Done,
    /// It did not happen.
    NotDone,
    /// It is under way: look again after this time.
    Wait {
        look_in: Duration,
    },
    /// Whether it happened cannot be seen: only a person may decide.
    Undecidable,
    /// Who did it has given it up, or has taken too long: it will not happen.
    GivenUp(HostError),
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

impl From<HostError> for StepError {
    fn from(error: HostError) -> Self {
        StepError { class: error.kind.class(), kind: error.kind, message: error.message }
    }
}

impl From<StepError> for HostError {
    fn from(error: StepError) -> Self {
        HostError::new(error.kind, error.message)
    }
}

/// What is known of a step, for the decision on what follows.
pub fn sight(said: &Result<StepState, StepError>) -> Sight {
    match said {
        Ok(StepState::Done) => Sight::Done,
        Ok(StepState::NotDone) => Sight::NotDone,
        Ok(StepState::Wait { .. }) => Sight::Waits,
        Ok(StepState::Undecidable) => Sight::Undecidable,
        Ok(StepState::GivenUp(_)) => Sight::GivenUp,
        Err(error) => Sight::Failed(error.class),
    }
}

/// One thing done to a host.
#[async_trait]
pub trait Step: Send + Sync {
    fn effect(&self) -> StepEffect;

    /// Kinds of reports that it wants to see. What comes wakes its job.
    fn hears(&self) -> Vec<ReportKind> {
        Vec::new()
    }

    /// Does it. It acts with `permit` only, at most once, and may look before.
    async fn begin(
        &self,
        cx: StepContext<'_>,
        permit: &Arc<dyn Permit>,
    ) -> Result<StepState, StepError>;

    /// Looks whether what was begun is done. Never acts.
    async fn look(&self, cx: StepContext<'_>) -> Result<StepState, StepError>;
}

/// Returns the step that a plan asks for.
pub fn of(planned: &PlannedStep) -> Box<dyn Step> {
    match planned.action.clone() {
        StepAction::Power { to } => Box::new(power::SetPower { to }),
        StepAction::WaitPower { is, on_deadline } => {
            Box::new(wait_power::WaitPower { is, on_deadline })
        }
        StepAction::WaitReport { report, .. } => Box::new(wait_report::WaitReport { report }),
        StepAction::Identify { seconds } => Box::new(identify::Identify { seconds }),
        StepAction::BootDevice { device, efi, persistent } => {
            Box::new(boot_device::SetBootDevice { device, efi, persistent })
        }
    }
}
