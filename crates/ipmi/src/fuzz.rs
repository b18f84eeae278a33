//! Entry points for `fuzz/`: all code that reads bytes from a BMC. Compiled for the fuzz target and
//! for the test below, which makes a short run of the same.

use ipmi_rs_core::app::GetDeviceId;
use ipmi_rs_core::connection::IpmiCommand;
use ipmi_rs_core::storage::sel::GetSelInfo;

use crate::command::{ChassisStatus, GetBootFlags, device_info};
use crate::rakp::{CipherSuite, Exchange, SessionKeys, open_response};
use crate::readings::{GetPowerReading, GetSensorReading};
use crate::sdr::{GetSdr, Sensor};
use crate::sel::{ReadSelEntry, event};
use crate::wire;

const SUITES: [CipherSuite; 2] = [CipherSuite::Three, CipherSuite::Seventeen];
const TAG: u8 = 7;
const SESSION: u32 = 0x0102_0304;

/// Gives the bytes to one of the readers, none of which may panic. The first byte chooses the
/// reader, so that the fuzzer finds each quickly.
pub fn any_bytes(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let bytes = &bytes[..bytes.len().min(1024)];
    match choice % 4 {
        0 => packet(bytes),
        1 => exchange(bytes),
        2 => reply(bytes),
        _ => record(bytes),
    }
}

fn packet(bytes: &[u8]) {
    let _ = wire::open_plain(bytes);
    for suite in SUITES {
        let keys = SessionKeys { suite, integrity: vec![1; 20], confidentiality: [2; 16] };
        let _ = wire::unseal(&keys, SESSION, bytes);
        let sealed = wire::seal(&keys, SESSION, 9, [3; 16], bytes);
        assert_eq!(wire::unseal(&keys, SESSION, &sealed), Ok((9, bytes.to_vec())));
    }
}

fn exchange(bytes: &[u8]) {
    for suite in SUITES {
        let _ = open_response(bytes, TAG, SESSION, suite);
        let exchange = Exchange {
            suite,
            console_session: SESSION,
            bmc_session: 0x0506_0708,
            console_random: [4; 16],
            role: 0x14,
            user: b"admin".to_vec(),
            password: "secret".into(),
        };
        let _ = exchange.prove(bytes, TAG);
    }
}

fn reply(bytes: &[u8]) {
    let _ = wire::reply(bytes);
    let _ = ChassisStatus::parse_success_response(bytes);
    let _ = GetBootFlags::parse_success_response(bytes);
    let _ = GetDeviceId::parse_success_response(bytes).map(|id| device_info(&id));
    let _ = GetSelInfo::parse_success_response(bytes);
    let _ = ReadSelEntry::parse_success_response(bytes);
    let _ = GetSdr::parse_success_response(bytes);
    let _ = GetPowerReading::parse_success_response(bytes);
    let _ = GetSensorReading::parse_success_response(bytes);
}

fn record(bytes: &[u8]) {
    if let Some(entry) = bytes.first_chunk() {
        let line = event(entry).to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    let _ = Sensor::of_record(bytes).and_then(|sensor| sensor.convert(bytes[0]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::any_bytes(&bytes);
        }
    }
}
