//! Tests of the client with OpenIPMI's BMC simulator; `ipmitool` reads back what was set.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers as well")]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use metalbot_ipmi::{
    BootOverride, BootSelector, ChassisControl, Client, Credentials, Error, Options, Power,
    Privilege, Readings, Target, unrestricted,
};
use metalbot_sim::rack::{self, BmcFault, Rack, SimBmc};

struct World {
    rack: Rack,
    client: Client,
    credentials: Credentials,
    addresses: Vec<String>,
    _dir: tempfile::TempDir,
}

impl World {
    /// Starts a rack at `127.<net>.<n/200>.<n%200+1>`; `faults` are by position.
    async fn start(net: u8, size: usize, faults: &[(usize, BmcFault)]) -> World {
        for (program, package) in [("ipmi_sim", "openipmi"), ("ipmitool", "ipmitool")] {
            let found = std::process::Command::new(program).arg("-V").output();
            assert!(found.is_ok(), "{program} is missing: install the package {package}");
        }
        let dir = tempfile::tempdir().unwrap();
        let bmcs = (0..size)
            .map(|n| SimBmc {
                host: name(n).parse().unwrap(),
                address: Ipv4Addr::new(127, net, (n / 200) as u8, (n % 200) as u8 + 1),
                fault: faults.iter().find(|(at, _)| *at == n).map(|(_, fault)| *fault),
            })
            .collect();
        let rack = Rack::start(&dir.path().join("a rack"), 0, bmcs).await.unwrap();
        let addresses = (0..size)
            .map(|n| rack.address(&name(n).parse().unwrap()).expect("it is of the rack"))
            .collect();
        let client = Client::new(Options::default());
        let credentials = credentials(rack::USER);
        World { rack, client, credentials, addresses, _dir: dir }
    }

