//! One power command. It looks first: nothing is sent to a host that is already there.

use async_trait::async_trait;

use super::{Probe, Step, StepContext, StepError};
use crate::bmc::Power;
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind};
use metalbot_core::domain::workflow::PowerTo;

pub(super) struct SetPower {
    pub(super) to: PowerTo,
}

#[async_trait]
impl Step for SetPower {
    async fn run(&self, cx: StepContext<'_>) -> Result<(), StepError> {
        let state = cx.bmc.power(cx.host).await?;
        let send = match (self.to, state) {
            (PowerTo::On, Power::On) | (PowerTo::Off | PowerTo::Soft, Power::Off) => return Ok(()),
            // BMCs refuse to cycle a host that is off (completion code 0xD5); what is wanted is on.
            (PowerTo::Cycle, Power::Off) => PowerTo::On,
            (PowerTo::Reset, Power::Off) => {
                return Err(StepError {
                    class: ErrorClass::Rejected,
                    kind: ErrorKind::PowerState,
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
            (PowerTo::On, Power::On) | (PowerTo::Off | PowerTo::Soft, Power::Off) => Probe::Done,
            (PowerTo::On | PowerTo::Off, _) => Probe::NotDone,
            // It may be shutting down.
            (PowerTo::Soft, _) => Probe::Repeatable,
            // A host looks the same before and after.
            (PowerTo::Cycle | PowerTo::Reset, _) => Probe::Undecidable,
        })
    }
}
