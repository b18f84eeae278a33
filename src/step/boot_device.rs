//! Sets the next boot's device and reads it back.

use async_trait::async_trait;

use super::{Probe, Step, StepContext, StepError};
use crate::bmc::{BootOverride, Class};
use crate::domain::workflow::BootDevice as Device;

pub(super) struct BootDevice {
    pub(super) device: Device,
    pub(super) efi: bool,
    pub(super) persistent: bool,
}

#[async_trait]
impl Step for BootDevice {
    async fn run(&self, cx: StepContext<'_>) -> Result<(), StepError> {
        let wanted =
            BootOverride { device: self.device, efi: self.efi, persistent: self.persistent };
        cx.bmc.set_boot_device(cx.host, wanted, cx.permit).await?;
        let set = cx.bmc.boot_device(cx.host).await?.map_or(Device::None, |boot| boot.device);
        if set == self.device {
            return Ok(());
        }
        Err(StepError {
            class: Class::Rejected,
            kind: "boot_device",
            message: format!("the BMC was told to boot from {:?} and says {set:?}", self.device),
        })
    }

    async fn probe(&self, _: StepContext<'_>) -> Result<Probe, StepError> {
        Ok(Probe::Repeatable)
    }
}
