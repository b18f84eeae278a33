//! The process dies at each fail-point, and another one goes on. Whatever the point: every job and
//! batch ends, no host is cycled twice by the rack's own log, and people and Jira hear of it once.
//!
//! Runs with the feature `failpoints`, which `make test` turns on.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]
#![cfg_attr(not(feature = "failpoints"), allow(dead_code))]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use metalbot::failpoint::Point;
use metalbot_store as store;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::process::{CHANNEL, LONG, Process, Setup, World};

/// web09 has another password than we know.
const HOSTS: [&str; 4] = ["web08", "web09", "web10", "web11"];
const BROKEN: &str = "web09";

/// What the reboots of each test die at.
const AREAS: [&[&str]; 6] = [
    &["inbox.", "seal."],
    &["rollout.", "lease."],
    // Of a host whose password is wrong nobody could say whether the dead one reached it.
    &["job.", "journal."],
    &["card.", "notice."],
    // Only the first failure of a kind makes a ticket.
    &["ticket.before"],
    &["ticket.after"],
];

/// Points around a chassis cycle, each with a host, how often it is cycled, and how its job ends. The
/// cycle leaves no trace in the power state: where its outcome is not in the journal, a person has to
/// look, and nothing is sent again.
const CYCLES: [(Point, &str, usize, &str); 8] = [
    (Point::CheckerBeforeCommit, "web19", 1, "succeeded"),
    (Point::JobBeforeIntent, "web12", 1, "succeeded"),
    (Point::JournalIntentWritten, "web13", 0, "quarantined"),
    (Point::JobAfterIntent, "web14", 0, "quarantined"),
    (Point::JobAfterAct, "web15", 1, "quarantined"),
    (Point::JournalBeforeOutcome, "web16", 1, "quarantined"),
    (Point::JournalOutcomeWritten, "web17", 1, "succeeded"),
    (Point::JobAfterOutcome, "web18", 1, "succeeded"),
];

/// How often a batch of four hosts surely comes by a point.
fn most(point: Point) -> u32 {
    match point {
        // The command and the approval.
        Point::InboxBeforeCommit | Point::InboxAfterCommit => 2,
        // Its start, its queueing and its end.
        Point::RolloutBeforeCommit => 3,
        // Three hosts with four steps each.
        Point::JobBeforeIntent
        | Point::JobAfterIntent
        | Point::JobAfterAct
        | Point::JobAfterOutcome => 12,
        // Steps of one host come after each other.
        Point::JournalIntentWritten
        | Point::JournalBeforeOutcome
        | Point::JournalOutcomeWritten => 4,
        // Approval, ticket and end.
        Point::NoticeBeforePost | Point::NoticeAfterPost => 3,
        _ => 1,
    }
}

/// A process, and after its death another one that is not to die.
struct Watched<'a> {
    world: &'a World,
    process: Process,
    point: Point,
    died: bool,
}

