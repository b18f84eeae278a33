//! Manufacturer and firmware of a BMC, in words.
//!
//! Source: IANA's private enterprise numbers, which IPMI 2.0 section 20.1 names manufacturers by.

use metalbot_core::domain::host::BmcIdentity;

use super::DeviceInfo;

/// A BMC as tickets and people speak of it: `Dell`, `Dell 0x0100 2.86`.
pub fn identity(info: &DeviceInfo) -> BmcIdentity {
    let vendor = match vendor(info.manufacturer_id) {
        Some(name) => name.to_owned(),
        None => format!("PEN {}", info.manufacturer_id),
    };
    let firmware = format!("{vendor} {:#06x} {}", info.product_id, info.firmware);
    BmcIdentity { vendor, firmware }
}

/// By the private enterprise number, of those that are met in racks.
fn vendor(number: u32) -> Option<&'static str> {
    Some(match number {
        2 | 20301 => "IBM",
        11 => "HP",
        42 | 111 => "Oracle",
        343 => "Intel",
        674 => "Dell",
        2011 => "Huawei",
        5703 => "NVIDIA",
        9 | 5771 => "Cisco",
        6653 => "Tyan",
        7244 => "Quanta",
        10368 => "Fujitsu",
        10876 => "Supermicro",
        11183 => "MiTAC",
        15370 => "Gigabyte",
        19046 => "Lenovo",
        20974 => "AMI",
        37945 => "Inspur",
        47196 => "HPE",
        49622 => "ASRock Rack",
        52538 => "Ampere",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bmc_in_words() {
        let info = |manufacturer_id| DeviceInfo {
            manufacturer_id,
            product_id: 0x100,
            firmware: "2.86".into(),
            ipmi: "2.0".into(),
        };
        let dell = identity(&info(674));
        assert_eq!((&dell.vendor[..], &dell.firmware[..]), ("Dell", "Dell 0x0100 2.86"));
        let other = identity(&info(70_000));
        assert_eq!(
            (&other.vendor[..], &other.firmware[..]),
            ("PEN 70000", "PEN 70000 0x0100 2.86")
        );
    }
}
