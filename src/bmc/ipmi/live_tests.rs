//! The client against OpenIPMI's BMC simulator, with `ipmitool` reading back what was set.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::*;
use crate::domain::host::{BmcEndpoint, HostName};
use crate::domain::workflow::BootDevice;
use crate::sim::rack::{self, Fault, Rack, SimBmc};

struct World {
    rack: Rack,
    client: Ipmi,
    _dir: tempfile::TempDir,
}

impl World {
    /// A rack at `127.<net>.<n/200>.<n%200+1>`; `faults` are by position.
    async fn start(net: u8, size: usize, faults: &[(usize, Fault)]) -> World {
        for (program, package) in [("ipmi_sim", "openipmi"), ("ipmitool", "ipmitool")] {
            let found = std::process::Command::new(program).arg("-V").output();
            assert!(found.is_ok(), "{program} is missing: install the package {package}");
        }
        let dir = tempfile::tempdir().unwrap();
        let bmcs = (0..size)
            .map(|n| SimBmc {
                host: name(n),
                address: Ipv4Addr::new(127, net, (n / 200) as u8, (n % 200) as u8 + 1),
                fault: faults.iter().find(|(at, _)| *at == n).map(|(_, fault)| *fault),
            })
            .collect();
        let rack = Rack::start(&dir.path().join("a rack"), 0, bmcs).await.unwrap();
        let credentials = Credentials {
            user: rack::USER.into(),
            password: Secret::new(rack::PASSWORD),
            privilege: Privilege::Administrator,
        };
        let client = Ipmi::new(BTreeMap::from([("rack".into(), credentials)]), Options::default());
        World { rack, client, _dir: dir }
    }

    fn host(&self, n: usize) -> Host {
        Host {
            name: name(n),
            owner: "web".into(),
            datacenter: "fra1".into(),
            rack: "r1".into(),
            sku: "s1".into(),
            bmc: BmcEndpoint {
                address: self.rack.address(&name(n)).unwrap(),
                credentials: "rack".into(),
            },
        }
    }

    fn acts(&self, n: usize) -> Vec<String> {
        let acts = self.rack.acts().unwrap();
        acts.into_iter()
            .filter(|act| act.host == name(n))
            .map(|act| format!("{} {}", act.what, act.value))
            .collect()
    }

