//! How fast Slack is answered: 200 slash commands a second, whether the answers before them are
//! there or not.
//!
//! `make bench-slack` prints a table and then one line `RATIO <name> <value>` for each figure. Times
//! are those of the stand-in: from the moment at which a command was due until its acknowledgement
//! has come back. The floor is a row of the same bytes, written and committed alone, at the same
//! rate on the same database. What was asked is counted afterwards: nothing that was acknowledged
//! may be lost, and everything must have been answered.

#[path = "../site.rs"]
mod site;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use metalbot_sim::bmcs::{self, CREDENTIALS};
use metalbot_sim::slack::{METAL, SimSlack};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;

use crate::site::Site;

/// Commands a second, and for how long.
const RATE: u32 = 200;
const SECONDS: u32 = 20;
/// People who type them, in turn.
const PEOPLE: usize = 200;
/// Each is asked for once.
const HOSTS: usize = 2_000;
/// Longest that the answers are waited for.
const LONG: Duration = Duration::from_secs(120);

fn main() -> anyhow::Result<()> {
    metalbot::use_ring();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (seconds, profile) = match words[..] {
        // `cargo bench` adds an argument of its own.
        [] | ["--bench"] => (SECONDS, false),
        ["--bench", seconds, ref profile @ ..] if matches!(profile, [] | ["profile"]) => {
            (seconds.parse()?, !profile.is_empty())
        }
        _ => anyhow::bail!("usage: slack --bench [SECONDS [profile]]"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // The cluster would outlive a process that dies of the signal.
        tokio::select! {
            measured = measure(RATE * seconds, profile) => measured,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })
}

async fn measure(commands: u32, profile: bool) -> anyhow::Result<()> {
    println!(
        "{RATE} commands a second   number     p50     p99     max  ms  |  answer seen: p50      p99  ms"
    );
    let mut ratios = Vec::new();
    for mode in ["socket", "http"] {
        let site = Site::new(profile).await?;
        let slack = Arc::new(SimSlack::start().await?);
        write_site(site.folder(), &slack, mode)?;
        let server = site.serve().await?;
        match mode {
            "http" => slack.use_http(&format!("{}/slack/events", server.base)),
            _ => slack.connected(1).await?,
        }
        introduce(&slack, &site.pool).await?;
        let before = server.cpu(std::process::id())?;
        let acks = load(&slack, commands).await?;
        let seen = check(&slack, &site.pool, commands).await?;
        let after = server.cpu(std::process::id())?;
        let floor = floor(&site.pool, commands).await?;
        let [ours, postgres, stand_in] = [0, 1, 2].map(|part| after[part] - before[part]);
        row(mode, &acks, Some(&seen));
        println!(
            "  CPU s: metalbot {ours:.1}, PostgreSQL {postgres:.1}, stand-in and people {stand_in:.1}"
        );
        row("a bare row", &floor, None);
        let name = if mode == "socket" { "slack_ack" } else { "slack_http_ack" };
        ratios.push((format!("{name}_p99_ms"), percentile(&acks, 0.99)));
        // Of the middle: the far end of a bare row is the disk's mood.
        let to_bare = percentile(&acks, 0.5) / percentile(&floor, 0.5);
        ratios.push((format!("{name}_p50_to_bare_row"), to_bare));
        drop(server);
        site.close(profile).await?;
    }
    println!();
    for (name, value) in ratios {
        println!("RATIO {name} {value:.4}");
    }
    Ok(())
}

/// Everybody says something once, so that Metalbot knows who they are.
async fn introduce(slack: &SimSlack, pool: &PgPool) -> anyhow::Result<()> {
    for number in 0..PEOPLE {
        slack.slash(&login(number), METAL, "whoami").await?;
    }
    let waiting = "select count(*) from inbox where done_at is null";
    until(pool, waiting, 0).await.context("people are not known")?;
    // Something to ask about.
    slack.slash(&login(0), METAL, &reboot(HOSTS - 1)).await?;
    until(pool, "select count(*) from batch", 1).await.context("the first batch")
}

/// What is typed as the command of this number.
fn command(number: usize) -> String {
    match number % 20 {
        0 => reboot(number / 20),
        1 => "rebot web01".into(),
        2 => "reboot web[01-".into(),
        // Opens a form.
        3 => String::new(),
        4..=7 => "help".into(),
        8 => "help reboot".into(),
        9..=12 => "list mine".into(),
        13 => "whoami".into(),
        _ => "status 1".into(),
    }
}

fn reboot(host: usize) -> String {
    format!("reboot {} reason=\"a bench\"", bmcs::host(host, 0).name)
}

/// Types commands at their times; milliseconds until each was acknowledged.
async fn load(slack: &Arc<SimSlack>, commands: u32) -> anyhow::Result<Vec<f64>> {
    let mut acked = JoinSet::new();
    paced(commands, async |number, due| {
        let slack = Arc::clone(slack);
        acked.spawn(async move {
            let answer = slack.slash(&login(number % PEOPLE), METAL, &command(number)).await;
            answer.map(|_| milliseconds(due))
        });
    })
    .await;
    sorted(acked).await
}

/// Writes rows of the deliveries' bytes; milliseconds until each was committed.
async fn floor(pool: &PgPool, rows: u32) -> anyhow::Result<Vec<f64>> {
    let bodies: Vec<Value> =
        sqlx::query_scalar("select body from inbox order by id").fetch_all(pool).await?;
    let make = "create table floor (id bigint generated always as identity, body jsonb not null)";
    sqlx::query(make).execute(pool).await?;
    let mut written = JoinSet::new();
    paced(rows, async |number, due| {
        let (pool, body) = (pool.clone(), bodies[number % bodies.len()].clone());
        written.spawn(async move {
            let insert = sqlx::query("insert into floor (body) values ($1)");
            insert.bind(body).execute(&pool).await?;
            anyhow::Ok(milliseconds(due))
        });
    })
    .await;
    sorted(written).await
}

async fn paced(number: u32, mut each: impl AsyncFnMut(usize, Instant)) {
    let (started, gap) = (Instant::now(), Duration::from_secs(1) / RATE);
    for at in 0..number {
        let due = started + gap * at;
        tokio::time::sleep_until(due.into()).await;
        each(at as usize, due).await;
    }
}

async fn sorted(mut running: JoinSet<anyhow::Result<f64>>) -> anyhow::Result<Vec<f64>> {
    let mut all = Vec::new();
    while let Some(ended) = running.join_next().await {
        all.push(ended??);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}

/// Waits until all is done, and counts it. Returns how long each answer took until it was seen, in
/// milliseconds.
async fn check(slack: &SimSlack, pool: &PgPool, commands: u32) -> anyhow::Result<Vec<f64>> {
    let all = commands as usize;
    let of = |wanted: fn(&str) -> bool| (0..all).filter(|n| wanted(&command(*n))).count();
    let forms = of(str::is_empty);
    let batches = of(|text| text.starts_with("reboot sim"));
    // Before the load everybody was introduced, and there was one batch.
    let before = PEOPLE + 1;
    let stored = before + all - forms;
    until(pool, "select count(*) from inbox where done_at is not null", stored).await?;
    until(pool, "select count(*) from inbox where last_error is not null", 0).await?;
    until(pool, "select count(*) from batch", batches + 1).await?;
    let unsent = "select count(*) from outbox where sent_at is null and digest_id is null";
    until(pool, unsent, 0).await.context("answers")?;
    until(pool, "select count(*) from card where message_id is null", 0).await.context("cards")?;
    let answers = stored - batches - 1;
    let calls = slack.calls("response_url") + slack.calls("chat.postEphemeral");
    ensure!(calls == answers, "{calls} answers to {answers} questions");
    ensure!(slack.calls("views.open") == forms, "{forms} forms");
    // By the database's clock: when the answer was seen, after the delivery was stored.
    let mut seen: Vec<f64> = sqlx::query_scalar(
        "select extract(epoch from outbox.sent_at - inbox.received_at)::float8 * 1000
         from inbox join outbox on outbox.key = 'slack:' || inbox.delivery || ':answer'
         where inbox.id > $1",
    )
    .bind(i64::try_from(before)?)
    .fetch_all(pool)
    .await?;
    ensure!(seen.len() == answers - PEOPLE, "{} answers can be told apart", seen.len());
    seen.sort_by(f64::total_cmp);
    Ok(seen)
}

/// Waits until a count is what it must become.
async fn until(pool: &PgPool, count: &str, wanted: usize) -> anyhow::Result<()> {
    let (started, wanted) = (Instant::now(), i64::try_from(wanted)?);
    loop {
        let found: i64 =
            sqlx::query_scalar(AssertSqlSafe(count.to_owned())).fetch_one(pool).await?;
        if found == wanted {
            return Ok(());
        }
        ensure!(started.elapsed() < LONG, "{found} instead of {wanted}: {count}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn row(name: &str, times: &[f64], seen: Option<&[f64]>) {
    let at = |part| percentile(times, part);
    print!("{name:<23} {:>8} {:>7.1} {:>7.1} {:>7.1}", times.len(), at(0.5), at(0.99), at(1.0));
    match seen {
        Some(seen) => {
            println!("      |  {:>16.1} {:>8.1}", percentile(seen, 0.5), percentile(seen, 0.99))
        }
        None => println!("      |"),
    }
}

fn login(number: usize) -> String {
    format!("p{number:03}")
}

/// A site whose owners never approve, so that each batch waits.
fn write_site(folder: &Path, slack: &SimSlack, mode: &str) -> anyhow::Result<()> {
    let mut hosts = String::from("name,owner,datacenter,rack,sku,bmc,credentials,groups\n");
    for number in 0..HOSTS {
        let host = bmcs::host(number, 9);
        writeln!(hosts, "{},sre,d1,r1,s1,{},{CREDENTIALS},sim", host.name, host.bmc.address)?;
    }
    fs::write(folder.join("hosts.csv"), hosts)?;
    let mut people = String::new();
    for number in 0..PEOPLE {
        let login = login(number);
        writeln!(
            people,
            "[[person]]\nlogin = \"{login}\"\nname = \"{login}\"\ngroups = [\"sre\"]\n\
             email = \"{login}@example.org\""
        )?;
        slack.change_user(&login, |_| {});
    }
    fs::write(folder.join("people.toml"), people)?;
    let config = format!(
        r#"
[http]
listen = "127.0.0.1:0"

[console]
enabled = false

[directory]
file = "people.toml"

[inventory]
file = "hosts.csv"

[credentials.{CREDENTIALS}]
user = "admin"
password = "never asked for"

[[allow]]
group = "sre"

[[approval]]
quorum = 1
from = ["owner"]

{}"#,
        slack.toml(mode)
    );
    fs::write(folder.join("metalbot.toml"), config)?;
    Ok(())
}
