//! The simulated BMCs are taken for BMCs by two consoles that nobody here wrote.
//!
//! What our client and our simulation agree on could be wrong in both; `ipmitool` and FreeIPMI's
//! `ipmipower` share no code with either, nor with each other.

use std::process::{Command, Output};
use std::time::Duration;

use metalbot::bmc::Power;
use metalbot_sim::bmcs::{Behaviour, Bmcs, Cipher, Deed};
use metalbot_sim::rack::{PASSWORD, USER};

const SUITES: [(&str, Cipher); 2] = [("3", Cipher::Three), ("17", Cipher::Seventeen)];

fn start(count: usize, behaviour: Behaviour) -> Bmcs {
    Bmcs::start(0, count, behaviour, 1).expect("a UDP port is free")
}

/// BMCs that speak one cipher suite only, so that no console can evade it.
fn speaking(cipher: Cipher, count: usize) -> Bmcs {
    let only: &'static [Cipher] = match cipher {
        Cipher::Three => &[Cipher::Three],
        Cipher::Seventeen => &[Cipher::Seventeen],
    };
    start(count, Behaviour { ciphers: only, ..Behaviour::default() })
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; `make install` installs it"))
}

fn ipmitool(bmcs: &Bmcs, bmc: usize, suite: &str, args: &[&str]) -> String {
    let address = bmcs.address(bmc);
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let login = ["-I", "lanplus", "-C", suite, "-H", &ip, "-p", &port, "-U", USER, "-P", PASSWORD];
    let output = run("ipmitool", &[&login[..], args].concat());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ipmitool {args:?}: {said}{complained}");
    said
}

/// What it says of each BMC, in the order of their numbers.
fn ipmipower(bmcs: &Bmcs, count: usize, suite: &str, what: &str) -> Vec<String> {
    let hosts: Vec<String> = (0..count).map(|bmc| bmcs.address(bmc).to_string()).collect();
    let hosts = hosts.join(",");
    let login = ["-D", "LAN_2_0", "-I", suite, "-h", &hosts, "-u", USER, "-p", PASSWORD];
    let output = run("ipmipower", &[&login[..], &[what]].concat());
    // It exits with an error as soon as one host has one, and writes those elsewhere.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    (0..count)
        .map(|bmc| {
            let head = format!("{}: ", bmcs.address(bmc).ip());
            let line = said.lines().find_map(|line| line.strip_prefix(&head));
            line.unwrap_or_else(|| panic!("{head} is missing in {said}")).to_owned()
        })
        .collect()
}

#[test]
fn ipmitool_takes_them_for_bmcs() {
    for (suite, cipher) in SUITES {
        let bmcs = speaking(cipher, 2);
        let tool = |args: &[&str]| ipmitool(&bmcs, 1, suite, args);
        assert_eq!(tool(&["chassis", "power", "status"]), "Chassis Power is on\n");
        tool(&["chassis", "power", "cycle"]);
        tool(&["chassis", "power", "soft"]);
        assert_eq!(tool(&["chassis", "power", "status"]), "Chassis Power is off\n");
        tool(&["chassis", "power", "on"]);
        tool(&["chassis", "power", "reset"]);
        tool(&["chassis", "power", "off"]);
        tool(&["chassis", "identify", "7"]);
        tool(&["chassis", "bootdev", "pxe", "options=efiboot"]);
        let flags = tool(&["chassis", "bootparam", "get", "5"]);
        assert!(flags.contains("Boot Flag Valid"), "{flags}");
        assert!(flags.contains("Force PXE") && flags.contains("EFI"), "{flags}");
        let device = tool(&["mc", "info"]);
        assert!(device.contains("IPMI Version              : 2.0"), "{device}");
        let pxe = Deed::Boot([0xa0, 0x04, 0, 0, 0]);
        assert_eq!(
            bmcs.deeds(1),
            [Deed::Cycle, Deed::Soft, Deed::On, Deed::Reset, Deed::Off, Deed::Identify(7), pxe]
        );
        assert_eq!(bmcs.deeds(0), []);
        let tally = bmcs.tally(1);
        assert_eq!((tally.opened, bmcs.open_sessions(1)), (tally.closed, 0));
    }
}

