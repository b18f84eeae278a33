//! The world of one test: the real service on a database of its own, around it a simulated site.
//! Tests act as persons and compare what these are told.
//!
//! Invariant: [`World::finish`] lets no test pass that leaves something unsent, a lease, a broken
//! or unsealed audit, or a task that panicked.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use insta::internals::SettingsBindDropGuard;
use metalbot::app::App;
use metalbot::bmc::Power;
use metalbot::config::Config;
use metalbot::serve::roles::Roles;
use metalbot::serve::service::Service;
use metalbot::serve::site;
use metalbot_core::domain::host::HostName;
use metalbot_demo::switch;
use metalbot_sim::actor::SeenMessage;
use metalbot_sim::fleet;
use metalbot_sim::jira::{SimJira, Ticket};
use metalbot_sim::person::ConsoleUser;
use metalbot_sim::rack::{BmcFault, Rack};
use metalbot_sim::slack::SimSlack;
use metalbot_store as store;
use reqwest::StatusCode;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgPool};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Where everybody acts.
pub const METAL: &str = "metal";
/// Nothing that a test waits for takes longer, on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

const TOKEN: &str = "demo";
/// Nothing listens there.
const DEAD_PORT: u16 = 9;

/// What a test wants its world to be.
pub struct Builder {
    rack: bool,
    faults: Vec<(&'static str, Option<BmcFault>)>,
    toml: Vec<(String, String)>,
    more_toml: String,
    slack: Option<&'static str>,
    elsewhere: Option<&'static str>,
}

impl Builder {
    /// Slack has another workspace or organisation with the app, under this id.
    pub fn elsewhere(mut self, team: &'static str) -> Self {
        self.elsewhere = Some(team);
        self
    }

    /// The site has a Slack, whose deliveries come by this mode.
    pub fn slack(mut self, mode: &'static str) -> Self {
        self.slack = Some(mode);
        self
    }

    /// The site has machines: BMCs that answer. Without them nothing is at any BMC's address.
    pub fn rack(mut self) -> Self {
        self.rack = true;
        self
    }

    /// Another fault of a host than the fleet's.
    pub fn fault(mut self, host: &'static str, fault: impl Into<Option<BmcFault>>) -> Self {
        self.faults.push((host, fault.into()));
        self
    }

    /// Replaces a part of the configuration.
    pub fn replace(mut self, old: &str, new: &str) -> Self {
        self.toml.push((old.into(), new.into()));
        self
    }

    /// Adds sections to the configuration.
    pub fn append(mut self, toml: &str) -> Self {
        self.more_toml += toml;
        self
    }

    /// Other rules for what is not harmless.
    pub fn approval(self, rule: &str) -> Self {
        let usual = "quorum = 1\nfrom = [\"owner\"]\nexpires = \"1h\"\n";
        self.replace(usual, rule)
    }

