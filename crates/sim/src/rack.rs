//! A rack of independent BMCs: OpenIPMI's `ipmi_sim` over real UDP on 127.x addresses.
//!
//! The host behind each BMC is a file that holds the state of its power. A small script, which
//! `ipmi_sim` calls for every chassis command, keeps it. The script appends each act to a log
//! before it carries it out, which proves the number of power cycles of a host. Invariant: the
//! process ends with its [`Rack`], and with the process that started it.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use metalbot_core::domain::host::HostName;
use metalbot_ipmi::Power;

/// User name of every BMC of a rack; below, the password of those without a fault.
pub const USER: &str = "admin";
pub const PASSWORD: &str = "secret";
/// Largest number of BMCs in one `ipmi_sim`.
pub const MOST: usize = 250;

/// Manufacturer that the BMCs report, by IANA's private enterprise numbers: Lenovo.
pub const MANUFACTURER: u32 = 19046;

const READY_WITHIN: Duration = Duration::from_secs(20);

/// One BMC of a rack, with its host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimBmc {
    pub host: HostName,
    /// Address in 127.0.0.0/8.
    pub address: Ipv4Addr,
    pub fault: Option<BmcFault>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BmcFault {
    /// No BMC answers at the address.
    Silent,
    /// The BMC has another password.
    WrongPassword,
    /// The operating system does not react to a soft off.
    IgnoresSoftOff,
}

/// Act of a BMC on its host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RackEvent {
    /// Time in milliseconds since 1970.
    pub at_ms: u64,
    pub host: HostName,
    /// Kind of act and its value: `power`, `reset`, `shutdown`, `boot`, `identify`. A cycle is
    /// `power 0` and then `power 1`.
    pub what: String,
    pub value: String,
}

impl RackEvent {
    /// True if the power was cut, alone or as the first half of a cycle.
    pub fn is_power_off(&self) -> bool {
        self.what == "power" && self.value == "0"
    }
}

/// Running rack.
#[derive(Debug)]
pub struct Rack {
    dir: PathBuf,
    port: u16,
    bmcs: Vec<SimBmc>,
    process: Option<Child>,
}

impl Rack {
    /// Starts the BMCs with all hosts on, and returns when all that should answer do so.
    ///
    /// `dir` is created and holds the rack's files. `port` 0 means a free one; other racks may run
    /// at the same time under other addresses or another port.
    pub async fn start(dir: &Path, port: u16, bmcs: Vec<SimBmc>) -> anyhow::Result<Rack> {
        ensure!(bmcs.len() <= MOST, "a rack holds at most {MOST} BMCs, not {}", bmcs.len());
        for bmc in &bmcs {
            ensure!(bmc.address.is_loopback(), "{} is not in 127.0.0.0/8", bmc.address);
        }
        let mut duplicates: Vec<Ipv4Addr> = bmcs.iter().map(|bmc| bmc.address).collect();
        duplicates.sort();
        duplicates.dedup();
        ensure!(duplicates.len() == bmcs.len(), "two BMCs of the rack share an address");

        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let text = dir.to_str().context("the rack's folder is not named in UTF-8")?;
        ensure!(
            !text.contains(['\'', '"', '\\', '\n', '$', '`']),
            "the rack's folder has quotes in its name: {text}"
        );
        // Asked once alone: a program that is started at that moment has the sockets of the question
        // until it runs, and a second one would find them in use.
        let port = match port {
            0 => free_port(&bmcs)?,
            wanted => ensure_free(&bmcs, wanted).map(|()| wanted)?,
        };
        write_files(&dir, text, port, &bmcs)?;
        let mut rack = Rack { dir, port, bmcs, process: None };
        if rack.answering().next().is_some() {
            rack.process = Some(rack.spawn()?);
            rack.wait_ready().await?;
        }
        Ok(rack)
    }

    /// UDP port of every BMC.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address of a host's BMC, in the form of an inventory.
    pub fn address(&self, host: &HostName) -> Option<String> {
        let bmc = self.bmcs.iter().find(|bmc| bmc.host == *host)?;
        Some(format!("{}:{}", bmc.address, self.port))
    }

    /// All acts so far, in order.
    pub fn acts(&self) -> anyhow::Result<Vec<RackEvent>> {
        let log = fs::read_to_string(self.dir.join("acts")).context("cannot read the acts")?;
        log.lines().map(|line| read_act(line).with_context(|| format!("act {line:?}"))).collect()
    }

