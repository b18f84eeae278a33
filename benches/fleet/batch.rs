//! One batch through the real thing: a person's command at the console, admission, rollout, worker
//! and journal of `metalbot serve`, on a private PostgreSQL with its default durability.
//!
//! The floor is the same step on the same hosts by the same client, as many at a time, in a process
//! that writes nothing down. What the batch takes longer is called the journal's share: all of
//! admission, rollout, leases, journal, card and audit.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use metalbot::bmc::unrestricted;
use metalbot::config;
use metalbot::identity::password;
use metalbot::step::{self, StepContext};
use metalbot_core::domain::host::Host;
use metalbot_core::domain::workflow::{PlannedStep, PowerTo, StepAction};
use metalbot_sim::bmcs::{self, CREDENTIALS};
use metalbot_sim::person::ConsoleUser;
use metalbot_sim::rack::{PASSWORD, USER};
use secrecy::SecretString;
use sqlx::{Executor, PgPool};
use tokio::sync::Semaphore;

use crate::responder::Responder;
use crate::site::Site;
use crate::{client, read_numbers};

const DELAY: u64 = 20;
const LOGIN: &str = "alice";
const LOGIN_PASSWORD: &str = "correct horse";
/// Longest that anything is waited for.
const LONG: Duration = Duration::from_secs(120);

const COMMAND: &str = r#"
summary = "Power-cycle hosts"
risk = "disruptive"

[[steps]]
run = "power"
to = "cycle"
title = "cycle the power"
deadline = "2m"
retry = 3
"#;

/// Cycles that many hosts with nothing written down; prints the seconds.
pub fn run_floor(count: usize, port: u16) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let planned = PlannedStep {
            title: String::new(),
            action: StepAction::Power { to: PowerTo::Cycle },
            deadline_secs: 120,
            retry: 0,
            finishing: false,
        };
        let client = client();
        let room =
            Arc::new(Semaphore::new(config::ExecutorConfig::default().max_in_flight as usize));
        let started = Instant::now();
        let mut tasks = Vec::with_capacity(count);
        for number in 0..count {
            let slot = Arc::clone(&room).acquire_owned().await?;
            let (client, planned) = (Arc::clone(&client), planned.clone());
            tasks.push(tokio::spawn(async move {
                let host = bmcs::host(number, port);
                let (host, bmc) = (&host, client.as_ref());
                let (age, left) = (Duration::ZERO, planned.deadline());
                let step = step::of(&planned);
                let done = step
                    .begin(StepContext { host, bmc, age, left, reports: &[] }, &unrestricted())
                    .await;
                drop(slot);
                done
            }));
        }
        for task in tasks {
            task.await??;
        }
        println!("{}", started.elapsed().as_secs_f64());
        Ok(())
    })
}