    /// Starts it all.
    pub async fn start(self) -> World {
        metalbot::use_ring();
        watch_panics();
        let (server, name, database_url) = new_database().await;
        let folder = tempfile::tempdir().expect("a folder for the test");
        let mut servers = fleet::servers(next_subnet());
        for (host, fault) in &self.faults {
            let server = servers.iter_mut().find(|server| server.name.as_str() == *host);
            server.expect("a host of the fleet").fault = *fault;
        }
        let rack = match self.rack {
            true => Some(start_rack(&folder, &servers).await),
            false => None,
        };
        let port = rack.as_ref().map_or(DEAD_PORT, Rack::port);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let jira = SimJira::start(listener, TOKEN).unwrap();

        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut toml = fleet::metalbot_toml(listen, &jira.url(), TOKEN);
        for (old, new) in &self.toml {
            assert!(toml.contains(old), "the configuration has no {old:?}:\n{toml}");
            toml = toml.replace(old, new);
        }
        let slack = match self.slack {
            Some(_) => Some(SimSlack::start().await.unwrap()),
            None => None,
        };
        let elsewhere = slack.as_ref().zip(self.elsewhere).map(|(slack, id)| slack.workspace(id));
        if let (Some(slack), Some(mode)) = (&slack, self.slack) {
            toml += &slack.toml(mode);
            for slack in std::iter::once(slack).chain(&elsewhere) {
                slack.wait_for_acks(PATIENCE);
            }
        }
        let file = folder.path().join("metalbot.toml");
        std::fs::write(&file, toml + "\n" + &self.more_toml).unwrap();
        std::fs::write(folder.path().join("people.toml"), fleet::people_toml(None)).unwrap();
        let hosts = fleet::inventory_csv(&servers, port);
        std::fs::write(folder.path().join("hosts.csv"), hosts).unwrap();
        let config = Config::load(&file).unwrap_or_else(|error| panic!("{error}"));

        let service = Service::start(&config, &database_url, Roles::ALL, switch::options()).await;
        let service = service.unwrap_or_else(|error| panic!("{error:#}"));
        let base = format!("http://{}", service.address.expect("a web door"));
        match (&slack, self.slack) {
            (Some(slack), Some("socket")) => slack.connected(1).await.unwrap(),
            (Some(slack), _) => slack.use_http(&format!("{base}/slack/events")),
            (None, _) => {}
        }
        let pool = PgPoolOptions::new().max_connections(4).connect(&database_url).await.unwrap();
        let become_one = async |login| {
            ConsoleUser::become_one(&base, login).await.expect("a seat at the console")
        };
        World {
            alice: become_one("alice").await,
            bob: become_one("bob").await,
            carol: become_one("carol").await,
            dave: become_one("dave").await,
            base,
            pool,
            jira,
            slack,
            elsewhere,
            config,
            database_url,
            service,
            rack,
            folder,
            server,
            database: name,
            _filters: filters(),
        }
    }
}

/// A running world.
pub struct World {
    /// SRE.
    pub alice: ConsoleUser,
    /// Owns web.
    pub bob: ConsoleUser,
    /// SRE.
    pub carol: ConsoleUser,
    /// Owns db.
    pub dave: ConsoleUser,
    /// Address of the console.
    pub base: String,
    /// The test's own connections.
    pub pool: PgPool,
    pub jira: SimJira,
    slack: Option<SimSlack>,
    elsewhere: Option<SimSlack>,
    config: Config,
    database_url: String,
    service: Service,
    rack: Option<Rack>,
    folder: TempDir,
    server: PgConnectOptions,
    database: String,
    _filters: SettingsBindDropGuard,
}

impl World {
    /// Without machines, and with the demo's rules.
    pub async fn start() -> World {
        World::builder().start().await
    }

    /// With machines, and with the demo's rules.
    pub async fn with_rack() -> World {
        World::builder().rack().start().await
    }

    pub fn builder() -> Builder {
        Builder {
            rack: false,
            faults: Vec::new(),
            toml: Vec::new(),
            more_toml: String::new(),
            slack: None,
            elsewhere: None,
        }
    }

    /// A person types in the channel; returns what they are told.
    pub async fn says(&self, who: &ConsoleUser, text: &str) -> String {
        self.result_of(who, who.say(METAL, text)).await
    }

    /// A person types in a batch's thread; returns what they are told.
    pub async fn replies(&self, who: &ConsoleUser, batch: i64, text: &str) -> String {
        let card = self.card(batch).await;
        self.result_of(who, who.reply(METAL, &card.id, text)).await
    }

    /// A person presses a button of a batch's card; returns what they are told.
    pub async fn presses(&self, who: &ConsoleUser, batch: i64, button: &str) -> String {
        let card = self.card(batch).await;
        let value = card.button(button).unwrap_or_else(|| panic!("no {button}: {card:?}"));
        self.result_of(who, who.press(&card.id, &value)).await
    }

    /// A person presses a button of the newest message with this text in a batch's thread; returns
    /// what they are told.
    pub async fn presses_in_thread(
        &self,
        who: &ConsoleUser,
        batch: i64,
        text: &str,
        button: &str,
    ) -> String {
        let notice = self.notice(batch, text).await;
        let value = notice.button(button).unwrap_or_else(|| panic!("no {button}: {notice:?}"));
        self.result_of(who, who.press(&notice.id, &value)).await
    }

    /// A person puts an emoji on a batch's card, or takes it away; returns what they are told.
    pub async fn reacts(&self, who: &ConsoleUser, batch: i64, name: &str, on: bool) -> String {
        let card = self.card(batch).await;
        self.result_of(who, who.react(&card.id, name, on)).await
    }

