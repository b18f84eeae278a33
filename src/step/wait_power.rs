//! Looks at the BMC, with growing waits, until the host is on or off.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Step, StepContext, StepError, StepState};
use crate::bmc::{Permit, Power};
use metalbot_core::domain::course::StepEffect;
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind};
use metalbot_core::domain::workflow::{OnDeadline, PowerIs};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub(super) struct WaitPower {
    pub(super) is: PowerIs,
    pub(super) on_deadline: OnDeadline,
}

#[async_trait]
impl Step for WaitPower {
    fn effect(&self) -> StepEffect {
        StepEffect::Reads
    }

    async fn begin(
        &self,
        cx: StepContext<'_>,
        _: &Arc<dyn Permit>,
    ) -> Result<StepState, StepError> {
        self.look(cx).await
    }

    async fn look(&self, cx: StepContext<'_>) -> Result<StepState, StepError> {
        let wanted = match self.is {
            PowerIs::On => Power::On,
            PowerIs::Off => Power::Off,
        };
        let late = match cx.bmc.power(cx.host).await {
            Ok(state) if state == wanted => return Ok(StepState::Done),
            Ok(state) => StepError {
                class: ErrorClass::Rejected,
                kind: ErrorKind::PowerState,
                message: format!("the host is still {} at the deadline", name(state)),
            },
            // Some BMCs restart or lie for a while after a power command.
            Err(error) if error.class() == ErrorClass::Transient => error.into(),
            Err(error) => return Err(error.into()),
        };
        if cx.left.is_zero() {
            return match self.on_deadline {
                OnDeadline::Continue => Ok(StepState::Done),
                OnDeadline::Fail => Err(late),
            };
        }
        // Each wait is half as long as all before, so that it is never late by more than that.
        let look_in = (cx.age / 2).clamp(FIRST_WAIT, LONGEST_WAIT).min(cx.left);
        Ok(StepState::Wait { look_in })
    }
}

fn name(state: Power) -> &'static str {
    match state {
        Power::On => "on",
        Power::Off => "off",
    }
}
