//! One power command. It looks first: nothing is sent to a host that is already there.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Step, StepContext, StepError, StepState};
use crate::bmc::{Permit, Power};
use metalbot_core::domain::course::StepEffect;
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind};
use metalbot_core::domain::workflow::PowerTo;

pub(super) struct SetPower {
    pub(super) to: PowerTo,
}

#[async_trait]
impl Step for SetPower {
    fn effect(&self) -> StepEffect {
        match self.to {
            PowerTo::On | PowerTo::Off | PowerTo::Soft => StepEffect::Repeatable,
            PowerTo::Cycle | PowerTo::Reset => StepEffect::Once,
        }
    }

    async fn begin(
        &self,
        cx: StepContext<'_>,
        permit: &Arc<dyn Permit>,
    ) -> Result<StepState, StepError> {
        let state = cx.bmc.power(cx.host).await?;
        let send = match (self.to, state) {
            (PowerTo::On, Power::On) | (PowerTo::Off | PowerTo::Soft, Power::Off) => {
                return Ok(StepState::Done);
            }
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
        cx.bmc.set_power(cx.host, send, permit).await?;
        Ok(StepState::Done)
    }

    async fn look(&self, cx: StepContext<'_>) -> Result<StepState, StepError> {
        let state = cx.bmc.power(cx.host).await?;
        Ok(match (self.to, state) {
            (PowerTo::On, Power::On) | (PowerTo::Off | PowerTo::Soft, Power::Off) => {
                StepState::Done
            }
            (PowerTo::On | PowerTo::Off, _) => StepState::NotDone,
            // It may be shutting down. A cycled host looks the same before and after.
            (PowerTo::Soft | PowerTo::Cycle | PowerTo::Reset, _) => StepState::Undecidable,
        })
    }
}