    /// What this person sees new, in the channel and in threads, when all that follows at once from
    /// an act has been said. What the batches themselves report is left out: it comes when it comes.
    pub async fn result_of(
        &self,
        who: &ConsoleUser,
        act: impl Future<Output = anyhow::Result<StatusCode>>,
    ) -> String {
        let before: Option<i64> = sqlx::query_scalar("select max(id) from console_message")
            .fetch_one(&self.pool)
            .await
            .unwrap();
        assert_eq!(act.await.unwrap(), StatusCode::ACCEPTED);
        self.quiet().await;
        let new: Vec<i64> = sqlx::query_scalar(
            "select id from console_message
             where id > $1 and bot and (only_to is null or only_to = $2)
               and key not like 'bot:batch:%' and key not like 'bot:ticket:%' order by id",
        )
        .bind(before.unwrap_or(0))
        .bind(&who.login)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let seen = self.seen_by(who).await;
        let told: Vec<String> = new
            .iter()
            .map(|id| {
                let id = id.to_string();
                told(seen.iter().find(|message| message.id == id).expect("what is theirs is shown"))
            })
            .collect();
        if told.is_empty() { "(nothing)".into() } else { told.join("\n") }
    }

    /// Everything in the channel and its threads that this person can see.
    pub async fn seen_by(&self, who: &ConsoleUser) -> Vec<SeenMessage> {
        let mut all = Vec::new();
        for head in who.messages(METAL, None).await.unwrap() {
            let thread = who.messages(METAL, Some(&head.id)).await.unwrap();
            all.extend(thread);
        }
        all
    }

    /// Waits until every delivery was worked on, every notice sent and every card posted.
    pub async fn quiet(&self) {
        let waiting = "select (select count(*) from inbox where done_at is null)
                + (select count(*) from outbox
                   where kind = 'notice' and sent_at is null and refused_at is null)
                + (select count(*) from card where message_id is null)";
        self.until_none("deliveries, notices or cards that wait", waiting).await;
    }

    /// The newest state of a batch's card.
    pub async fn card(&self, batch: i64) -> SeenMessage {
        let stale = format!(
            "select count(*) from card where batch_id = {batch} and rendered_version < version"
        );
        self.until_none("a stale card", &stale).await;
        self.card_when(batch, |_| true).await
    }

    /// The card of a batch, once it looks as wanted.
    pub async fn card_when(
        &self,
        batch: i64,
        wanted: impl Fn(&SeenMessage) -> bool,
    ) -> SeenMessage {
        self.alice.card(METAL, batch, PATIENCE, wanted).await.unwrap()
    }

    /// What Metalbot says in a batch's thread to everybody, once some message there has this text.
    pub async fn heard(&self, batch: i64, text: &str) -> String {
        self.notice(batch, text).await.text
    }

    /// The newest message to everybody in a batch's thread that has this text, once there is one.
    pub async fn notice(&self, batch: i64, text: &str) -> SeenMessage {
        let head = self.card_when(batch, |_| true).await.id;
        let said = self.alice.wait_for(METAL, Some(&head), PATIENCE, text, |message| {
            message.thread.is_some() && !message.only_you && message.text.contains(text)
        });
        said.await.unwrap()
    }

    /// The words with which a batch's end was announced, as soon as it has ended.
    pub async fn ended(&self, batch: i64) -> String {
        self.heard(batch, "has ended").await
    }

    /// The tickets, as soon as there are so many.
    pub async fn tickets(&self, number: usize) -> Vec<Ticket> {
        let started = Instant::now();
        while self.jira.issues().len() < number && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let tickets = self.jira.issues();
        assert_eq!(tickets.len(), number, "{tickets:#?}");
        tickets
    }

    /// What the use cases know here, without what only Slack tells.
    pub fn app(&self) -> Arc<App> {
        let loaded = site::load(&self.config).unwrap();
        Arc::new(site::app(&self.config, &loaded, None))
    }

    /// The simulated Slack.
    pub fn slack(&self) -> &SimSlack {
        self.slack.as_ref().expect("a world with Slack")
    }

