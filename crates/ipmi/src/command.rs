//! Supported commands, as typed requests and replies.
//!
//! Pure. Invariant: a reply shorter than specified is an error, never a default value.

use ipmi_rs_core::app::{DeviceId, GetDeviceId};
use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};
use serde::Serialize;

use crate::{BootOverride, BootSelector, ChassisControl, Power, Privilege};

/// Effect of sending a command a second time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// Twice has the same effect as once: the command may be sent again within the session.
    Harmless,
    /// Twice would act twice: the command is sent once, and without a reply its outcome is unknown.
    Never,
}

/// Command of this crate or of `ipmi-rs-core`, with the properties that the dialogue must know.
pub trait IpmiRequest: IpmiCommand<Error = NotEnoughData> {
    const REPEAT: Repeat = Repeat::Harmless;
    /// True for a command that changes the host and therefore needs a permit.
    const ACTS: bool = false;
    /// True for a command that needs more than the User level, with which every session starts.
    /// Some BMCs require more than the specification for commands that only read.
    const RAISED: bool = true;
}

/// Set Session Privilege Level, section 22.18.
#[derive(Debug)]
pub struct SetSessionPrivilege(pub Privilege);

impl From<SetSessionPrivilege> for Message {
    fn from(command: SetSessionPrivilege) -> Message {
        Message::new_request(NetFn::App, 0x3b, vec![command.0.level()])
    }
}

impl IpmiCommand for SetSessionPrivilege {
    type Output = ();
    type Error = NotEnoughData;

    fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
        Ok(())
    }
}

impl IpmiRequest for SetSessionPrivilege {
    const RAISED: bool = false;
}

/// Close Session, section 22.19, by the BMC's own session id.
#[derive(Debug)]
pub struct CloseSession(pub u32);

impl From<CloseSession> for Message {
    fn from(command: CloseSession) -> Message {
        Message::new_request(NetFn::App, 0x3c, command.0.to_le_bytes().to_vec())
    }
}

impl IpmiCommand for CloseSession {
    type Output = ();
    type Error = NotEnoughData;

    fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
        Ok(())
    }
}

impl IpmiRequest for CloseSession {
    const RAISED: bool = false;
}

/// Get Chassis Status, section 28.2.
#[derive(Debug)]
pub struct ChassisStatus;

impl From<ChassisStatus> for Message {
    fn from(_: ChassisStatus) -> Message {
        Message::new_request(NetFn::Chassis, 0x01, vec![])
    }
}

impl IpmiCommand for ChassisStatus {
    type Output = Power;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<Power, NotEnoughData> {
        match data {
            [state, _, _, ..] if state & 0x01 != 0 => Ok(Power::On),
            [_, _, _, ..] => Ok(Power::Off),
            _ => Err(NotEnoughData),
        }
    }
}

impl IpmiRequest for ChassisStatus {
    const RAISED: bool = false;
}

/// Chassis Control, section 28.3.
#[derive(Debug)]
pub struct ControlChassis(pub ChassisControl);

impl From<ControlChassis> for Message {
    fn from(command: ControlChassis) -> Message {
        Message::new_request(NetFn::Chassis, 0x02, vec![command.0.number()])
    }
}

impl IpmiCommand for ControlChassis {
    type Output = ();
    type Error = NotEnoughData;

    fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
        Ok(())
    }
}

impl IpmiRequest for ControlChassis {
    const REPEAT: Repeat = Repeat::Never;
    const ACTS: bool = true;
}

/// Chassis Identify, section 28.5: turns the lamp on for that many seconds; 0 turns it off.
#[derive(Debug)]
pub struct ChassisIdentify(pub u8);

impl From<ChassisIdentify> for Message {
    fn from(command: ChassisIdentify) -> Message {
        Message::new_request(NetFn::Chassis, 0x04, vec![command.0])
    }
}

