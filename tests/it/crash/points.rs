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
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::step_points::LOOKS;
use crate::harness::{Count, Database, METAL, PATIENCE, Process, Site, until};

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

/// The points that `make test` dies at; `make test-long` dies at all of them.
const SHORT: [Point; 8] = [
    Point::InboxAfterCommit,
    Point::RolloutBeforeCommit,
    Point::JobAfterIntent,
    Point::JobAfterAct,
    Point::JournalOutcomeWritten,
    Point::NoticeAfterPost,
    Point::TicketBeforeCreate,
    Point::TicketAfterCreate,
];

/// How many of the points a test dies at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Depth {
    Short,
    Long,
}

impl Depth {
    fn includes(self, point: Point) -> bool {
        self == Depth::Long || SHORT.contains(&point)
    }
}

/// How often a batch of four hosts surely comes by a point.
fn most(point: Point) -> u32 {
    match point {
        // The command and the approval.
        Point::InboxBeforeCommit | Point::InboxAfterCommit => 2,
        // Its start, its queueing and its end.
        Point::RolloutBeforeCommit => 3,
        // Three hosts with two acts each, and two steps that only look.
        Point::JobBeforeIntent | Point::JobAfterIntent => 6,
        Point::JobAfterAct | Point::JobAfterOutcome => 12,
        // Steps of one host come after each other.
        Point::JournalIntentWritten => 2,
        Point::JournalBeforeOutcome | Point::JournalOutcomeWritten => 4,
        // Approval, ticket and end.
        Point::NoticeBeforePost | Point::NoticeAfterPost => 3,
        _ => 1,
    }
}

/// A process, and after its death another one that is not to die.
struct Watched<'a> {
    site: &'a Site,
    process: Process,
    point: Point,
    died: bool,
}