    /// Its other workspace.
    pub fn elsewhere(&self) -> &SimSlack {
        self.elsewhere.as_ref().expect("a world with two workspaces")
    }

    /// Starts another process beside the first.
    pub async fn replica(&self) -> Service {
        let started =
            Service::start(&self.config, &self.database_url, Roles::ALL, switch::options()).await;
        started.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The simulated machines.
    pub fn rack(&self) -> &Rack {
        self.rack.as_ref().expect("a world with a rack")
    }

    /// What a host's BMC did to it, in order: `power 0`, `shutdown 1`, `identify 60 0`.
    pub fn acts(&self, host: &str) -> Vec<String> {
        let acts = self.rack().acts().unwrap().into_iter();
        acts.filter(|act| act.host.as_str() == host)
            .map(|act| format!("{} {}", act.what, act.value).trim_end().to_owned())
            .collect()
    }

    /// The host's own power.
    pub fn power(&self, host: &str) -> Power {
        self.rack().power(&HostName::from_str(host).unwrap()).unwrap()
    }

    /// From now on the host's BMC never answers a command, and takes the whole rack along.
    pub fn freeze_at(&self, command: &str) {
        let script = self.folder.path().join("rack/chassis");
        let text = std::fs::read_to_string(&script).unwrap();
        let freeze = format!("#!/bin/sh\ncase \"$*\" in \"{command}\"*) sleep 600 ;; esac\n");
        std::fs::write(&script, text.replacen("#!/bin/sh\n", &freeze, 1)).unwrap();
    }

    /// Changes the directory of people under the running service.
    pub fn change_people(&self, change: impl FnOnce(String) -> String) {
        let file = self.folder.path().join("people.toml");
        let people = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, change(people)).unwrap();
    }

    /// The inventory.
    pub fn hosts_file(&self) -> PathBuf {
        self.folder.path().join("hosts.csv")
    }

    /// Changes the inventory under the running service.
    pub fn change_hosts(&self, change: impl FnOnce(String) -> String) {
        let file = self.hosts_file();
        let hosts = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, change(hosts)).unwrap();
    }