    /// Real power state of the host, independent of its BMC.
    pub fn power(&self, host: &HostName) -> anyhow::Result<Power> {
        let path = self.dir.join("power").join(host.as_str());
        let state = fs::read_to_string(&path).with_context(|| format!("no host {host} here"))?;
        Ok(if state.trim() == "1" { Power::On } else { Power::Off })
    }

    /// Error output of `ipmi_sim`.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }

    /// Ends the process at once; its files stay.
    pub fn stop(mut self) {
        self.kill();
    }

    fn answering(&self) -> impl Iterator<Item = &SimBmc> {
        self.bmcs.iter().filter(|bmc| bmc.fault != Some(BmcFault::Silent))
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        // The shell's watch reads a pipe from this process: when this process dies for any reason,
        // the watch reads the end of the pipe and ends the simulator.
        let guard = r#"
command -v ipmi_sim >/dev/null || {
    echo 'ipmi_sim is missing: install the package openipmi' >&2
    exit 127
}
exec 3<&0
ipmi_sim -n -c rack.conf -f rack.emu -s state </dev/null 3<&- &
sim=$!
{ while read -r line <&3; do :; done; kill -9 $sim; } >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait $sim
status=$?
kill $watch 2>/dev/null
exit $status
"#;
        let capture = |name: &str| fs::File::create(self.dir.join(name));
        Command::new("sh")
            .args(["-c", guard])
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(capture("stdout")?)
            .stderr(capture("stderr")?)
            .process_group(0)
            .spawn()
            .context("cannot start sh")
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let deadline = Instant::now() + READY_WITHIN;
        let mut waiting: Vec<Ipv4Addr> = self.answering().map(|bmc| bmc.address).collect();
        let mut answer = [0; 64];
        while let Some(address) = waiting.last().copied() {
            let ended = match &mut self.process {
                Some(process) => process.try_wait()?,
                None => None,
            };
            if let Some(status) = ended {
                bail!("ipmi_sim ended at once ({status}): {}", self.stderr().trim());
            }
            if Instant::now() > deadline {
                bail!("the BMC at {address} does not answer: {}", self.stderr().trim());
            }
            socket.send_to(&PING, (address, self.port)).await?;
            let wait = Duration::from_millis(50);
            if let Ok(received) = tokio::time::timeout(wait, socket.recv_from(&mut answer)).await {
                let (_, from) = received?;
                waiting.retain(|each| from.ip() != *each);
            }
        }
        Ok(())
    }

    fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // At the end of the pipe the watch kills the simulator, and the shell ends after it: then
        // its ports are free. A chassis script that is running ends by itself.
        drop(process.stdin.take());
        if let Err(error) = process.wait() {
            tracing::warn!(%error, "cannot wait for the rack's process");
        }
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        self.kill();
    }
}

/// ASF presence ping, IPMI 2.0 section 13.2.3: every BMC answers it without a session.
const PING: [u8; 12] = [0x06, 0x00, 0xff, 0x06, 0x00, 0x00, 0x11, 0xbe, 0x80, 0x01, 0x00, 0x00];

/// A port that is free on every address of the rack.
fn free_port(bmcs: &[SimBmc]) -> anyhow::Result<u16> {
    for _ in 0..100 {
        let port = rand::random_range(10_000..32_000);
        if ensure_free(bmcs, port).is_ok() {
            return Ok(port);
        }
    }
    bail!("no UDP port is free on all addresses of the rack")
}

/// Fails if the port is in use: another rack would answer instead of this one, and `ipmi_sim`
/// reports no error.
fn ensure_free(bmcs: &[SimBmc], port: u16) -> anyhow::Result<()> {
    for bmc in bmcs {
        UdpSocket::bind((bmc.address, port))
            .with_context(|| format!("cannot use UDP {}:{port} for a BMC", bmc.address))?;
    }
    Ok(())
}