impl IpmiCommand for ChassisIdentify {
    type Output = ();
    type Error = NotEnoughData;

    fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
        Ok(())
    }
}

impl IpmiRequest for ChassisIdentify {
    const ACTS: bool = true;
}

/// Set System Boot Options, section 28.12.
#[derive(Debug)]
pub enum SetBootOption {
    /// Parameter 3: the boot flags do not expire 60 s after they were set.
    KeepFlags,
    /// Parameter 5: the boot flags.
    Flags(BootOverride),
}

impl From<SetBootOption> for Message {
    fn from(command: SetBootOption) -> Message {
        let data = match command {
            SetBootOption::KeepFlags => vec![0x03, 0x08],
            SetBootOption::Flags(boot) => {
                let valid = 0x80;
                let persistent = if boot.persistent { 0x40 } else { 0 };
                let efi = if boot.efi { 0x20 } else { 0 };
                vec![0x05, valid | persistent | efi, boot.device.number() << 2, 0, 0, 0]
            }
        };
        Message::new_request(NetFn::Chassis, 0x08, data)
    }
}

impl IpmiCommand for SetBootOption {
    type Output = ();
    type Error = NotEnoughData;

    fn parse_success_response(_: &[u8]) -> Result<(), NotEnoughData> {
        Ok(())
    }
}

impl IpmiRequest for SetBootOption {
    const ACTS: bool = true;
}

/// Get System Boot Options, section 28.13, parameter 5.
#[derive(Debug)]
pub struct GetBootFlags;

/// Boot flags as read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootFlags {
    /// No valid override; the BMC may still show an old device.
    Unset,
    Set(BootOverride),
    /// Valid override with a device selector that this crate does not know.
    OtherDevice(u8),
}

impl From<GetBootFlags> for Message {
    fn from(_: GetBootFlags) -> Message {
        Message::new_request(NetFn::Chassis, 0x09, vec![0x05, 0, 0])
    }
}

impl IpmiCommand for GetBootFlags {
    type Output = BootFlags;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<BootFlags, NotEnoughData> {
        let [_version, parameter, flags, device, ..] = data else { return Err(NotEnoughData) };
        let locked = parameter & 0x80 != 0;
        let valid = flags & 0x80 != 0;
        if locked || !valid {
            return Ok(BootFlags::Unset);
        }
        let number = device >> 2 & 0x0f;
        let Some(device) = BootSelector::ALL.into_iter().find(|each| each.number() == number)
        else {
            return Ok(BootFlags::OtherDevice(number));
        };
        let persistent = flags & 0x40 != 0;
        let efi = flags & 0x20 != 0;
        Ok(BootFlags::Set(BootOverride { device, efi, persistent }))
    }
}

impl IpmiRequest for GetBootFlags {}

impl IpmiRequest for GetDeviceId {
    const RAISED: bool = false;
}

/// Identity of a BMC, IPMI 2.0 section 20.1.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeviceInfo {
    /// IANA's private enterprise number of the manufacturer.
    pub manufacturer_id: u32,
    pub product_id: u16,
    /// Firmware version as `major.minor`.
    pub firmware: String,
    /// IPMI version as `major.minor`.
    pub ipmi: String,
}