    /// Everything that is decided: equal as long as no batch, job or decision was made or changed.
    /// When approvers were notified is left out: that happens when it happens.
    pub async fn books(&self) -> String {
        sqlx::query_scalar(
            "select concat_ws('|',
                (select string_agg(
                    (to_jsonb(batch) - '{approvers_notified_at,approvers_reminded_at}'::text[])::text,
                    E'\\n' order by id) from batch),
                (select string_agg(job::text, E'\\n' order by id) from job),
                (select string_agg(decision::text, E'\\n' order by id) from decision))",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// The audit of a batch as `who event`, in order.
    pub async fn audit(&self, batch: i64) -> String {
        let rows: Vec<String> = sqlx::query_scalar(
            "select actor || ' ' || event from audit where batch_id = $1 order by id",
        )
        .bind(batch)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        rows.join("\n")
    }

    /// Waits until a count is zero.
    pub async fn until_none(&self, what: &str, count: &str) {
        let started = Instant::now();
        loop {
            let left: i64 = sqlx::query_scalar(AssertSqlSafe(count.to_owned()))
                .fetch_one(&self.pool)
                .await
                .unwrap();
            if left == 0 {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "there are still {left}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Checks that the world is left in order, and takes it down.
    pub async fn finish(self) {
        self.quiet().await;
        let unsent = "select count(*) from outbox where sent_at is null and refused_at is null";
        self.until_none("rows of the outbox that are not sent", unsent).await;
        // What a ticket is filed with is told afterwards.
        let unfiled = "select count(*) from ticket where jira_key is null and refused_at is null
                or jira_key is not null and rendered_version < version
                or exists (select from ticket_comment where sent_at is null)";
        self.until_none("tickets that are not filed", unfiled).await;
        self.until_none("rows of the outbox that are not sent", unsent).await;
        let leased = "select count(*) from job where state = 'running' or lease_until > now()
                and state not in ('succeeded', 'failed', 'quarantined', 'cancelled', 'skipped')";
        self.until_none("leases that live", leased).await;
        let unsealed = "select count(*) from audit
             where not exists (select from audit_seal where audit_id = audit.id)";
        self.until_none("rows of the audit that are not sealed", unsealed).await;
        let mut conn = self.pool.acquire().await.unwrap();
        let report = store::audit::verify(&mut conn).await.unwrap();
        assert_eq!(report.broken, None, "the audit");
        drop(conn);
        for (what, query) in [
            (
                "refused by chat",
                "select key || ': ' || last_error from outbox where refused_at is not null",
            ),
            (
                "refused by Jira",
                "select fingerprint || ': ' || last_error from ticket where refused_at is not null",
            ),
            (
                "failed deliveries",
                "select delivery || ': ' || last_error from inbox where last_error is not null",
            ),
        ] {
            let wrong: Vec<String> = sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap();
            assert!(wrong.is_empty(), "{what}: {wrong:#?}");
        }
        self.service.stop().await;
        let panics = panics_here();
        assert!(panics.is_empty(), "tasks panicked: {panics:#?}");
        self.pool.close().await;
        self.jira.stop().await;
        if let Some(slack) = self.slack {
            slack.stop().await;
        }
        if let Some(rack) = self.rack {
            rack.stop();
        }
        let mut server = self.server.connect().await.unwrap();
        let drop = format!("drop database {} with (force)", self.database);
        sqlx::query(AssertSqlSafe(drop)).execute(&mut server).await.unwrap();
    }
}

async fn start_rack(folder: &TempDir, servers: &[fleet::SimServer]) -> Rack {
    let started = Rack::start(&folder.path().join("rack"), 0, fleet::bmcs(servers)).await;
    started.unwrap_or_else(|error| panic!("the rack: {error:#}"))
}

/// Racks stand side by side, each on addresses 127.N.x.x of its own.
fn next_subnet() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    100 + NEXT.fetch_add(1, Ordering::Relaxed) % 150
}

/// Makes an empty database; returns its server, its name and its URL.
pub async fn new_database() -> (PgConnectOptions, String, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Ok(url) = std::env::var("DATABASE_URL") else {
        panic!(
            "DATABASE_URL names no PostgreSQL server: run `make test`, \
             or `.ci/with-postgres cargo test --test it`"
        );
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("metalbot_it_{}_{number}", std::process::id());
    let server = PgConnectOptions::from_str(&url).expect("DATABASE_URL is a PostgreSQL URL");
    let mut conn = server.connect().await.expect("the server of DATABASE_URL answers");
    let create = format!("create database {name}");
    sqlx::query(AssertSqlSafe(create)).execute(&mut conn).await.unwrap();
    let (front, options) = url.split_once('?').map_or((&url[..], None), |(f, o)| (f, Some(o)));
    let (front, _) = front.rsplit_once('/').expect("the URL names a database");
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    (server, name.clone(), format!("{front}/{name}{options}"))
}

/// One message as a snapshot shows it.
pub fn told(message: &SeenMessage) -> String {
    let mut head = match message.thread {
        Some(_) => "-- in the thread".to_owned(),
        None => "-- in the channel".to_owned(),
    };
    if message.only_you {
        head += ", only to them";
    }
    let mut text = format!("{head}\n{}", message.text);
    let buttons = message.buttons();
    if !buttons.is_empty() {
        text += &format!("\n[{}]", buttons.join("] ["));
    }
    text
}

/// What differs from run to run.
fn filters() -> SettingsBindDropGuard {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d{1,2} \w{3} \d\d:\d\d(:\d\d)? UTC", "[time] UTC");
    settings.add_filter(r"done in (\d+[hms] ?)+", "done in [duration]");
    settings.add_filter(r"127\.\d+\.(\d+\.\d+):\d+", "127.x.$1:[port]");
    settings.bind_to_scope()
}

/// Panics of spawned tasks, with the thread on which they happened. A test's runtime has one
/// thread, the test's own, so a task's panic belongs to the test of its thread.
static PANICS: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

fn watch_panics() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if tokio::task::try_id().is_some() {
                let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
                panics.push((thread::current().id(), panic.to_string()));
            }
            usual(panic);
        }));
    });
}

fn panics_here() -> Vec<String> {
    let here = thread::current().id();
    let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    panics.iter().filter(|(thread, _)| *thread == here).map(|(_, text)| text.clone()).collect()
}
