//! Lights the identify lamp, so that a technician finds the machine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Step, StepContext, StepError, StepState};
use crate::bmc::Permit;
use metalbot_core::domain::course::StepEffect;

pub(super) struct Identify {
    pub(super) seconds: u8,
}

#[async_trait]
impl Step for Identify {
    fn effect(&self) -> StepEffect {
        StepEffect::Repeatable
    }

    async fn begin(
        &self,
        cx: StepContext<'_>,
        permit: &Arc<dyn Permit>,
    ) -> Result<StepState, StepError> {
        let lit = Duration::from_secs(self.seconds.into());
        cx.bmc.identify(cx.host, lit, permit).await?;
        Ok(StepState::Done)
    }

    async fn look(&self, _: StepContext<'_>) -> Result<StepState, StepError> {
        Ok(StepState::Undecidable)
    }
}
