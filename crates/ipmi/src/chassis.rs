//! Types for a machine's chassis: power and boot device.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Chassis power as the BMC reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    On,
    Off,
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Power::On => "on",
            Power::Off => "off",
        })
    }
}

/// Power command, IPMI 2.0 section 28.3 and table 28-4. Diagnostic interrupts are not supported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChassisControl {
    /// Cuts the power.
    PowerDown,
    PowerUp,
    /// Turns the power off and on again in one command. BMCs refuse it for a machine that is off
    /// (completion code 0xd5).
    PowerCycle,
    /// Reset without a power-down.
    HardReset,
    /// Asks the operating system to shut down (ACPI), which may ignore it.
    SoftShutdown,
}

impl ChassisControl {
    pub(crate) fn number(self) -> u8 {
        match self {
            ChassisControl::PowerDown => 0x00,
            ChassisControl::PowerUp => 0x01,
            ChassisControl::PowerCycle => 0x02,
            ChassisControl::HardReset => 0x03,
            ChassisControl::SoftShutdown => 0x05,
        }
    }
}

/// Boot device selectors, IPMI 2.0 table 28-14, parameter 5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootSelector {
    /// No override.
    None,
    Pxe,
    Disk,
    /// Disk, in safe mode.
    Safe,
    /// Diagnostic partition.
    Diag,
    Cdrom,
    /// Setup of the firmware.
    Bios,
}

impl BootSelector {
    pub(crate) const ALL: [BootSelector; 7] = [
        BootSelector::None,
        BootSelector::Pxe,
        BootSelector::Disk,
        BootSelector::Safe,
        BootSelector::Diag,
        BootSelector::Cdrom,
        BootSelector::Bios,
    ];

    pub(crate) fn number(self) -> u8 {
        match self {
            BootSelector::None => 0,
            BootSelector::Pxe => 1,
            BootSelector::Disk => 2,
            BootSelector::Safe => 3,
            BootSelector::Diag => 4,
            BootSelector::Cdrom => 5,
            BootSelector::Bios => 6,
        }
    }
}

/// Boot device override, IPMI 2.0 section 28.13.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootOverride {
    pub device: BootSelector,
    /// Boot by EFI, not by the legacy BIOS.
    pub efi: bool,
    /// Set for all boots to come, not only the next one.
    pub persistent: bool,
}