/// Prints a table; returns the figures that have a budget. With `profile`, also the statements that
/// cost the database most.
pub fn measure(
    bmcs: &mut Responder,
    hosts: usize,
    runs: usize,
    profile: bool,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    bmcs.delay(DELAY)?;
    bmcs.log()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let rounds = runtime.block_on(async {
        // The cluster would outlive a process that dies of the signal.
        tokio::select! {
            rounds = run_task(bmcs, hosts, runs, profile) => rounds,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })?;
    let median = |of: fn(&Round) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Ok(vec![
        ("batch_10000_seconds", median(|round| round.batch)),
        ("batch_10000_journal_share", median(|round| 1.0 - round.floor / round.batch)),
    ])
}

/// Seconds.
struct Round {
    floor: f64,
    /// From the begin of the admission until the batch is seen as final.
    batch: f64,
}

async fn run_task(
    bmcs: &mut Responder,
    hosts: usize,
    runs: usize,
    profile: bool,
) -> anyhow::Result<Vec<Round>> {
    let site = Site::new(profile).await?;
    write_site(site.folder(), hosts, bmcs.port)?;
    let server = site.serve().await?;
    let pool = &site.pool;
    let person = ConsoleUser::sign_in(&server.base, LOGIN, LOGIN_PASSWORD).await?;
    println!(
        "\none batch      hosts  seconds  hosts/s  without a journal  CPU s: metalbot  postgres  BMCs"
    );
    let mut rounds = Vec::new();
    for number in 1..=runs {
        let output = Command::new(std::env::current_exe()?)
            .args(["floor", &hosts.to_string(), &bmcs.port.to_string()])
            .stderr(Stdio::inherit())
            .output()?;
        let [floor] = read_numbers(&String::from_utf8(output.stdout)?)?;
        check_log(bmcs, hosts)?;
        // As autovacuum does sooner or later, in the moment when no job is queued or at work.
        pool.execute("analyze").await?;
        let before = server.cpu(bmcs.pid())?;
        let text = "/metal power-cycle @sim reason=\"a bench\"";
        ensure!(person.say("metal", text).await? == 202, "the command was not taken");
        let batch = until_final(pool, i64::try_from(number)?).await?;
        let after = server.cpu(bmcs.pid())?;
        check_log(bmcs, hosts)?;
        let [ours, postgres, responder] = [0, 1, 2].map(|part| after[part] - before[part]);
        println!(
            "power-cycle  {hosts:>7}  {batch:>7.2}  {:>7.0}  {floor:>17.2}  {ours:>15.2}  \
             {postgres:>8.2}  {responder:>4.2}",
            hosts as f64 / batch
        );
        rounds.push(Round { floor, batch });
    }
    drop(server);
    site.close(profile).await?;
    Ok(rounds)
}

/// Each host was cycled exactly once, by the BMCs' own log.
fn check_log(bmcs: &mut Responder, hosts: usize) -> anyhow::Result<()> {
    let log = bmcs.log()?;
    ensure!(log.once == hosts && log.more == 0, "of {hosts} hosts: {log:?}");
    Ok(())
}

/// Seconds from the begin of the batch's admission until now, when it has just ended well.
async fn until_final(pool: &PgPool, batch: i64) -> anyhow::Result<f64> {
    let started = Instant::now();
    loop {
        let row: Option<(String, bool, f64)> = sqlx::query_as(
            "select state, finished_at is not null,
                 extract(epoch from clock_timestamp() - created_at)::float8
             from batch where id = $1",
        )
        .bind(batch)
        .fetch_optional(pool)
        .await?;
        if let Some((state, true, seconds)) = row {
            ensure!(state == "succeeded", "the batch {state}");
            return Ok(seconds);
        }
        ensure!(started.elapsed() < LONG, "the batch never ended: {row:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A site whose hosts are the BMCs, and where nobody has to approve.
fn write_site(folder: &Path, hosts: usize, port: u16) -> anyhow::Result<()> {
    let mut csv = String::from("name,owner,datacenter,rack,sku,bmc,credentials,groups\n");
    for number in 0..hosts {
        let Host { name, datacenter, rack, sku, bmc, .. } = bmcs::host(number, port);
        writeln!(csv, "{name},sre,{datacenter},{rack},{sku},{},{CREDENTIALS},sim", bmc.address)?;
    }
    fs::write(folder.join("hosts.csv"), csv)?;
    let hash = password::hash(&SecretString::from(LOGIN_PASSWORD))?;
    let person = format!("login = {LOGIN:?}\nname = \"Alice\"\ngroups = [\"sre\"]\n");
    fs::write(folder.join("people.toml"), format!("[[person]]\n{person}password = {hash:?}\n"))?;
    fs::create_dir(folder.join("commands"))?;
    fs::write(folder.join("commands/power-cycle.toml"), COMMAND)?;
    let config = format!(
        r#"
[http]
listen = "127.0.0.1:0"

[directory]
file = "people.toml"

[inventory]
file = "hosts.csv"

[commands]
folder = "commands"

[credentials.{CREDENTIALS}]
user = "{USER}"
password = "{PASSWORD}"

[[allow]]
group = "sre"

[[approval]]
quorum = 0
"#
    );
    fs::write(folder.join("metalbot.toml"), config)?;
    Ok(())
}
