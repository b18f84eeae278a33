//! Hosts a second over simulated BMCs: ours beside `ipmipower` and `ipmitool`.
//!
//! `make bench-fleet` prints a table and then one line `RATIO <name> <value>` for each budget. The
//! BMCs are a process of their own, and each console is one too, so that the times and the memory
//! of one are not counted for another; this binary plays all those parts. What succeeded in
//! 'cycle' is counted in the BMCs' own log, not in what a console says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metalbot::bmc::ipmi::{Credentials, Ipmi, Options};
use metalbot::bmc::{Bmc, Permit, Power};
use metalbot::domain::secret::Secret;
use metalbot::domain::workflow::PowerTo;
use metalbot::sim::bmcs::{self, Behaviour, Bmcs, CREDENTIALS, Deed};
use metalbot::sim::rack::{PASSWORD, USER};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const MOST_BMCS: usize = 40_000;
const DELAYS: [u64; 2] = [0, 20];
const RUNS: usize = 5;
/// Seconds after which `ipmipower` and `ipmitool` are ended, and counted as they stand.
const PATIENCE: u32 = 12;
/// Hosts for `ipmitool`, which does some thirty a second.
const IPMITOOL_HOSTS: usize = 40;
/// From here on `ipmipower` loses hosts, waits for them in vain, or runs out of file descriptors:
/// one look is enough.
const IPMIPOWER_FAILS: usize = 5_000;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["responder"] => respond(),
        ["ours", what, count, port] => run_ours(what == "cycle", count.parse()?, port.parse()?),
        ["measure", ref command @ ..] => measure(command),
        // `cargo bench` adds an argument of its own.
        [] | ["--bench"] => compare(&[200, 1_000, 5_000, 10_000, 40_000]),
        ["--bench", ref counts @ ..] => {
            let counts: Result<Vec<usize>, _> = counts.iter().map(|each| each.parse()).collect();
            compare(&counts?)
        }
        _ => anyhow::bail!("usage: fleet [--bench [HOSTS...]]"),
    }
}

/// The BMCs: prints the port, then obeys one command a line and answers each with a line.
fn respond() -> anyhow::Result<()> {
    let bmcs = Bmcs::start(0, MOST_BMCS, Behaviour::default(), 1)?;
    println!("{}", bmcs.port());
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("delay", milliseconds)) => {
                let delay = Duration::from_millis(milliseconds.parse()?);
                bmcs.behave_all(Behaviour { delay, ..Behaviour::default() });
                println!("ok");
            }
            _ => {
                // How many hosts were cycled exactly once, and how many datagrams came.
                let mut cycles = BTreeMap::<usize, usize>::new();
                for act in bmcs.acts() {
                    anyhow::ensure!(act.deed == Deed::Cycle, "nobody asked for {act:?}");
                    *cycles.entry(act.bmc).or_default() += 1;
                }
                bmcs.clear_acts();
                let once = cycles.values().filter(|times| **times == 1).count();
                println!("{once} {} {}", cycles.len() - once, bmcs.heard());
            }
        }
    }
    Ok(())
}

/// Our client: prints how many hosts answered.
fn run_ours(cycle: bool, count: usize, port: u16) -> anyhow::Result<()> {
    let credentials = Credentials {
        user: USER.into(),
        password: Secret::new(PASSWORD),
        privilege: Default::default(),
    };
    let credentials = BTreeMap::from([(CREDENTIALS.to_owned(), credentials)]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let client: Arc<dyn Bmc> = Arc::new(Ipmi::new(credentials, Options::default()));
        let tasks: Vec<_> = (0..count)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move {
                    let host = bmcs::host(number, port);
                    if cycle {
                        client.set_power(&host, PowerTo::Cycle, &Permit::always()).await
                    } else {
                        client.power(&host).await.map(|power| assert_eq!(power, Power::On))
                    }
                })
            })
            .collect();
        let mut succeeded = 0;
        for task in tasks {
            match task.await? {
                Ok(()) => succeeded += 1,
                Err(error) => eprintln!("{error}"),
            }
        }
        println!("{succeeded}");
        Ok(())
    })
}

/// Runs a command in silence; prints seconds, CPU milliseconds, KiB of peak memory, and how many of
/// its lines say that a host is on or was cycled, or the number that is its last line.
fn measure(command: &[&str]) -> anyhow::Result<()> {
    let start = Instant::now();
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output()?;
    let seconds = start.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = (usage.user_time() + usage.system_time()).num_milliseconds();
    let said = String::from_utf8_lossy(&output.stdout);
    if command.contains(&"ours") {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let good = |line: &&str| {
        [": on", ": ok", "Power is on", "Power Control: Cycle"].iter().any(|it| line.ends_with(it))
    };
    let number = said.lines().last().and_then(|line| line.parse().ok());
    let succeeded = number.unwrap_or_else(|| said.lines().filter(good).count());
    println!("{seconds} {cpu} {} {succeeded}", usage.max_rss());
    Ok(())
}

/// The BMCs as seen from here; they end with it.
struct Responder {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    port: u16,
}

impl Responder {
    fn start() -> anyhow::Result<Responder> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("responder")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take().expect("it is piped");
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut responder = Responder { process, commands, answers, port: 0 };
        responder.port = responder.line()?.parse()?;
        Ok(responder)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the simulated BMCs have ended");
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.commands, "{command}")?;
        self.line()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // It would end by itself at the end of its input.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

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
        bmcs.ask(&format!("delay {}", self.delay))?;
        let before = read_numbers(&bmcs.ask("acts")?)?;
        let output = Command::new(std::env::current_exe()?)
            .arg("measure")
            .args(self.command(bmcs.port)?)
            .stderr(Stdio::inherit())
            .output()?;
        let [seconds, cpu_ms, peak_kib, said] = read_numbers(&String::from_utf8(output.stdout)?)?;
        let [once, twice, datagrams]: [f64; 3] = read_numbers(&bmcs.ask("acts")?)?;
        let [_, _, datagrams_before] = before;
        let succeeded = if self.cycle { once.min(said) } else { said };
        Ok(Outcome {
            seconds,
            cpu_ms,
            peak_kib,
            succeeded: succeeded as usize,
            twice: twice as usize,
            datagrams: (datagrams - datagrams_before) as u64,
        })
    }

    fn runs(self) -> usize {
        match self.console {
            Console::Ipmipower if self.hosts >= IPMIPOWER_FAILS => 1,
            _ => RUNS,
        }
    }
}

fn read_numbers<const N: usize>(line: &str) -> anyhow::Result<[f64; N]> {
    let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
    numbers?.try_into().map_err(|_| anyhow::anyhow!("expected {N} numbers in {line:?}"))
}

fn compare(counts: &[usize]) -> anyhow::Result<()> {
    let mut bmcs = Responder::start()?;
    let mut table = String::new();
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
                        (0..case.runs()).map(|_| case.run(&mut bmcs)).collect();
                    let outcome = median(&outcomes?);
                    let line = row(case, outcome);
                    println!("{line}");
                    writeln!(table, "{line}")?;
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
    println!();
    for (name, value) in ratios {
        if let Some(value) = value {
            println!("RATIO {name} {value:.4}");
        }
    }
    Ok(())
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
