//! Sets the next boot's device and reads it back.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Step, StepContext, StepError, StepState};
use crate::bmc::{BootOverride, BootSelector, Permit, boot_selector};
use metalbot_core::domain::course::StepEffect;
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind};
use metalbot_core::domain::workflow::BootDevice;

pub(super) struct SetBootDevice {
    pub(super) device: BootDevice,
    pub(super) efi: bool,
    pub(super) persistent: bool,
}

#[async_trait]
impl Step for SetBootDevice {
    fn effect(&self) -> StepEffect {
        StepEffect::Repeatable
    }

    async fn begin(
        &self,
        cx: StepContext<'_>,
        permit: &Arc<dyn Permit>,
    ) -> Result<StepState, StepError> {
        let wanted = BootOverride {
            device: boot_selector(self.device),
            efi: self.efi,
            persistent: self.persistent,
        };
        cx.bmc.set_boot_device(cx.host, wanted, permit).await?;
        let set = cx.bmc.boot_device(cx.host).await?.map_or(BootSelector::None, |boot| boot.device);
        if set == wanted.device {
            return Ok(StepState::Done);
        }
        Err(StepError {
            class: ErrorClass::Rejected,
            kind: ErrorKind::BootDevice,
            message: format!("the BMC was told to boot from {:?} and says {set:?}", self.device),
        })
    }

    async fn look(&self, _: StepContext<'_>) -> Result<StepState, StepError> {
        Ok(StepState::Undecidable)
    }
}