#[test]
fn ipmitool_reads_the_log_and_the_sensors() {
    for (suite, cipher) in SUITES {
        let bmcs = speaking(cipher, 4);
        let tool = |args: &[&str]| ipmitool(&bmcs, 3, suite, args);
        let log = tool(&["sel", "list"]);
        assert_eq!(log.lines().count(), 6, "{log}");
        assert!(log.contains("Power Supply #0x64 | Power Supply AC lost | Deasserted"), "{log}");
        assert!(log.contains("Temperature #0x04 | Upper Critical going high | Asserted"), "{log}");
        // It has the names of the sensors from their records.
        assert!(tool(&["sel", "elist"]).contains("Temperature Inlet Temp | Upper Critical"));
        assert!(tool(&["sel", "info"]).contains("Entries          : 6"));
        let sdr = tool(&["sdr", "list"]);
        for line in ["Inlet Temp       | 24 degrees C      | ok", "Pwr Consumption  | 216 Watts"] {
            assert!(sdr.contains(line), "{sdr}");
        }
        let sensors = tool(&["sensor"]);
        assert!(sensors.contains("Inlet Temp       | 24.000     | degrees C  | ok"), "{sensors}");
        assert!(sensors.contains("47.000"), "the critical threshold: {sensors}");
        let power = tool(&["dcmi", "power", "reading"]);
        assert!(
            power.contains("Instantaneous power reading:                   215 Watts"),
            "{power}"
        );
        tool(&["sel", "clear"]);
        assert!(tool(&["sel", "info"]).contains("Entries          : 0"));
        assert!(ipmitool(&bmcs, 2, suite, &["sel", "info"]).contains("Entries          : 6"));
    }
}

#[test]
fn ipmitool_finds_the_cipher_suites_by_itself() {
    let bmcs = start(1, Behaviour::default());
    let address = bmcs.address(0);
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let login = ["-I", "lanplus", "-H", &ip, "-p", &port, "-U", USER, "-P", PASSWORD];
    let output = run("ipmitool", &[&login[..], &["channel", "getciphers", "ipmi", "1"]].concat());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.lines().any(|line| line.starts_with("3 ")), "{said}");
    assert!(said.lines().any(|line| line.starts_with("17 ")), "{said}");
}

#[test]
fn ipmipower_takes_them_for_bmcs() {
    for (suite, cipher) in SUITES {
        let bmcs = speaking(cipher, 50);
        bmcs.set_power(7, Power::Off);
        let states = ipmipower(&bmcs, 50, suite, "--stat");
        assert!(
            states.iter().enumerate().all(|(n, said)| (said == "on") == (n != 7)),
            "{states:?}"
        );
        bmcs.set_power(7, Power::On);
        let said = ipmipower(&bmcs, 50, suite, "--cycle");
        assert!(said.iter().all(|said| said == "ok"), "{said:?}");
        assert!((0..50).all(|bmc| bmcs.deeds(bmc) == [Deed::Cycle]));
    }
}

#[test]
fn another_console_sees_the_faults_too() {
    let bmcs = start(4, Behaviour::default());
    bmcs.behave(1, Behaviour { password: "another", ..Behaviour::default() });
    bmcs.behave(2, Behaviour { user: "root", ..Behaviour::default() });
    bmcs.behave(3, Behaviour { slots: 0, ..Behaviour::default() });
    let said = ipmipower(&bmcs, 4, "17", "--stat");
    assert_eq!(said[..3], ["on", "password invalid", "username invalid"]);
    assert_eq!(said[3], "BMC busy");
}

#[test]
fn a_lost_datagram_is_asked_for_again_by_others() {
    // No duplicates: at some of them ipmipower ends with a complaint of its own.
    let delay = Duration::from_millis(20);
    let bmcs = start(20, Behaviour { drop: 0.05, delay, ..Behaviour::default() });
    let states = ipmipower(&bmcs, 20, "3", "--stat");
    assert!(states.iter().all(|said| said == "on"), "{states:?}");
}
