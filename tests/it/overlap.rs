//! Submissions of the same hosts at the same instant, through the intake of two processes' pools:
//! exactly one wins, and whatever happens no host has two live jobs.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metalbot::app::console_message::{self, By};
use metalbot::app::intake::{Decode, Decoders, work_on_next};
use metalbot::app::{App, Reactions};
use metalbot::config::Config;
use metalbot::serve::site;
use metalbot_core::command::CommandLimits;
use metalbot_core::domain::time_zone::Zone;
use metalbot_sim::fleet;
use metalbot_store as store;
use sqlx::PgPool;
use tokio::sync::Barrier;

use crate::harness::{Count, Database, METAL};

/// As many as a small and a large submission need; more than 128 lock the fleet.
const HOSTS: usize = 400;

/// People who submit at the same instant.
const RACERS: usize = 16;

fn racer_login(number: usize) -> String {
    format!("racer{number}")
}

struct Door {
    pools: [PgPool; 2],
    app: Arc<App>,
    decoders: Arc<Decoders>,
    db: Database,
    _folder: tempfile::TempDir,
}

impl Door {
    async fn open() -> Door {
        metalbot::use_ring();
        let db = Database::new().await;
        let pools = [(); 2].map(|()| {
            let role = store::PoolRole::Service { statement_timeout: Duration::from_secs(30) };
            store::connect_lazy(&db.address(), 4, role)
        });
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let listen = ([127, 0, 0, 1], 0).into();
        let toml = fleet::metalbot_toml(listen, "http://127.0.0.1:1", "none");
        std::fs::write(file("metalbot.toml"), toml).unwrap();
        let mut people = fleet::people_toml(None);
        for racer in 0..RACERS {
            let login = racer_login(racer);
            people += &format!("[[person]]\nlogin = \"{login}\"\nname = \"{login}\"\n");
            people += "groups = [\"sre\"]\n";
        }
        std::fs::write(file("people.toml"), people).unwrap();
        let mut hosts = "name,owner,datacenter,rack,sku,bmc,credentials,groups\n".to_owned();
        for number in 1..=HOSTS {
            hosts += &format!("n{number:03},web-owners,fra1,r11,s,10.0.0.1:{number},rack,web\n");
        }
        std::fs::write(file("hosts.csv"), hosts).unwrap();
        let config = Config::load(&file("metalbot.toml")).unwrap();
        let loaded = site::load(&config).unwrap();
        let app = App {
            platforms: HashMap::new(),
            catalog: loaded.catalog,
            inventory: loaded.inventory,
            directory: loaded.directory,
            policy: config.policy(),
            approvals: config.approval.clone(),
            limits: CommandLimits {
                max_hosts: HOSTS,
                max_text: config.limits.max_text,
                reason_required: config.limits.reason_required,
                countdown: config.rollout.countdown,
                zone: Zone::default(),
            },
            reactions: Reactions { approve: vec![], reject: vec![] },
            approver_mentions: Vec::new(),
            remind_before: Duration::ZERO,
        };
        let decoders =
            HashMap::from([(console_message::PLATFORM, console_message::decode as Decode)]);
        Door { pools, app: Arc::new(app), decoders: Arc::new(decoders), db, _folder: folder }
    }

    async fn say(&self, login: &str, text: &str) {
        let delivery = format!("{:032x}", rand::random::<u128>());
        let by = By { login, delivery: &delivery };
        console_message::say(&self.pools[0], by, METAL, None, text).await.unwrap();
    }

