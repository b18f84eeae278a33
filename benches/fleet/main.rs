//! What a fleet's size costs: the IPMI client beside other consoles, and the executor.
//!
//! `make bench-fleet` prints a table for each and then one line `RATIO <name> <value>` for each
//! budget. The BMCs are a process of their own, and each console and Metalbot are too, so that the
//! times and the memory of one are not counted for another; this binary plays all those parts.
//! What succeeded in 'cycle' is counted in the BMCs' own log, not in what a console says.

mod batch;
mod consoles;
mod lease;
mod responder;
#[path = "../site.rs"]
mod site;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use metalbot::bmc::ipmi::IpmiBmc;
use metalbot::bmc::{Bmc, Power, unrestricted};
use metalbot_core::domain::workflow::PowerTo;
use metalbot_ipmi::{Credentials, Options};
use metalbot_sim::bmcs::{self, CREDENTIALS};
use metalbot_sim::rack::{PASSWORD, USER};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use secrecy::SecretString;

use crate::responder::Responder;

const BATCH_RUNS: usize = 5;
const BATCH_HOSTS: usize = 10_000;

fn main() -> anyhow::Result<()> {
    metalbot::use_ring();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["responder"] => responder::respond(),
        ["ours", what, count, port] => run_ours(what == "cycle", count.parse()?, port.parse()?),
        ["floor", count, port] => batch::run_floor(count.parse()?, port.parse()?),
        ["measure", ref command @ ..] => measure(command),
        // `cargo bench` adds an argument of its own.
        [] | ["--bench"] => {
            let mut bmcs = Responder::start()?;
            let mut ratios = consoles::compare(&mut bmcs, &[200, 1_000, 5_000, 10_000, 40_000])?;
            ratios.extend(batch::measure(&mut bmcs, BATCH_HOSTS, BATCH_RUNS, false)?);
            ratios.extend(lease::measure()?);
            print_ratios(&ratios);
            Ok(())
        }
        ["--bench", "consoles", ref counts @ ..] => {
            let counts: Result<Vec<usize>, _> = counts.iter().map(|each| each.parse()).collect();
            print_ratios(&consoles::compare(&mut Responder::start()?, &counts?)?);
            Ok(())
        }
        ["--bench", "batch", hosts, runs, ref profile @ ..]
            if matches!(profile, [] | ["profile"]) =>
        {
            let (hosts, runs) = (hosts.parse()?, runs.parse()?);
            let profile = !profile.is_empty();
            print_ratios(&batch::measure(&mut Responder::start()?, hosts, runs, profile)?);
            Ok(())
        }
        ["--bench", "lease"] => {
            print_ratios(&lease::measure()?);
            Ok(())
        }
        _ => anyhow::bail!(
            "usage: fleet --bench [consoles [HOSTS...] | batch HOSTS RUNS [profile] | lease]"
        ),
    }
}

fn print_ratios(ratios: &[(&str, f64)]) {
    println!();
    for (name, value) in ratios {
        println!("RATIO {name} {value:.4}");
    }
}

/// Our client: prints how many hosts answered.
fn run_ours(cycle: bool, count: usize, port: u16) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client();
        let tasks: Vec<_> = (0..count)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move {
                    let host = bmcs::host(number, port);
                    if cycle {
                        client.set_power(&host, PowerTo::Cycle, &unrestricted()).await
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

/// Our client, with its usual options.
fn client() -> Arc<dyn Bmc> {
    let credentials = Credentials {
        user: USER.into(),
        password: SecretString::from(PASSWORD),
        privilege: Default::default(),
    };
    let credentials = BTreeMap::from([(CREDENTIALS.to_owned(), credentials)]);
    Arc::new(IpmiBmc::new(credentials, Options::default()))
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

fn read_numbers<const N: usize>(line: &str) -> anyhow::Result<[f64; N]> {
    let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
    numbers?.try_into().map_err(|_| anyhow::anyhow!("expected {N} numbers in {line:?}"))
}