impl Watched<'_> {
    async fn start(site: &Site, point: Point) -> Watched<'_> {
        let times = rand::random_range(1..=most(point));
        let failpoint = format!("{}*{times}", point.as_str());
        eprintln!("to die at {failpoint}");
        let process = site.serve_until(Some(&failpoint)).await;
        Watched { site, process, point, died: false }
    }

    /// Puts another process in the place of one that died.
    async fn look_after(&mut self) {
        if let Some(status) = self.process.ended() {
            let log = self.process.log();
            let last = log.lines().last().unwrap_or_default();
            assert_eq!(last, format!("dies at {}", self.point.as_str()), "{status}: {log}");
            self.process = self.site.serve().await;
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
                other => assert!(started.elapsed() < PATIENCE, "{who} cannot: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until there is something, and puts another process in the place of one that dies.
    async fn until<T>(
        &mut self,
        what: &str,
        mut look: impl AsyncFnMut(&Database) -> Option<T>,
    ) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look(&self.site.db).await {
                return found;
            }
            if started.elapsed() >= PATIENCE {
                let said = self.site.db.last_word().await;
                panic!("{}: never {what}; the last word: {said}", self.point.as_str());
            }
            self.look_after().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing of this is left.
    async fn until_none(&mut self, left: Count) {
        let none = async |db: &Database| (db.count(left).await == 0).then_some(());
        self.until(&format!("without {left:?}"), none).await;
    }

    /// Frees the host if nobody could say whether the dead process had done anything to it: its BMC
    /// does not let us look.
    async fn release(&mut self, host: &str) {
        if self.site.db.count(Count::HostsQuarantined).await == 0 {
            return;
        }
        let text = json!({ "channel": METAL, "text": format!("/metal release {host}") });
        self.does("bob", "/console/send", text).await;
        self.until_none(Count::HostsQuarantined).await;
    }

    /// Submits and approves a batch; returns its number when all is done and said.
    async fn batch(&mut self, command: &str) -> i64 {
        let before = self.site.db.newest_batch().await;
        let text = json!({ "channel": METAL, "text": command });
        self.does("alice", "/console/send", text).await;
        let (batch, card) =
            self.until("a card", async |db: &Database| db.card_after(before).await).await;
        let reaction = json!({ "message": card, "name": "+1", "on": true });
        self.does("bob", "/console/react", reaction).await;
        let end = async |db: &Database| db.ended_state(batch).await.unwrap();
        self.until("an end", end).await;
        for left in [
            Count::Unsent,
            Count::CardsStale,
            Count::DeliveriesNotDone,
            Count::TicketsNotWritten,
            Count::AuditRowsNotSealed,
        ] {
            self.until_none(left).await;
        }
        self.look_after().await;
        assert!(self.died, "it never came by {}", self.point.as_str());
        batch
    }
}

/// What every batch must have come to, whatever died: its end, one card, each of its notices once.
async fn told_once(site: &Site, batch: i64, hosts: &[&str]) {
    assert_eq!(site.db.unfinished(batch).await, [""; 0]);
    assert_eq!(site.db.outcomes(batch).await.len(), hosts.len());
    let notices: Vec<String> =
        site.db.told(batch).await.iter().map(|key| format!("bot:{key}")).collect();
    assert!(notices.iter().any(|key| key.ends_with(":completed")), "{notices:?}");
    assert_eq!(notices, site.db.said_in_the_thread(batch).await);
    assert_eq!(site.db.cards(batch).await, 1);
    assert_eq!(site.db.refused().await, [""; 0]);
    site.db.check_audit().await;
}

/// One cause, so one ticket, which tells of each batch; nothing is said in it twice.
async fn one_ticket(site: &Site, batch: i64) {
    let tickets = site.jira.issues();
    assert_eq!(tickets.len(), 1, "{tickets:#?}");
    let page = format!("/batches/{batch}]");
    assert!(tickets[0].description.contains(&page), "{tickets:#?}");
    let said: BTreeSet<&String> = tickets[0].comments.iter().collect();
    assert_eq!(said.len(), tickets[0].comments.len(), "{tickets:#?}");
    assert_eq!(site.db.ticket_keys().await, [tickets[0].key.clone()]);
}

/// Dies at each point whose name begins so, each time in a reboot of its own.
async fn reboots_survive(depth: Depth, areas: &[&str], broken: bool) {
    let site = if broken { Site::start().await } else { Site::sound().await };
    let points: Vec<Point> = Point::ALL
        .into_iter()
        .filter(|point| depth.includes(*point))
        .filter(|point| areas.iter().any(|area| point.as_str().starts_with(area)))
        .collect();
    assert!(!points.is_empty());
    for point in points {
        let before = HOSTS.map(|host| site.cycles(host));
        let mut watched = Watched::start(&site, point).await;
        let batch = watched.batch("/metal reboot web[08-11] reason=\"a crash\"").await;
        let name = point.as_str();
        told_once(&site, batch, &HOSTS).await;
        let state = site.db.batch_state(batch).await;
        assert_eq!(state, if broken { "partly_failed" } else { "succeeded" }, "{name}");
        for (host, (off, on)) in HOSTS.into_iter().zip(before) {
            let once = if broken && host == BROKEN { (off, on) } else { (off + 1, on + 1) };
            let history = site.history(host).await;
            assert_eq!(site.cycles(host), once, "{name}: cycles of {host}:\n{history}");
        }
        if broken {
            one_ticket(&site, batch).await;
            watched.release(BROKEN).await;
        }
        site.settled().await;
        let (status, _) = watched.process.terminate().await;
        assert!(status.success(), "{status}");
    }
    site.finish().await;
}

/// Dies at each point of the table, each time in a batch of one cycle.
async fn cycles_are_never_repeated(depth: Depth) {
    let site = Site::sound().await;
    let step = "[[steps]]\nrun = \"power\"\nto = \"cycle\"\ntitle = \"cycle\"\ndeadline = \"1m\"";
    let action = format!(
        "summary = \"Cycle\"\nrisk = \"disruptive\"\nchecks = [\"bmc_console\"]\n{step}\nretry = 3\n"
    );
    site.add_action("jolt", &action);
    for (point, host, cycles, state) in CYCLES.into_iter().filter(|row| depth.includes(row.0)) {
        let name = point.as_str();
        let failpoint = format!("{name}*1");
        let process = site.serve_until(Some(&failpoint)).await;
        let mut watched = Watched { site: &site, process, point, died: false };
        let batch = watched.batch(&format!("/metal jolt {host} reason=\"a crash\"")).await;
        told_once(&site, batch, &[host]).await;
        assert_eq!(site.db.job_states(batch).await, [state], "{name}");
        // The simulated BMC turns the host on again a while after it has turned it off.
        let what = format!("{cycles} cycles of {host} after {name}");
        until(&what, async || site.cycles(host) == (cycles, cycles)).await;
    }
    site.finish().await;
}

macro_rules! dies_at {
    ($($name:ident: $depth:ident => $test:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        #[cfg_attr(
            not(feature = "failpoints"),
            ignore = "run `make test`, or add `--features failpoints`"
        )]
        async fn $name() {
            let $depth = Depth::Short;
            $test.await
        }

        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            #[ignore = "long: `make test-long`"]
            async fn at_every_point() {
                use super::*;
                let $depth = Depth::Long;
                $test.await
            }
        }
    )*};
}

dies_at! {
    death_while_deliveries_are_worked_on_and_the_audit_is_sealed:
        depth => reboots_survive(depth, AREAS[0], true);
    death_while_a_batch_is_conducted: depth => reboots_survive(depth, AREAS[1], true);
    death_in_the_life_of_a_job: depth => reboots_survive(depth, AREAS[2], false);
    death_in_the_relays: depth => reboots_survive(depth, AREAS[3], true);
    death_before_a_ticket: depth => reboots_survive(depth, AREAS[4], true);
    death_after_a_ticket: depth => reboots_survive(depth, AREAS[5], true);
    death_around_a_cycle: depth => cycles_are_never_repeated(depth);
}

#[test]
fn every_point_has_a_test() {
    for point in Point::ALL {
        let tested = AREAS.concat().iter().any(|area| point.as_str().starts_with(area))
            || LOOKS.contains(&point)
            || CYCLES.iter().any(|row| row.0 == point);
        assert!(tested, "{} is in no table", point.as_str());
    }
}
