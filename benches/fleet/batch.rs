//! One batch through the real thing: a person's command at the console, admission, rollout, worker
//! and journal of `metalbot serve`, on a private PostgreSQL with its default durability.
//!
//! The floor is the same step on the same hosts by the same client, as many at a time, in a process
//! that writes nothing down. What the batch takes longer is called the journal's share: all of
//! admission, rollout, leases, journal, card and audit.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use metalbot::bmc::Permit;
use metalbot::cluster::Cluster;
use metalbot::config;
use metalbot::domain::host::Host;
use metalbot::domain::secret::Secret;
use metalbot::domain::workflow::{PlannedStep, PowerTo, StepAction};
use metalbot::identity::password;
use metalbot::sim::bmcs::{self, CREDENTIALS};
use metalbot::sim::person::Person;
use metalbot::sim::rack::{PASSWORD, USER};
use metalbot::step::{self, StepContext};
use metalbot::store;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::sync::Semaphore;

use crate::responder::Responder;
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
        };
        let client = client();
        let room = Arc::new(Semaphore::new(config::Executor::default().max_in_flight as usize));
        let started = Instant::now();
        let mut tasks = Vec::with_capacity(count);
        for number in 0..count {
            let slot = Arc::clone(&room).acquire_owned().await?;
            let (client, planned) = (Arc::clone(&client), planned.clone());
            tasks.push(tokio::spawn(async move {
                let host = bmcs::host(number, port);
                let permit = Permit::always();
                let deadline = tokio::time::Instant::now() + planned.deadline();
                let (host, bmc, permit) = (&host, client.as_ref(), &permit);
                let step = step::of(&planned);
                let done = step.run(StepContext { host, bmc, permit, deadline }).await;
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
            rounds = run_rounds(bmcs, hosts, runs, profile) => rounds,
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

async fn run_rounds(
    bmcs: &mut Responder,
    hosts: usize,
    runs: usize,
    profile: bool,
) -> anyhow::Result<Vec<Round>> {
    let folder = tempfile::tempdir()?;
    // Root's server runs as another user.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o711))?;
    let state = folder.path().join("state");
    let mut cluster = Cluster::start(&state).await?;
    if profile {
        let mut conn = PgConnection::connect(cluster.url()).await?;
        let preload = "alter system set shared_preload_libraries = 'pg_stat_statements'";
        conn.execute(preload).await?;
        conn.close().await?;
        cluster.stop().await?;
        cluster = Cluster::start(&state).await?;
    }
    let pool = store::connect_lazy(cluster.url(), 2)?;
    write_site(folder.path(), hosts, bmcs.port)?;
    let server = Server::start(folder.path(), cluster.url()).await?;
    if profile {
        pool.execute("create extension pg_stat_statements").await?;
    }
    let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&pool).await?;
    ensure!(fsync == "on", "a journal that is not durable is not measured");
    let person = Person::sign_in(&server.base, LOGIN, LOGIN_PASSWORD).await?;
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
        let before = cpu(&server, bmcs)?;
        let text = "/metal power-cycle @sim reason=\"a bench\"";
        ensure!(person.say("metal", text).await? == 202, "the command was not taken");
        let batch = until_final(&pool, i64::try_from(number)?).await?;
        let after = cpu(&server, bmcs)?;
        check_log(bmcs, hosts)?;
        let [ours, postgres, responder] = [0, 1, 2].map(|part| after[part] - before[part]);
        println!(
            "power-cycle  {hosts:>7}  {batch:>7.2}  {:>7.0}  {floor:>17.2}  {ours:>15.2}  \
             {postgres:>8.2}  {responder:>4.2}",
            hosts as f64 / batch
        );
        rounds.push(Round { floor, batch });
    }
    if profile {
        print_profile(&pool).await?;
    }
    pool.close().await;
    drop(server);
    cluster.stop().await?;
    Ok(rounds)
}

async fn print_profile(pool: &PgPool) -> anyhow::Result<()> {
    let statements: Vec<(i64, f64, i64, f64, String)> = sqlx::query_as(
        "select calls, total_exec_time, rows, wal_bytes::float8,
             left(regexp_replace(query, '\\s+', ' ', 'g'), 100)
         from pg_stat_statements order by total_exec_time desc limit 25",
    )
    .fetch_all(pool)
    .await?;
    println!("\n   calls        ms       rows  WAL KiB  statement");
    for (calls, ms, rows, wal, query) in statements {
        println!("{calls:>8}  {ms:>8.0}  {rows:>9}  {:>7.0}  {query}", wal / 1024.0);
    }
    Ok(())
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

/// CPU seconds so far of Metalbot, of PostgreSQL and of the BMCs.
fn cpu(server: &Server, bmcs: &Responder) -> anyhow::Result<[f64; 3]> {
    let mut spent = [0.0; 3];
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        // proc_pid_stat(5), from the third field on: 4 is the parent, 14 and 15 are user and
        // system time, 16 and 17 those of children that ended.
        let fields: Vec<&str> = rest.split(' ').collect();
        let field = |number: usize| fields.get(number - 3).and_then(|it| it.parse::<f64>().ok());
        let ticks = field(14).unwrap_or(0.0) + field(15).unwrap_or(0.0);
        let reaped = field(16).unwrap_or(0.0) + field(17).unwrap_or(0.0);
        if pid == server.process.id() {
            spent[0] += ticks;
        } else if pid == server.postmaster {
            spent[1] += ticks + reaped;
        } else if field(4) == Some(f64::from(server.postmaster)) {
            spent[1] += ticks;
        } else if pid == bmcs.pid() {
            spent[2] += ticks;
        }
    }
    // USER_HZ is 100 on every Linux that Rust runs on.
    Ok(spent.map(|ticks| ticks / 100.0))
}

/// `metalbot serve`; it ends with this value.
struct Server {
    process: Child,
    postmaster: u32,
    base: String,
}

impl Server {
    async fn start(folder: &Path, database_url: &str) -> anyhow::Result<Server> {
        let pid_file = folder.join("state/postgres/data/postmaster.pid");
        let pid_file = fs::read_to_string(pid_file).context("the cluster's pid")?;
        let postmaster = pid_file.lines().next().context("the cluster's pid")?.trim().parse()?;
        let log = folder.join("serve.log");
        let process = Command::new(env!("CARGO_BIN_EXE_metalbot"))
            .args(["serve", "--config"])
            .arg(folder.join("metalbot.toml"))
            .env("DATABASE_URL", database_url)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let mut server = Server { process, postmaster, base: String::new() };
        let started = Instant::now();
        while server.base.is_empty() {
            let said = fs::read_to_string(&log)?;
            let ended = server.process.try_wait()?;
            ensure!(
                ended.is_none() && started.elapsed() < LONG,
                "metalbot does not serve:\n{said}"
            );
            if let Some((_, rest)) = said.split_once("metalbot serves address=")
                && let Some((address, _)) = rest.split_once(' ')
            {
                server.base = format!("http://{address}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
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
    let hash = password::hash(&Secret::new(LOGIN_PASSWORD))?;
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
