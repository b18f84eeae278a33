//! Hosts a second: ours beside `ipmipower` and `ipmitool`.

use std::collections::BTreeMap;
use std::process::Command;

use metalbot_sim::bmcs;
use metalbot_sim::rack::{PASSWORD, USER};

use crate::read_numbers;
use crate::responder::{MOST_BMCS, Responder};

const DELAYS: [u64; 2] = [0, 20];
const RUNS: usize = 5;
/// Seconds after which `ipmipower` and `ipmitool` are ended, and counted as they stand.
const PATIENCE: u32 = 12;
/// Hosts for `ipmitool`, which does some thirty a second.
const IPMITOOL_HOSTS: usize = 40;
/// From here on `ipmipower` loses hosts, waits for them in vain, or runs out of file descriptors:
/// one look is enough.
const IPMIPOWER_FAILS: usize = 5_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Console {
    Ours,
    Ipmipower,
    Ipmitool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Case {
    console: Console,
    cycle: bool,
    delay: u64,
    hosts: usize,
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    seconds: f64,
    cpu_ms: f64,
    peak_kib: f64,
    succeeded: usize,
    /// Hosts that the BMCs' log has more than one cycle of.
    twice: usize,
    datagrams: u64,
}

impl Case {
    fn command(self, port: u16) -> anyhow::Result<Vec<String>> {
        let program = match self.console {
            Console::Ours => {
                let what = if self.cycle { "cycle" } else { "status" };
                let exe = std::env::current_exe()?.display().to_string();
                return Ok(vec![
                    exe,
                    "ours".into(),
                    what.into(),
                    self.hosts.to_string(),
                    port.to_string(),
                ]);
            }
            Console::Ipmipower => {
                let what = if self.cycle { "--cycle" } else { "--stat" };
                // Each host is a socket: as many as the system lets it have.
                format!(
                    "ulimit -n $(ulimit -Hn); timeout {PATIENCE} ipmipower -D LAN_2_0 -I 17 \
                     -u {USER} -p {PASSWORD} {what} -h '{}'",
                    self.ranges(port).join(",")
                )
            }
            Console::Ipmitool => {
                let what = if self.cycle { "cycle" } else { "status" };
                let addresses = (0..self.hosts).map(|bmc| bmcs::address(bmc).to_string());
                let hosts: Vec<String> = addresses.collect();
                format!(
                    "echo {} | tr ' ' '\\n' | timeout {PATIENCE} xargs -P 4 -I HOST ipmitool \
                     -I lanplus -C 17 -H HOST -p {port} -U {USER} -P {PASSWORD} \
                     chassis power {what}",
                    hosts.join(" ")
                )
            }
        };
        Ok(vec!["sh".into(), "-c".into(), program])
    }

    /// The hosts as `ipmipower` folds them; a full list would be too long for an argument.
    fn ranges(self, port: u16) -> Vec<String> {
        let block = |first: usize| {
            let [a, b, c, d] = bmcs::address(first).octets();
            let last = (self.hosts - first).min(256) - 1;
            format!("{a}.{b}.{c}.[{d}-{last}]:{port}")
        };
        (0..self.hosts).step_by(256).map(block).collect()
    }

    fn run(self, bmcs: &mut Responder) -> anyhow::Result<Outcome> {
        bmcs.delay(self.delay)?;
        let before = bmcs.log()?;
        let output = Command::new(std::env::current_exe()?)
            .arg("measure")
            .args(self.command(bmcs.port)?)
            .stderr(std::process::Stdio::inherit())
            .output()?;
        let [seconds, cpu_ms, peak_kib, said] = read_numbers(&String::from_utf8(output.stdout)?)?;
        let log = bmcs.log()?;
        let said = said as usize;
        Ok(Outcome {
            seconds,
            cpu_ms,
            peak_kib,
            succeeded: if self.cycle { log.once.min(said) } else { said },
            twice: log.more,
            datagrams: log.datagrams - before.datagrams,
        })
    }

    fn runs(self) -> usize {
        match self.console {
            Console::Ipmipower if self.hosts >= IPMIPOWER_FAILS => 1,
            _ => RUNS,
        }
    }
}

/// Prints the table; returns the figures that have a budget, where these counts give them.
pub fn compare(bmcs: &mut Responder, counts: &[usize]) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let mut medians = BTreeMap::new();
    let head =
        "console    what    delay   hosts  hosts/s  CPU ms/host  packets/host  peak MiB  succeeded";
    println!("{head}");
    for delay in DELAYS {
        for cycle in [false, true] {
            let consoles = [(Console::Ipmitool, &[IPMITOOL_HOSTS][..])];
            let consoles = consoles
                .into_iter()
                .chain([Console::Ipmipower, Console::Ours].map(|it| (it, counts)));
            for (console, counts) in consoles {
                for hosts in counts.iter().copied() {
                    let case = Case { console, cycle, delay, hosts };
                    let outcomes: Result<Vec<Outcome>, _> =
                        (0..case.runs()).map(|_| case.run(bmcs)).collect();
                    let outcome = median(&outcomes?);
                    println!("{}", row(case, outcome));
                    medians.insert(case, outcome);
                }
            }
        }
    }
    let rate = |console, cycle, delay, hosts| {
        let outcome: &Outcome = medians.get(&Case { console, cycle, delay, hosts })?;
        Some(outcome.succeeded as f64 / outcome.seconds)
    };
    let against = |console, hosts, cycle, delay| {
        let ours = rate(Console::Ours, cycle, delay, 1_000)?;
        Some(ours / rate(console, cycle, delay, hosts)?)
    };
    let largest =
        medians.get(&Case { console: Console::Ours, cycle: true, delay: 0, hosts: MOST_BMCS });
    let ratios = [
        ("status_1000_vs_ipmipower_d0", against(Console::Ipmipower, 1_000, false, 0)),
        ("cycle_1000_vs_ipmipower_d0", against(Console::Ipmipower, 1_000, true, 0)),
        ("cycle_1000_vs_ipmipower_d20", against(Console::Ipmipower, 1_000, true, 20)),
        ("cycle_1000_vs_ipmitool", against(Console::Ipmitool, IPMITOOL_HOSTS, true, 0)),
        (
            "cycle_40000_succeeded",
            largest.map(|outcome| outcome.succeeded as f64 / MOST_BMCS as f64),
        ),
        ("cycle_40000_peak_mib", largest.map(|outcome| outcome.peak_kib / 1024.0)),
    ];
    Ok(ratios.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// The run with the median time; with the worst success and memory of all, which no median hides.
fn median(outcomes: &[Outcome]) -> Outcome {
    let mut sorted = outcomes.to_vec();
    sorted.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let mut median = sorted[sorted.len() / 2];
    for outcome in outcomes {
        median.succeeded = median.succeeded.min(outcome.succeeded);
        median.twice = median.twice.max(outcome.twice);
        median.peak_kib = median.peak_kib.max(outcome.peak_kib);
    }
    median
}

fn row(case: Case, outcome: Outcome) -> String {
    let Case { console, cycle, delay, hosts } = case;
    let a_host = |value: f64| value / hosts as f64;
    let twice = match outcome.twice {
        0 => String::new(),
        twice => format!("  {twice} CYCLED TWICE"),
    };
    format!(
        "{:<9}  {:<6}  {delay:>2} ms  {hosts:>6}  {:>7.0}  {:>11.3}  {:>12.2}  {:>8.1}  {:>9}{twice}",
        format!("{console:?}").to_lowercase(),
        if cycle { "cycle" } else { "status" },
        outcome.succeeded as f64 / outcome.seconds,
        a_host(outcome.cpu_ms),
        a_host(outcome.datagrams as f64),
        outcome.peak_kib / 1024.0,
        outcome.succeeded,
    )
}