    async fn becomes(&self, n: usize, power: Power) {
        let start = Instant::now();
        while self.client.power(&self.host(n)).await.unwrap() != power {
            assert!(start.elapsed() < Duration::from_secs(10), "it stays {power:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(self.rack.power(&name(n)).unwrap(), power);
    }

    fn ipmitool(&self, n: usize, arguments: &[&str]) -> String {
        let address = self.host(n).bmc.address;
        let (ip, port) = address.split_once(':').unwrap();
        let output = std::process::Command::new("ipmitool")
            .args(["-I", "lanplus", "-C", "3", "-U", rack::USER, "-P", rack::PASSWORD])
            .args(["-H", ip, "-p", port])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

fn name(n: usize) -> HostName {
    format!("web{:02}", n + 1).parse().unwrap()
}

#[tokio::test]
async fn a_simulated_bmc_does_all_that_is_asked() {
    let world = World::start(71, 3, &[]).await;
    let host = world.host(0);
    let client = &world.client;
    assert_eq!(client.power(&host).await, Ok(Power::On));

    client.set_power(&host, PowerTo::Off, &Permit::always()).await.unwrap();
    world.becomes(0, Power::Off).await;
    client.set_power(&host, PowerTo::On, &Permit::always()).await.unwrap();
    world.becomes(0, Power::On).await;
    client.set_power(&host, PowerTo::Soft, &Permit::always()).await.unwrap();
    world.becomes(0, Power::Off).await;
    client.set_power(&host, PowerTo::On, &Permit::always()).await.unwrap();
    client.set_power(&host, PowerTo::Reset, &Permit::always()).await.unwrap();
    client.identify(&host, Duration::from_secs(7), &Permit::always()).await.unwrap();
    assert_eq!(
        world.acts(0),
        ["power 0", "power 1", "shutdown 1", "power 1", "reset 1", "identify 7 0"]
    );
    assert_eq!(world.acts(1), [] as [&str; 0], "the neighbour was left alone");
    assert!(world.ipmitool(0, &["chassis", "power", "status"]).contains("is on"));

    let info = client.device_info(&host).await.unwrap();
    assert_eq!((&info.ipmi[..], &info.firmware[..]), ("2.0", "9.08"));
    assert_eq!((info.manufacturer_id, info.product_id), (rack::MANUFACTURER, 0x0f02));
}

#[tokio::test]
async fn a_cycle_is_one_off_and_one_on() {
    let world = World::start(72, 1, &[]).await;
    world.client.set_power(&world.host(0), PowerTo::Cycle, &Permit::always()).await.unwrap();
    let start = Instant::now();
    while world.acts(0) != ["power 0", "power 1"] {
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", world.acts(0));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.becomes(0, Power::On).await;
}

#[tokio::test]
async fn ipmitool_reads_the_boot_device_that_was_set() {
    let world = World::start(73, 1, &[]).await;
    let host = world.host(0);
    for (device, selector) in [
        (BootDevice::Pxe, "Force PXE"),
        (BootDevice::Cdrom, "Force Boot from CD/DVD"),
        (BootDevice::Bios, "Force Boot into BIOS Setup"),
        (BootDevice::Disk, "Force Boot from default Hard-Drive"),
    ] {
        let boot = BootOverride { device, efi: true, persistent: false };
        world.client.set_boot_device(&host, boot, &Permit::always()).await.unwrap();
        let read = world.ipmitool(0, &["chassis", "bootparam", "get", "5"]);
        assert!(read.contains(selector), "{device:?}: {read}");
        // This simulator keeps the device and forgets the valid bit, as `ipmitool` sees too.
        assert!(read.contains("Boot Flag Invalid"), "{read}");
        assert_eq!(world.client.boot_device(&host).await, Ok(None));
    }
}

#[tokio::test]
async fn faults_are_told_apart() {
    let faults = [(0, Fault::WrongPassword), (1, Fault::Silent), (2, Fault::IgnoresSoftOff)];
    let world = World::start(74, 3, &faults).await;
    // More often than the BMC has session slots: a refused login must not use one up.
    for _ in 0..15 {
        let refused = world.client.power(&world.host(0)).await.unwrap_err();
        assert_eq!(refused.kind(), "bmc_credentials");
    }
    let (silent, deaf) = (world.host(1), world.host(2));
    let permit = Permit::always();
    let (silent, deaf) = tokio::join!(
        world.client.power(&silent),
        world.client.set_power(&deaf, PowerTo::Soft, &permit)
    );
    assert_eq!(silent.unwrap_err().kind(), "bmc_unreachable");
    deaf.unwrap();
    assert_eq!(world.client.power(&world.host(2)).await, Ok(Power::On));
    assert_eq!(world.acts(2), ["shutdown 1"]);
    let unknown = Credentials {
        user: "nobody".into(),
        password: Secret::new("secret"),
        privilege: Privilege::Administrator,
    };
    let stranger = Ipmi::new(BTreeMap::from([("rack".into(), unknown)]), Options::default());
    let refused = stranger.power(&world.host(2)).await.unwrap_err();
    assert_eq!(refused.kind(), "bmc_credentials");
}

#[tokio::test]
async fn the_log_is_read_as_ipmitool_writes_it() {
    let world = World::start(79, 1, &[]).await;
    let host = world.host(0);
    assert_eq!(world.client.events(&host, 5).await, Ok(vec![]), "it begins empty");
    // Revision, kind and number of the sensor, event type, data: as `ipmitool` reads them.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events");
    let lines: Vec<String> = (0..40u8)
        .map(|n| format!("0x04 0x08 {n:#04x} 0x6f 0x03 0xff 0xff # power supply\n"))
        .chain(["0x04 0x01 0x04 0x01 0x59 0x2f 0x2d # hot\n".to_owned()])
        .collect();
    std::fs::write(&file, lines.concat()).unwrap();
    world.ipmitool(0, &["sel", "add", file.to_str().unwrap()]);
    let events = world.client.events(&host, 3).await.unwrap();
    let said: Vec<String> =
        events.iter().map(|event| format!("{}: {}", event.sensor, event.event)).collect();
    let lost = "Power Supply input lost (AC/DC)";
    assert_eq!(
        said,
        [
            format!("Power Supply 0x26: {lost}"),
            format!("Power Supply 0x27: {lost}"),
            "Temperature 0x04: Upper Critical - going high".to_owned()
        ]
    );
    assert_eq!(world.client.events(&host, 100).await.unwrap().len(), 41);
    // A hole in the numbers.
    world.ipmitool(0, &["sel", "delete", "0x28"]);
    let events = world.client.events(&host, 2).await.unwrap();
    assert_eq!(events[0].sensor, "Power Supply 0x26");
}

#[tokio::test]
async fn a_bmc_without_sensors_says_nothing() {
    let world = World::start(80, 1, &[]).await;
    let readings = world.client.readings(&world.host(0)).await.unwrap();
    assert_eq!(readings, Readings { power_watts: None, inlet_celsius: None });
}

#[tokio::test]
async fn sessions_are_closed_so_that_slots_last() {
    let world = World::start(75, 1, &[]).await;
    for _ in 0..30 {
        world.client.power(&world.host(0)).await.unwrap();
    }
}

#[tokio::test]
async fn forty_eight_hosts_at_once() {
    let world = World::start(76, 48, &[]).await;
    let hosts: Vec<Host> = (0..48).map(|n| world.host(n)).collect();
    let all = async |what: &str, expected: Power| {
        let start = Instant::now();
        let calls = hosts.iter().map(|host| world.client.power(host));
        for power in futures_util::future::join_all(calls).await {
            assert_eq!(power, Ok(expected));
        }
        println!("48 hosts, {what}: {} ms", start.elapsed().as_millis());
    };
    all("first status, cipher suite found", Power::On).await;
    all("status", Power::On).await;
    let start = Instant::now();
    let permit = Permit::always();
    let calls = hosts.iter().map(|host| world.client.set_power(host, PowerTo::Off, &permit));
    for done in futures_util::future::join_all(calls).await {
        done.unwrap();
    }
    println!("48 hosts, power off: {} ms", start.elapsed().as_millis());
    all("status", Power::Off).await;
    for n in 0..48 {
        assert_eq!(world.acts(n), ["power 0"]);
    }
}

#[tokio::test]
async fn a_stopped_rack_leaves_no_process_and_a_full_one_holds() {
    let world = World::start(77, rack::MOST, &[]).await;
    let hosts: Vec<Host> = (0..rack::MOST).map(|n| world.host(n)).collect();
    let start = Instant::now();
    let calls = hosts.iter().map(|host| world.client.power(host));
    for power in futures_util::future::join_all(calls).await {
        assert_eq!(power, Ok(Power::On));
    }
    println!("{} hosts, first status: {} ms", rack::MOST, start.elapsed().as_millis());
    let World { rack, client: _, _dir } = world;
    let address = rack.address(&name(0)).unwrap();
    rack.stop();
    std::net::UdpSocket::bind(address).expect("the port is free again");
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_says_so() {
    let world = World::start(78, 1, &[]).await;
    let dir = tempfile::tempdir().unwrap();
    let again = SimBmc { host: name(0), address: Ipv4Addr::new(127, 78, 0, 1), fault: None };
    let error = Rack::start(dir.path(), world.rack.port(), vec![again]).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("UDP 127.78.0.1") && text.contains("in use"), "{text}");
}
