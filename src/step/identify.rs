//! Lights the identify lamp, so that a technician finds the machine.

use std::time::Duration;

use async_trait::async_trait;

use super::{Probe, Step, StepContext, StepError};

pub(super) struct Identify {
    pub(super) seconds: u8,
}

#[async_trait]
impl Step for Identify {
    async fn run(&self, cx: StepContext<'_>) -> Result<(), StepError> {
        let lit = Duration::from_secs(self.seconds.into());
        Ok(cx.bmc.identify(cx.host, lit, cx.permit).await?)
    }

    async fn probe(&self, _: StepContext<'_>) -> Result<Probe, StepError> {
        Ok(Probe::Repeatable)
    }
}
