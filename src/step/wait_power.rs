//! Polls the BMC, with growing waits, until the host is on or off.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use super::{Probe, Step, StepContext, StepError};
use crate::bmc::Power;
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
    async fn run(&self, cx: StepContext<'_>) -> Result<(), StepError> {
        let wanted = match self.is {
            PowerIs::On => Power::On,
            PowerIs::Off => Power::Off,
        };
        let mut wait = FIRST_WAIT;
        loop {
            let late = match cx.bmc.power(cx.host).await {
                Ok(state) if state == wanted => return Ok(()),
                Ok(state) => StepError {
                    class: ErrorClass::Rejected,
                    kind: ErrorKind::PowerState,
                    message: format!("the host is still {} at the deadline", name(state)),
                },
                // Some BMCs restart or lie for a while after a power command.
                Err(error) if error.class() == ErrorClass::Transient => error.into(),
                Err(error) => return Err(error.into()),
            };
            let next = Instant::now() + wait;
            if next >= cx.deadline {
                return match self.on_deadline {
                    OnDeadline::Continue => Ok(()),
                    OnDeadline::Fail => Err(late),
                };
            }
            sleep_until(next).await;
            wait = (wait * 3 / 2).min(LONGEST_WAIT);
        }
    }

    async fn probe(&self, _: StepContext<'_>) -> Result<Probe, StepError> {
        Ok(Probe::Repeatable)
    }
}

fn name(state: Power) -> &'static str {
    match state {
        Power::On => "on",
        Power::Off => "off",
    }
}