fn write_files(dir: &Path, text: &str, port: u16, bmcs: &[SimBmc]) -> anyhow::Result<()> {
    for sub in ["power", "boot", "deaf", "state"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    fs::write(dir.join("acts"), "")?;
    for bmc in bmcs {
        let name = bmc.host.as_str();
        fs::write(dir.join("power").join(name), "1\n")?;
        fs::write(dir.join("boot").join(name), "none\n")?;
        let deaf = dir.join("deaf").join(name);
        if bmc.fault == Some(BmcFault::IgnoresSoftOff) {
            fs::write(deaf, "")?;
        } else if deaf.exists() {
            fs::remove_file(deaf)?;
        }
    }
    fs::write(dir.join("rack.conf"), configuration(text, port, bmcs))?;
    fs::write(dir.join("rack.emu"), emulation(bmcs))?;
    let script = dir.join("chassis");
    fs::write(&script, CHASSIS)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn configuration(dir: &str, port: u16, bmcs: &[SimBmc]) -> String {
    // Without a GUID the simulator speaks no RMCP+, without a chassis script it crashes.
    let mut text = "name \"rack\"\n".to_owned();
    for (unit, bmc) in units(bmcs) {
        let SimBmc { host, address, fault } = bmc;
        let password =
            if *fault == Some(BmcFault::WrongPassword) { "other-secret" } else { PASSWORD };
        text += &format!(
            "set_working_mc {unit:#04x}
  startlan 1
    addr {address} {port}
    priv_limit admin
    guid a123456789abcdefa123456789ab{unit:04x}
    allowed_auths_admin none md5
  endlan
  chassis_control \"'{dir}/chassis' {host}\"
  user 2 true \"{USER}\" \"{password}\" admin 10 none md5
"
        );
    }
    text
}

fn emulation(bmcs: &[SimBmc]) -> String {
    let mut text = "mc_setbmc 0x20\n".to_owned();
    for (unit, _) in units(bmcs) {
        text += &format!(
            "mc_add {unit:#04x} 0 no-device-sdrs 0x23 9 8 0x9f {MANUFACTURER:#x} 0xf02
sel_enable {unit:#04x} 100 0x0a
mc_enable {unit:#04x}
"
        );
    }
    text
}

/// BMCs that answer, each with its address on the simulator's bus: 0x20 is the first, which must
/// exist; the others count up from 1 and leave it out.
fn units(bmcs: &[SimBmc]) -> impl Iterator<Item = (u8, &SimBmc)> {
    let rest = (1..=u8::MAX).filter(|unit| *unit != 0x20);
    let answering = bmcs.iter().filter(|bmc| bmc.fault != Some(BmcFault::Silent));
    std::iter::once(0x20).chain(rest).zip(answering)
}

fn read_act(line: &str) -> anyhow::Result<RackEvent> {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().context("the line is too short");
    Ok(RackEvent {
        at_ms: word()?.parse()?,
        host: word()?.parse()?,
        what: word()?.to_owned(),
        value: word()?.to_owned(),
    })
}

/// Script of the hosts, called as `HOST get power|boot...` and `HOST set
/// power|reset|shutdown|boot|identify VALUE...`.
const CHASSIS: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
host=$1 verb=$2
shift 2
if [ "$verb" = get ]; then
    for what in "$@"; do
        value=0
        case $what in power | boot) read -r value <"$what/$host" ;; esac
        echo "$what:$value"
    done
    exit 0
fi
what=$1
shift
echo "$(date +%s%3N) $host $what $*" >>acts
# Written beside and renamed, so that nobody reads half a state.
put() {
    echo "$2" >"$1/.$host.$$" && mv "$1/.$host.$$" "$1/$host"
}
case $what in
power) put power "$1" ;;
shutdown) [ -e "deaf/$host" ] || put power 0 ;;
boot) put boot "$1" ;;
esac
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_are_read() {
        let act = read_act("1795395085216 web01 identify 3 0").unwrap();
        assert_eq!((act.at_ms, act.host.as_str()), (1795395085216, "web01"));
        assert_eq!((&act.what[..], &act.value[..]), ("identify", "3 0"));
        assert!(read_act("1795395085216 web01 power").is_err());
    }

    #[test]
    fn every_answering_bmc_has_its_own_unit() {
        let bmcs: Vec<SimBmc> = (0..MOST)
            .map(|n| SimBmc {
                host: format!("h{n}").parse().unwrap(),
                address: Ipv4Addr::new(127, 9, 0, n as u8),
                fault: (n == 0).then_some(BmcFault::Silent),
            })
            .collect();
        let units: Vec<u8> = units(&bmcs).map(|(unit, _)| unit).collect();
        assert_eq!(units.len(), MOST - 1);
        assert_eq!(&units[..3], [0x20, 0x01, 0x02]);
        assert_eq!(units.iter().filter(|unit| **unit == 0x20).count(), 1);
    }
}
