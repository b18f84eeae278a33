//! A process stands still before and after each durable thing of each kind of step, when it begins the
//! step and when it looks. Meanwhile people stop the batch or take its approval back, or the process is
//! told to end; then it is killed, or goes on beside the one that has taken its place. By the BMC's own
//! log every act is done at most once.
//!
//! Runs with the feature `failpoints`, which `make test` turns on.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]
#![cfg_attr(not(feature = "failpoints"), allow(dead_code))]

use std::time::{Duration, Instant};

use metalbot::bmc::Power;
use metalbot::failpoint::Point;
use metalbot_sim::actor::SeenMessage;
use metalbot_sim::bmcs::Deed;
use metalbot_sim::person::ConsoleUser;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use reqwest::StatusCode;

use crate::harness::process::signal;
use crate::harness::wait::{is_soon, seeded};
use crate::harness::{Builder, Count, METAL, PATIENCE, Process, Site, until};

/// Points around a look at an act of a process that has died.
pub const LOOKS: [Point; 2] = [Point::LookBefore, Point::LookAfter];

/// Around the intent of an act; a step that only looks comes by none of them.
const INTENT: [Point; 3] =
    [Point::JobBeforeIntent, Point::JournalIntentWritten, Point::JobAfterIntent];

/// After a step was begun.
const BEGUN: [Point; 4] = [
    Point::JobAfterAct,
    Point::JournalBeforeOutcome,
    Point::JournalOutcomeWritten,
    Point::JobAfterOutcome,
];

/// A kind of step, in an action that has it.
struct Kind {
    action: &'static str,
    /// Its place among the acts of the plan, and among all steps; counted from 1.
    act: Option<usize>,
    step: usize,
    /// The hosts are on before.
    on: bool,
    /// What the whole action does.
    acts: &'static [Deed],
    /// Twice is as once, and nothing shows whether it was done: after a death it is done again.
    repeats: bool,
    /// Nothing shows whether it was done, and twice would be twice: a person has to look.
    once: bool,
}

const USUAL: Kind =
    Kind { action: "", act: Some(1), step: 1, on: true, acts: &[], repeats: false, once: false };
const REBOOT: Kind = Kind { action: "reboot", acts: &[Deed::Off, Deed::On], ..USUAL };
const REBOOT_ON: Kind = Kind { act: Some(2), step: 3, ..REBOOT };
const REBOOT_WAIT: Kind = Kind { act: None, step: 2, ..REBOOT };
const OFF: Kind = Kind { action: "power-off mode=hard", acts: &[Deed::Off], ..USUAL };
const SOFT: Kind = Kind { action: "power-off mode=soft", acts: &[Deed::Soft], ..USUAL };
const ON: Kind = Kind { action: "power-on", on: false, acts: &[Deed::On], ..USUAL };
const CYCLE: Kind = Kind { action: "jolt", acts: &[Deed::Cycle], once: true, ..USUAL };
const IDENTIFY: Kind =
    Kind { action: "identify for=30s", acts: &[Deed::Identify(30)], repeats: true, ..USUAL };
const BOOT: Kind =
    Kind { action: "pxe", acts: &[Deed::Boot([0x80, 0x04, 0, 0, 0])], repeats: true, ..USUAL };

const KINDS: [&Kind; 9] =
    [&REBOOT, &REBOOT_ON, &REBOOT_WAIT, &OFF, &SOFT, &ON, &CYCLE, &IDENTIFY, &BOOT];

/// What the site adds to the shipped actions: the kinds of steps that these do not have.
fn action(step: &str) -> String {
    format!(
        "summary = \"A step\"\nrisk = \"disruptive\"\n\n\
         [[steps]]\n{step}\ntitle = \"do it\"\ndeadline = \"1m\"\nretry = 3\n"
    )
}

/// What is said while the process stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    /// The batch is cancelled, and that is confirmed or not before the process goes on.
    Cancel { confirmed: bool },
    /// The approval is taken back, before the batch has begun.
    TakeBack,
    /// The process is told to end.
    End,
}

/// What becomes of the process then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Killed,
    GoesOn,
}

struct Case {
    kind: &'static Kind,
    point: Point,
    word: Word,
    fate: Fate,
}

impl Kind {
    /// Each point that the step comes by, with each word that can be said there.
    fn cases(&'static self, random: &mut StdRng) -> Vec<Case> {
        let mut points = BEGUN.to_vec();
        if self.act.is_some() {
            points.extend(INTENT.into_iter().chain(LOOKS));
        }
        let mut cases = Vec::new();
        for point in points {
            let mut words = vec![Word::Cancel { confirmed: random.random() }, Word::End];
            let begins = self.act == Some(1) && point == Point::JobBeforeIntent;
            if begins && self.acts != IDENTIFY.acts {
                words.push(Word::TakeBack);
            }
            for word in words {
                let fate = *[Fate::Killed, Fate::GoesOn].choose(random).unwrap();
                cases.push(Case { kind: self, point, word, fate });
            }
        }
        cases
    }