/// Identity of a BMC from its device id: the part that people need.
pub fn device_info(id: &DeviceId) -> DeviceInfo {
    DeviceInfo {
        // The highest four of its 24 bits are reserved.
        manufacturer_id: id.manufacturer_id & 0x0f_ffff,
        product_id: id.product_id,
        firmware: format!("{}.{:02}", id.major_fw_revision, id.minor_fw_revision),
        ipmi: format!("{}.{}", id.major_version, id.minor_version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(command: impl Into<Message>) -> String {
        let message = command.into();
        hex::encode([&[message.netfn_raw(), message.cmd()], message.data()].concat())
    }

    #[test]
    fn requests_have_the_specified_bytes() {
        assert_eq!(bytes(ChassisStatus), "0001");
        assert_eq!(bytes(ControlChassis(ChassisControl::PowerDown)), "000200");
        assert_eq!(bytes(ControlChassis(ChassisControl::PowerUp)), "000201");
        assert_eq!(bytes(ControlChassis(ChassisControl::PowerCycle)), "000202");
        assert_eq!(bytes(ControlChassis(ChassisControl::HardReset)), "000203");
        assert_eq!(bytes(ControlChassis(ChassisControl::SoftShutdown)), "000205");
        assert_eq!(bytes(ChassisIdentify(15)), "00040f");
        assert_eq!(bytes(SetSessionPrivilege(Privilege::Administrator)), "063b04");
        assert_eq!(bytes(SetSessionPrivilege(Privilege::Operator)), "063b03");
        assert_eq!(bytes(CloseSession(0x0403_0201)), "063c01020304");
        assert_eq!(bytes(SetBootOption::KeepFlags), "00080308");
        assert_eq!(bytes(GetBootFlags), "0009050000");
        let pxe = BootOverride { device: BootSelector::Pxe, efi: false, persistent: false };
        assert_eq!(bytes(SetBootOption::Flags(pxe)), "0008058004000000");
        let disk = BootOverride { device: BootSelector::Disk, efi: true, persistent: true };
        assert_eq!(bytes(SetBootOption::Flags(disk)), "000805e008000000");
    }

    #[test]
    fn boot_flags_are_read_as_they_are_written() {
        for device in BootSelector::ALL {
            for (efi, persistent) in [(false, false), (true, false), (false, true), (true, true)] {
                let boot = BootOverride { device, efi, persistent };
                let mut reply = vec![0x01];
                reply.extend(Message::from(SetBootOption::Flags(boot)).data());
                assert_eq!(GetBootFlags::parse_success_response(&reply), Ok(BootFlags::Set(boot)));
            }
        }
    }

    #[test]
    fn a_stale_boot_device_is_none() {
        let read = GetBootFlags::parse_success_response;
        assert_eq!(read(&[1, 0x05, 0x00, 0x04, 0, 0, 0]), Ok(BootFlags::Unset));
        assert_eq!(read(&[1, 0x85, 0x80, 0x04, 0, 0, 0]), Ok(BootFlags::Unset), "locked");
        assert_eq!(read(&[1, 0x05, 0x80, 0x3c, 0, 0, 0]), Ok(BootFlags::OtherDevice(0x0f)));
        assert_eq!(read(&[1, 0x05, 0x80]), Err(NotEnoughData));
    }

    #[test]
    fn chassis_status_is_the_lowest_bit() {
        let read = ChassisStatus::parse_success_response;
        assert_eq!(read(&[0x21, 0x10, 0x40]), Ok(Power::On));
        assert_eq!(read(&[0x20, 0x10, 0x40, 0x54]), Ok(Power::Off));
        assert_eq!(read(&[0x21]), Err(NotEnoughData));
    }

    #[test]
    fn only_chassis_control_must_not_be_repeated() {
        assert_eq!(ControlChassis::REPEAT, Repeat::Never);
        assert_eq!(ChassisStatus::REPEAT, Repeat::Harmless);
        assert_eq!(SetBootOption::REPEAT, Repeat::Harmless);
    }

    #[test]
    fn a_device_id_is_read() {
        // Answer of the simulated BMC of the OpenIPMI project.
        let id = DeviceId::from_data(&[
            0x00, 0x03, 0x09, 0x08, 0x02, 0x9f, 0x91, 0x12, 0x00, 0x02, 0x0f, 0, 0, 0, 0,
        ]);
        assert_eq!(
            device_info(&id.unwrap()),
            DeviceInfo {
                manufacturer_id: 4753,
                product_id: 0x0f02,
                firmware: "9.08".into(),
                ipmi: "2.0".into()
            }
        );
    }
}