    /// Delivers these submissions at the same instant, each in a transaction of its own; returns
    /// the state of each and clears the field.
    async fn race(&self, submissions: &[String]) -> Vec<String> {
        // One person's deliveries are worked on one after the other: racers are different people.
        for (racer, text) in submissions.iter().enumerate() {
            self.say(&racer_login(racer), text).await;
        }
        let barrier = Arc::new(Barrier::new(submissions.len()));
        let racers = (0..submissions.len()).map(|number| {
            let (barrier, app) = (Arc::clone(&barrier), Arc::clone(&self.app));
            let (pool, decoders) = (self.pools[number % 2].clone(), Arc::clone(&self.decoders));
            tokio::spawn(async move {
                barrier.wait().await;
                // One that finds nothing has met rows that others had locked.
                assert!(work_on_next(&pool, &app, &decoders).await.unwrap());
            })
        });
        for racer in racers.collect::<Vec<_>>() {
            racer.await.unwrap();
        }
        self.invariants().await;
        let states = self.db.newest_batches(submissions.len()).await;
        for (id, state, submitter) in &states {
            if state == "awaiting_approval" {
                self.say(submitter, &format!("/metal cancel {id}")).await;
                assert!(work_on_next(&self.pools[0], &self.app, &self.decoders).await.unwrap());
            }
        }
        assert_eq!(self.db.count(Count::JobsPending).await, 0);
        states.into_iter().map(|(_, state, _)| state).collect()
    }

    async fn invariants(&self) {
        assert_eq!(self.db.count(Count::HostsHeldTwice).await, 0);
        assert_eq!(self.db.count(Count::BatchesTorn).await, 0);
        assert_eq!(self.db.count(Count::DeliveriesNotDoneAtOnce).await, 0);
    }

    async fn no_deadlocks(&self) {
        assert_eq!(self.db.count(Count::Deadlocks).await, 0);
    }
}

fn reboot(hosts: &str) -> String {
    format!("/metal reboot {hosts} reason=\"a race\"")
}

fn accepted(states: &[String]) -> usize {
    let others = states.iter().filter(|state| *state != "awaiting_approval");
    others.clone().for_each(|state| assert_eq!(state, "refused"));
    states.len() - others.count()
}

/// Two submissions of the same hosts have one winner, so many times.
async fn the_same_hosts(times: usize) {
    let door = Door::open().await;
    for _ in 0..times {
        let same = reboot("n[001-012]");
        assert_eq!(accepted(&door.race(&[same.clone(), same]).await), 1);
    }
    door.no_deadlocks().await;
}

/// Partial overlaps of three in any order never deadlock.
async fn partial_overlaps(times: usize) {
    let door = Door::open().await;
    for _ in 0..times {
        // Each pair shares hosts, in opposite orders: one wins, or none of the others fits.
        let three = ["n[001-010]", "n[010,009,011-020]", "n[020,019,001]"].map(reboot);
        assert_eq!(accepted(&door.race(&three).await), 1);
        // The outer two are apart: they win together, or the middle one wins alone.
        let chain = ["n[001-010]", "n[010-020]", "n[020-030]"].map(reboot);
        assert!([1, 2].contains(&accepted(&door.race(&chain).await)));
    }
    door.no_deadlocks().await;
}

/// A submission that locks the fleet races small ones.
async fn large_and_small(times: usize) {
    let door = Door::open().await;
    for _ in 0..times {
        let mixed = ["n[001-200]", "n[190-210]", "n[150-400]", "n[001]", "n[400]"].map(reboot);
        let won = accepted(&door.race(&mixed).await);
        assert!((1..=3).contains(&won), "{won} of them won");
        let large = ["n[001-200]", "n[101-400]"].map(reboot);
        assert_eq!(accepted(&door.race(&large).await), 1);
    }
    door.no_deadlocks().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_submissions_of_the_same_hosts_have_one_winner() {
    the_same_hosts(40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_overlaps_of_three_in_any_order_never_deadlock() {
    partial_overlaps(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_locks_the_fleet_races_small_ones() {
    large_and_small(10).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn two_submissions_of_the_same_hosts_have_one_winner_1000_times() {
    the_same_hosts(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn partial_overlaps_of_three_in_any_order_never_deadlock_500_times() {
    partial_overlaps(500).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn a_submission_that_locks_the_fleet_races_small_ones_100_times() {
    large_and_small(100).await;
}