    /// The point, as often as the step has come by it.
    fn at(&self, point: Point) -> String {
        let times = if INTENT.contains(&point) { self.act.unwrap() } else { self.step };
        format!("{}*{times}", point.as_str())
    }
}

/// Where people are. Workers come and go beside it.
struct Stage {
    site: Site,
    alice: ConsoleUser,
    bob: ConsoleUser,
    _web: Process,
}

impl Stage {
    async fn says(&self, text: &str) {
        let status = self.alice.say(METAL, text).await.unwrap();
        assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    }

    /// Bob approves, or takes that back.
    async fn approves(&self, card: &SeenMessage, on: bool) {
        let status = self.bob.react(&card.id, "+1", on).await.unwrap();
        assert_eq!(status, StatusCode::ACCEPTED, "{card:?}");
    }

    /// Waits until it has come so far with a batch, and says how far it has come otherwise.
    async fn until(&self, batch: i64, what: &str, holds: impl AsyncFnMut() -> bool) {
        if !is_soon(holds).await {
            let (state, jobs) =
                (self.site.db.batch_state(batch).await, self.site.db.jobs(batch).await);
            let audit = self.site.db.audit(batch).await;
            panic!("never {what}: {state} {jobs:?}\n{audit}\n{}", self.site.logs());
        }
    }

    /// Submits a batch of one host and approves it if need be; returns its number and its card.
    async fn submit(&self, command: &str, harmless: bool) -> (i64, SeenMessage) {
        let batch = self.site.db.newest_batch().await + 1;
        self.says(command).await;
        let wanted = |card: &SeenMessage| harmless || !card.buttons().is_empty();
        let card = self.alice.card(METAL, batch, PATIENCE, wanted).await.unwrap();
        if !harmless {
            self.approves(&card, true).await;
        }
        (batch, card)
    }

    /// Waits until people were told that a batch is cancelled, or it has ended before.
    async fn is_cancelled(&self, batch: i64, card: &SeenMessage) {
        let confirms = format!("cancelled #{batch}");
        until(&confirms, async || {
            let thread = self.alice.messages(METAL, Some(&card.id)).await.unwrap();
            thread.iter().any(|message| message.text.contains(&confirms))
                || self.site.db.batch_state(batch).await == "succeeded"
        })
        .await;
    }
}

impl Case {
    async fn run(&self, stage: &Stage, bmc: usize) {
        let Case { kind, point, word, fate } = self;
        let site = &stage.site;
        let host = site.bmcs().host(bmc).name;
        let what = format!("{} of {host} at {}, {word:?}, {fate:?}", kind.action, kind.at(*point));
        eprintln!("{what}");
        if !kind.on {
            site.bmcs().set_power(bmc, Power::Off);
        }
        let (action, arguments) = kind.action.split_once(' ').unwrap_or((kind.action, ""));
        let command = format!("/metal {action} {host} {arguments}");

        let looks = LOOKS.contains(point);
        let failpoint = match looks {
            true => kind.at(Point::JobAfterAct),
            false => format!("stand:{}", kind.at(*point)),
        };
        let mut frozen = site.worker_until(&failpoint).await;
        let (batch, card) = stage.submit(&command, kind.acts == IDENTIFY.acts).await;
        if looks {
            until("the death of the first", async || frozen.ended().is_some()).await;
            frozen = site.worker_until(&format!("stand:{}", point.as_str())).await;
        }
        let stands = async || frozen.log().contains("stands still at");
        stage.until(batch, &format!("a process that stands still, {what}"), stands).await;
        let mut stopped = None;
        match word {
            Word::Cancel { confirmed } => {
                stage.says(&format!("/metal cancel {batch}")).await;
                if *confirmed {
                    stage.is_cancelled(batch, &card).await;
                    stopped = Some(Instant::now());
                }
            }
            Word::TakeBack => {
                stage.approves(&card, false).await;
                // It only pauses while a worker has the job.
                let waits = async || {
                    let state = site.db.batch_state(batch).await;
                    ["paused", "awaiting_approval"].contains(&&state[..])
                };
                stage.until(batch, &format!("a batch that waits again, {what}"), waits).await;
                stopped = Some(Instant::now());
            }
            Word::End => signal("TERM", frozen.id()),
        }
        let going_on = match fate {
            Fate::Killed => {
                if *word == Word::End {
                    frozen.thaw();
                    let some = rand::random_range(0..300);
                    tokio::time::sleep(Duration::from_millis(some)).await;
                }
                frozen.kill9();
                None
            }
            Fate::GoesOn => {
                frozen.thaw();
                Some(frozen)
            }
        };
        let successor = site.serve_roles("worker").await;
        if *word == Word::TakeBack {
            let given_back = async || site.db.job_states(batch).await == ["pending"];
            stage.until(batch, &format!("a job that was given back, {what}"), given_back).await;
            stage.says(&format!("/metal cancel {batch}")).await;
        }
        let ended = async || site.db.ended_state(batch).await.unwrap().is_some();
        stage.until(batch, &format!("the end of the batch, {what}"), ended).await;
        site.db.until(Count::HostsHeld, 0).await;
        for process in going_on.into_iter().chain([successor]) {
            let (status, _) = process.terminate().await;
            assert!(status.success(), "{what}: {status}");
        }
        self.check(site, bmc, batch, stopped, &what).await;
    }