impl Watched<'_> {
    async fn start(world: &World, point: Point) -> Watched<'_> {
        let times = rand::random_range(1..=most(point));
        let failpoint = format!("{}*{times}", point.as_str());
        eprintln!("to die at {failpoint}");
        let process = world.serve_until(Some(&failpoint)).await;
        Watched { world, process, point, died: false }
    }

    /// Puts another process in the place of one that died.
    async fn look_after(&mut self) {
        if let Some(status) = self.process.ended() {
            let log = self.process.log();
            let last = log.lines().last().unwrap_or_default();
            assert_eq!(last, format!("dies at {}", self.point.as_str()), "{status}: {log}");
            self.process = self.world.serve().await;
            self.died = true;
        }
    }

    /// A person does something at the console, as often as it takes until it is accepted. It is the
    /// same delivery each time.
    async fn does(&mut self, who: &str, path: &str, mut body: Value) {
        body["delivery"] = format!("{:032x}", rand::random::<u128>()).into();
        let started = Instant::now();
        loop {
            self.look_after().await;
            let done = async {
                let person = self.process.try_sign_in(who).await?;
                person.post(path, body.clone()).await
            };
            match done.await {
                Ok(StatusCode::ACCEPTED) => return,
                other => assert!(started.elapsed() < LONG, "{who} cannot: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a query finds something.
    async fn until(&mut self, what: &str, query: &str) -> String {
        let started = Instant::now();
        loop {
            let found: Option<String> = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
                .fetch_optional(&self.world.pool)
                .await
                .unwrap();
            if let Some(found) = found {
                return found;
            }
            if started.elapsed() >= LONG {
                let said =
                    self.world.all("select body from console_message where bot order by id").await;
                let said = said.last().map(String::as_str).unwrap_or_default();
                panic!("{}: never {what}; the last word: {said}", self.point.as_str());
            }
            self.look_after().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Frees the host if nobody could say whether the dead process had done anything to it: its BMC
    /// does not let us look.
    async fn release(&mut self, host: &str) {
        let held = format!("select host from job where state = 'quarantined' and host = '{host}'");
        if self.world.all(&held).await.is_empty() {
            return;
        }
        let text = json!({ "channel": CHANNEL, "text": format!("/metal release {host}") });
        self.does("bob", "/console/send", text).await;
        let free = format!("select 'free' where not exists ({held})");
        self.until("free", &free).await;
    }

    /// Submits and approves a batch; returns its number when all is done and said.
    async fn batch(&mut self, command: &str) -> i64 {
        let before: i64 = self.world.one("select coalesce(max(id), 0) from batch").await;
        let text = json!({ "channel": CHANNEL, "text": command });
        self.does("alice", "/console/send", text).await;
        let card = "select message_id from card join batch on batch.id = batch_id
             where state = 'awaiting_approval' and message_id is not null and id > ";
        let card = format!("{card}{before}");
        let card = self.until("a card", &card).await;
        let reaction = json!({ "message": card, "name": "+1", "on": true });
        self.does("bob", "/console/react", reaction).await;
        let ended = "select id::text from batch where finished_at is not null and id > ";
        let id = self.until("an end", &format!("{ended}{before}")).await;
        let quiet = "select 'quiet' where not exists (
                 select from outbox where sent_at is null and refused_at is null)
             and not exists (select from card where rendered_version < version)
             and not exists (select from inbox where done_at is null)
             and not exists (select from ticket where jira_key is null or rendered_version < version)
             and not exists (select from ticket_comment where sent_at is null)
             and not exists (select from audit where not exists (
                 select from audit_seal where audit_id = audit.id))";
        self.until("quiet", quiet).await;
        self.look_after().await;
        assert!(self.died, "it never came by {}", self.point.as_str());
        id.parse().unwrap()
    }
}

/// What every batch must have come to, whatever died: its end, one card, each of its notices once.
async fn told_once(world: &World, batch: i64, hosts: &[&str]) {
    let open = format!(
        "select count(*) from job left join attempt on job_id = job.id and outcome is null
         where batch_id = {batch} and (ended_at is null or attempt.id is not null)"
    );
    assert_eq!(world.one::<i64>(&open).await, 0, "jobs or attempts without an end");
    let jobs = format!("select count(*) from job where batch_id = {batch}");
    assert_eq!(world.one::<i64>(&jobs).await, hosts.len() as i64);
    let notices = format!(
        "select 'bot:' || key from outbox
         where batch_id = {batch} and kind = 'notice' and sent_at is not null order by 1"
    );
    let posted = format!(
        "select key from console_message where bot and thread = (
             select message_id::bigint from card where batch_id = {batch}) order by 1"
    );
    let (notices, posted) = (world.all(&notices).await, world.all(&posted).await);
    assert!(notices.iter().any(|key| key.ends_with(":completed")), "{notices:?}");
    assert_eq!(notices, posted);
    let cards = format!("select key from console_message where key = 'bot:card:{batch}'");
    assert_eq!(world.all(&cards).await.len(), 1, "cards");
    let lost = "select key || ': ' || last_error from outbox where refused_at is not null";
    assert_eq!(world.all(lost).await, [""; 0]);
    let report = store::audit::verify(&mut world.pool.acquire().await.unwrap()).await.unwrap();
    assert_eq!(report.broken, None);
}

/// One cause, so one ticket, which tells of each batch; nothing is said in it twice.
async fn one_ticket(world: &World, batch: i64) {
    let tickets = world.jira.issues();
    assert_eq!(tickets.len(), 1, "{tickets:#?}");
    let page = format!("/batches/{batch}]");
    assert!(tickets[0].description.contains(&page), "{tickets:#?}");
    let said: BTreeSet<&String> = tickets[0].comments.iter().collect();
    assert_eq!(said.len(), tickets[0].comments.len(), "{tickets:#?}");
    let known = world.all("select jira_key from ticket").await;
    assert_eq!(known, [tickets[0].key.clone()]);
}

/// Dies at each point whose name begins so, each time in a reboot of its own.
async fn reboots_survive(areas: &[&str], broken: bool) {
    let world = World::start(Setup { lease: "2s", broken }).await;
    let points: Vec<Point> = Point::ALL
        .into_iter()
        .filter(|point| areas.iter().any(|area| point.as_str().starts_with(area)))
        .collect();
    assert!(!points.is_empty());
    for point in points {
        let before = HOSTS.map(|host| world.cycles(host));
        let mut watched = Watched::start(&world, point).await;
        let batch = watched.batch("/metal reboot web[08-11] reason=\"a crash\"").await;
        let name = point.as_str();
        told_once(&world, batch, &HOSTS).await;
        let state: String = world.one(&format!("select state from batch where id = {batch}")).await;
        assert_eq!(state, if broken { "partly_failed" } else { "succeeded" }, "{name}");
        for (host, (off, on)) in HOSTS.into_iter().zip(before) {
            let once = if broken && host == BROKEN { (off, on) } else { (off + 1, on + 1) };
            let history = world.history(host).await;
            assert_eq!(world.cycles(host), once, "{name}: cycles of {host}:\n{history}");
        }
        if broken {
            one_ticket(&world, batch).await;
            watched.release(BROKEN).await;
        }
        let (status, _) = watched.process.terminate().await;
        assert!(status.success(), "{status}");
    }
}

/// Dies at each point of the table, each time in a batch of one cycle.
async fn cycles_are_never_repeated() {
    let world = World::start(Setup { broken: false, ..Setup::default() }).await;
    let step = "[[steps]]\nrun = \"power\"\nto = \"cycle\"\ntitle = \"cycle\"\ndeadline = \"1m\"";
    let action = format!(
        "summary = \"Cycle\"\nrisk = \"disruptive\"\nchecks = [\"bmc_console\"]\n{step}\nretry = 3\n"
    );
    world.add_action("jolt", &action);
    for (point, host, cycles, state) in CYCLES {
        let name = point.as_str();
        let failpoint = format!("{name}*1");
        let process = world.serve_until(Some(&failpoint)).await;
        let mut watched = Watched { world: &world, process, point, died: false };
        let batch = watched.batch(&format!("/metal jolt {host} reason=\"a crash\"")).await;
        told_once(&world, batch, &[host]).await;
        let job = format!("select state from job where batch_id = {batch}");
        assert_eq!(world.one::<String>(&job).await, state, "{name}");
        // The simulated BMC turns the host on again a while after it has turned it off.
        let started = Instant::now();
        while world.cycles(host) != (cycles, cycles) && started.elapsed() < LONG {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(world.cycles(host), (cycles, cycles), "{name}: {}", world.history(host).await);
    }
}

macro_rules! with_failpoints {
    ($($name:ident: $test:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        #[cfg_attr(
            not(feature = "failpoints"),
            ignore = "run `make test`, or add `--features failpoints`"
        )]
        async fn $name() {
            $test.await
        }
    )*};
}

with_failpoints! {
    death_while_deliveries_are_worked_on_and_the_audit_is_sealed: reboots_survive(AREAS[0], true);
    death_while_a_batch_is_conducted: reboots_survive(AREAS[1], true);
    death_in_the_life_of_a_job: reboots_survive(AREAS[2], false);
    death_in_the_relays: reboots_survive(AREAS[3], true);
    death_before_a_ticket: reboots_survive(AREAS[4], true);
    death_after_a_ticket: reboots_survive(AREAS[5], true);
    death_around_a_cycle: cycles_are_never_repeated();
}

#[test]
fn every_point_has_a_test() {
    for point in Point::ALL {
        let tested = AREAS.concat().iter().any(|area| point.as_str().starts_with(area))
            || CYCLES.iter().any(|row| row.0 == point);
        assert!(tested, "{} is in no table", point.as_str());
    }
}