    fn target(&self, n: usize) -> Target<'_> {
        let address = &self.addresses[n];
        Target { address, credentials: &self.credentials, group: "fra1" }
    }

    async fn control(&self, n: usize, control: ChassisControl) {
        self.client.control(self.target(n), control, &unrestricted()).await.unwrap();
    }

    fn targets(&self) -> impl Iterator<Item = Target<'_>> {
        (0..self.addresses.len()).map(|n| self.target(n))
    }

    fn acts(&self, n: usize) -> Vec<String> {
        let acts = self.rack.acts().unwrap();
        acts.into_iter()
            .filter(|act| act.host.as_str() == name(n))
            .map(|act| format!("{} {}", act.what, act.value))
            .collect()
    }

    async fn becomes(&self, n: usize, power: Power) {
        let start = Instant::now();
        while self.client.power(self.target(n)).await.unwrap() != power {
            assert!(start.elapsed() < Duration::from_secs(10), "it stays {power:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(self.rack.power(&name(n).parse().unwrap()).unwrap(), power);
    }

    fn ipmitool(&self, n: usize, arguments: &[&str]) -> String {
        let (ip, port) = self.addresses[n].split_once(':').unwrap();
        let output = std::process::Command::new("ipmitool")
            .args(["-I", "lanplus", "-C", "3", "-U", rack::USER, "-P", rack::PASSWORD])
            .args(["-H", ip, "-p", port])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

fn name(n: usize) -> String {
    format!("web{:02}", n + 1)
}

fn credentials(user: &str) -> Credentials {
    Credentials {
        user: user.into(),
        password: rack::PASSWORD.into(),
        privilege: Privilege::Administrator,
    }
}

#[tokio::test]
async fn a_simulated_bmc_does_all_that_is_asked() {
    let world = World::start(71, 3, &[]).await;
    let target = world.target(0);
    let client = &world.client;
    assert_eq!(client.power(target).await, Ok(Power::On));

    world.control(0, ChassisControl::PowerDown).await;
    world.becomes(0, Power::Off).await;
    world.control(0, ChassisControl::PowerUp).await;
    world.becomes(0, Power::On).await;
    world.control(0, ChassisControl::SoftShutdown).await;
    world.becomes(0, Power::Off).await;
    world.control(0, ChassisControl::PowerUp).await;
    world.control(0, ChassisControl::HardReset).await;
    client.identify(target, Duration::from_secs(7), &unrestricted()).await.unwrap();
    assert_eq!(
        world.acts(0),
        ["power 0", "power 1", "shutdown 1", "power 1", "reset 1", "identify 7 0"]
    );
    assert_eq!(world.acts(1), [] as [&str; 0], "the neighbour was left alone");
    assert!(world.ipmitool(0, &["chassis", "power", "status"]).contains("is on"));

    let info = client.device_info(target).await.unwrap();
    assert_eq!((&info.ipmi[..], &info.firmware[..]), ("2.0", "9.08"));
    assert_eq!((info.manufacturer_id, info.product_id), (rack::MANUFACTURER, 0x0f02));
}

#[tokio::test]
async fn a_cycle_is_one_off_and_one_on() {
    let world = World::start(72, 1, &[]).await;
    world.control(0, ChassisControl::PowerCycle).await;
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
    let target = world.target(0);
    for (device, selector) in [
        (BootSelector::Pxe, "Force PXE"),
        (BootSelector::Cdrom, "Force Boot from CD/DVD"),
        (BootSelector::Bios, "Force Boot into BIOS Setup"),
        (BootSelector::Disk, "Force Boot from default Hard-Drive"),
    ] {
        let boot = BootOverride { device, efi: true, persistent: false };
        world.client.set_boot_override(target, boot, &unrestricted()).await.unwrap();
        let read = world.ipmitool(0, &["chassis", "bootparam", "get", "5"]);
        assert!(read.contains(selector), "{device:?}: {read}");
        // This simulator keeps the device but not the valid bit; `ipmitool` shows the same.
        assert!(read.contains("Boot Flag Invalid"), "{read}");
        assert_eq!(world.client.boot_override(target).await, Ok(None));
    }
}

#[tokio::test]
async fn faults_are_told_apart() {
    let faults =
        [(0, BmcFault::WrongPassword), (1, BmcFault::Silent), (2, BmcFault::IgnoresSoftOff)];
    let world = World::start(74, 3, &faults).await;
    // More logins than the BMC has session slots: a refused login must not use one up.
    for _ in 0..15 {
        let refused = world.client.power(world.target(0)).await.unwrap_err();
        assert!(matches!(refused, Error::Credentials { .. }), "{refused}");
    }
    let permit = unrestricted();
    let (silent, deaf) = tokio::join!(
        world.client.power(world.target(1)),
        world.client.control(world.target(2), ChassisControl::SoftShutdown, &permit)
    );
    assert_eq!(silent, Err(Error::Unreachable { address: world.addresses[1].clone() }));
    deaf.unwrap();
    assert_eq!(world.client.power(world.target(2)).await, Ok(Power::On));
    assert_eq!(world.acts(2), ["shutdown 1"]);
    let nobody = credentials("nobody");
    let target = Target { credentials: &nobody, ..world.target(2) };
    let refused = world.client.power(target).await;
    assert_eq!(refused, Err(Error::Credentials { address: world.addresses[2].clone() }));
}

#[tokio::test]
async fn the_log_is_read_as_ipmitool_writes_it() {
    let world = World::start(79, 1, &[]).await;
    let target = world.target(0);
    assert_eq!(world.client.events(target, 5).await, Ok(vec![]), "it begins empty");
    // Revision, kind and number of the sensor, event type, data, as `ipmitool` reads them.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events");
    let lines: Vec<String> = (0..40u8)
        .map(|n| format!("0x04 0x08 {n:#04x} 0x6f 0x03 0xff 0xff # power supply\n"))
        .chain(["0x04 0x01 0x04 0x01 0x59 0x2f 0x2d # hot\n".to_owned()])
        .collect();
    std::fs::write(&file, lines.concat()).unwrap();
    world.ipmitool(0, &["sel", "add", file.to_str().unwrap()]);
    let events = world.client.events(target, 3).await.unwrap();
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
    assert_eq!(world.client.events(target, 100).await.unwrap().len(), 41);
    // Leaves a gap in the numbers.
    world.ipmitool(0, &["sel", "delete", "0x28"]);
    let events = world.client.events(target, 2).await.unwrap();
    assert_eq!(events[0].sensor, "Power Supply 0x26");
}

#[tokio::test]
async fn a_bmc_without_sensors_says_nothing() {
    let world = World::start(80, 1, &[]).await;
    let readings = world.client.readings(world.target(0)).await.unwrap();
    assert_eq!(readings, Readings { power_watts: None, inlet_celsius: None });
}

#[tokio::test]
async fn sessions_are_closed_so_that_slots_last() {
    let world = World::start(75, 1, &[]).await;
    for _ in 0..30 {
        world.client.power(world.target(0)).await.unwrap();
    }
}

#[tokio::test]
async fn forty_eight_hosts_at_once() {
    let world = World::start(76, 48, &[]).await;
    let all = async |what: &str, expected: Power| {
        let start = Instant::now();
        let calls = world.targets().map(|target| world.client.power(target));
        for power in join_all(calls).await {
            assert_eq!(power, Ok(expected));
        }
        println!("48 hosts, {what}: {} ms", start.elapsed().as_millis());
    };
    all("first status, cipher suite found", Power::On).await;
    all("status", Power::On).await;
    let start = Instant::now();
    let permit = unrestricted();
    let off = ChassisControl::PowerDown;
    let calls = world.targets().map(|target| world.client.control(target, off, &permit));
    for done in join_all(calls).await {
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
    let mut world = World::start(77, rack::MOST, &[]).await;
    // They are one process, which has all of them to answer at once.
    world.client = Client::new(Options { timeout: Duration::from_secs(30), ..Options::default() });
    let start = Instant::now();
    let calls = world.targets().map(|target| world.client.power(target));
    for power in join_all(calls).await {
        assert_eq!(power, Ok(Power::On));
    }
    println!("{} hosts, first status: {} ms", rack::MOST, start.elapsed().as_millis());
    let World { rack, addresses, .. } = world;
    rack.stop();
    // A chassis script that is running holds its parent's sockets until it ends by itself.
    let start = Instant::now();
    while let Err(error) = std::net::UdpSocket::bind(&addresses[0]) {
        assert!(start.elapsed() < Duration::from_secs(5), "the port is not free again: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_says_so() {
    let world = World::start(78, 1, &[]).await;
    let dir = tempfile::tempdir().unwrap();
    let again = SimBmc {
        host: name(0).parse().unwrap(),
        address: Ipv4Addr::new(127, 78, 0, 1),
        fault: None,
    };
    let error = Rack::start(dir.path(), world.rack.port(), vec![again]).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("UDP 127.78.0.1") && text.contains("in use"), "{text}");
}