    /// What must hold when everything has ended that could still have acted.
    async fn check(
        &self,
        site: &Site,
        bmc: usize,
        batch: i64,
        stopped: Option<Instant>,
        what: &str,
    ) {
        let Case { kind, word, .. } = self;
        let mut deeds = site.bmcs().deeds(bmc);
        let history = site.db.attempts(site.bmcs().host(bmc).name.as_str()).await;
        let what = format!("{what}: {deeds:?} {history:#?}");
        let states = site.db.job_states(batch).await;
        let state = states[0].as_str();
        assert!(
            state == "quarantined" && kind.once || ["succeeded", "cancelled"].contains(&state),
            "{state} {what}"
        );
        if kind.repeats {
            deeds.dedup();
        }
        assert!(deeds.is_empty() || deeds == kind.acts, "{what}");
        let finishes = |deed| kind.acts == REBOOT.acts && deed == Deed::On;
        let mut acts = site.bmcs().acts().into_iter().filter(|act| act.bmc == bmc);
        let late = acts.any(|act| stopped.is_some_and(|at| act.at > at) && !finishes(act.deed));
        assert!(!late, "something was begun after people were told that it is stopped: {what}");
        match word {
            Word::TakeBack => assert_eq!(deeds, [], "{what}"),
            Word::End if state == "succeeded" => assert_eq!(deeds, kind.acts, "{what}"),
            Word::End => assert_eq!(state, "quarantined", "{what}"),
            Word::Cancel { .. } => {}
        }
        if kind.acts == REBOOT.acts {
            assert_eq!(site.bmcs().power(bmc), Power::On, "{what}");
        }
    }
}

/// Goes through these cases, each with a host of its own.
async fn go_through(cases: &[Case]) {
    let site = Builder::processes()
        .bmcs(cases.len())
        .action("jolt", action("run = \"power\"\nto = \"cycle\""))
        .action("pxe", action("run = \"boot_device\"\ndevice = \"pxe\""))
        .site()
        .await;
    let web = site.serve_roles("web,relay").await;
    let (alice, bob) = (web.sign_in("alice").await, web.sign_in("bob").await);
    let stage = Stage { site, alice, bob, _web: web };
    for (bmc, case) in cases.iter().enumerate() {
        case.run(&stage, bmc).await;
    }
    // Some batches have ended, and what follows is for a worker.
    let last = stage.site.serve_roles("worker").await;
    stage.site.settled().await;
    let (status, _) = last.terminate().await;
    assert!(status.success(), "{status}");
    stage.site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "failpoints"), ignore = "run `make test`, or add `--features failpoints`")]
async fn a_word_that_comes_while_a_process_stands_at_some_point_of_some_step() {
    let mut random = seeded();
    let kind = KINDS.choose(&mut random).unwrap();
    let mut cases = kind.cases(&mut random);
    while cases.len() > 3 {
        cases.swap_remove(random.random_range(0..cases.len()));
    }
    go_through(&cases).await;
}

macro_rules! every_point_of {
    ($($name:ident: $kind:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "long: `make test-long`"]
        async fn $name() {
            go_through(&$kind.cases(&mut seeded())).await;
        }
    )*};
}

every_point_of! {
    a_word_at_every_point_of_a_reboot: REBOOT;
    a_word_at_every_point_of_the_turning_on_in_a_reboot: REBOOT_ON;
    a_word_at_every_point_of_a_wait: REBOOT_WAIT;
    a_word_at_every_point_of_a_cut_of_the_power: OFF;
    a_word_at_every_point_of_a_request_to_shut_down: SOFT;
    a_word_at_every_point_of_a_turning_on: ON;
    a_word_at_every_point_of_a_cycle: CYCLE;
    a_word_at_every_point_of_an_identify_lamp: IDENTIFY;
    a_word_at_every_point_of_a_boot_device: BOOT;
}
