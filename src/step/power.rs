//! One power command. It looks first: nothing is sent to a host that is already there.

use async_trait::async_trait;

use super::{Probe, Step, StepContext, StepError};
use crate::bmc::{Class, Power as State};
use crate::domain::workflow::PowerTo;

pub(super) struct Power {
    pub(super) to: PowerTo,
}

#[async_trait]
impl Step for Power {
    async fn run(&self, cx: StepContext<'_>) -> Result<(), StepError> {
        let state = cx.bmc.power(cx.host).await?;
        let send = match (self.to, state) {
            (PowerTo::On, State::On) | (PowerTo::Off | PowerTo::Soft, State::Off) => return Ok(()),
            // BMCs refuse to cycle a host that is off (completion code 0xD5); what is wanted is on.
            (PowerTo::Cycle, State::Off) => PowerTo::On,
            (PowerTo::Reset, State::Off) => {
                return Err(StepError {
                    class: Class::Rejected,
                    kind: "power_state",
                    message: "the host is off: there is nothing to reset".into(),
                });
            }
            (to, _) => to,
        };
        Ok(cx.bmc.set_power(cx.host, send, cx.permit).await?)
    }

    async fn probe(&self, cx: StepContext<'_>) -> Result<Probe, StepError> {
        let state = cx.bmc.power(cx.host).await?;
        Ok(match (self.to, state) {
            (PowerTo::On, State::On) | (PowerTo::Off | PowerTo::Soft, State::Off) => Probe::Done,
            (PowerTo::On | PowerTo::Off, _) => Probe::NotDone,
            // It may be shutting down.
            (PowerTo::Soft, _) => Probe::Repeatable,
            // A host looks the same before and after.
            (PowerTo::Cycle | PowerTo::Reset, _) => Probe::Undecidable,
        })
    }
}
