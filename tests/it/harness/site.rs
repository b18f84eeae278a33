//! Everything around Metalbot: database, machines, Jira, Slack, and a folder with its configuration.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use metalbot::bmc::Power;
use metalbot::identity::password;
use metalbot_core::domain::host::{BmcEndpoint, HostName};
use metalbot_sim::bmcs::{Behaviour, Bmcs};
use metalbot_sim::fleet::{self, SimServer};
use metalbot_sim::jira::{SimJira, Ticket};
use metalbot_sim::rack::{BmcFault, Rack, RackEvent};
use metalbot_sim::slack::SimSlack;
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::database::{Count, Database};
use super::wait::{PATIENCE, until};

/// What opens the simulated Jira.
pub const JIRA_TOKEN: &str = "demo";
/// The password of everybody where people sign in.
pub const PASSWORD: &str = "correct horse";
/// Nothing listens there.
const DEAD_PORT: u16 = 9;

/// What a test wants its site to be.
pub struct Builder {
    rack: bool,
    bmcs: usize,
    sound: bool,
    passwords: bool,
    faults: Vec<(&'static str, Option<BmcFault>)>,
    toml: Vec<(String, String)>,
    more_toml: String,
    actions: Vec<(&'static str, String)>,
    pub(super) slack: Option<&'static str>,
    elsewhere: Option<&'static str>,
    database_url: Option<String>,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder {
            rack: false,
            bmcs: 0,
            sound: false,
            passwords: false,
            faults: Vec::new(),
            toml: Vec::new(),
            more_toml: String::new(),
            actions: Vec::new(),
            slack: None,
            elsewhere: None,
            database_url: None,
        }
    }

    /// For processes: people sign in with a password, and a lease ends soon after its process.
    pub fn processes() -> Builder {
        let builder = Builder { passwords: true, ..Builder::new().rack() };
        builder.replace("lease_duration = \"5s\"", "lease_duration = \"2s\"")
    }

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

    /// Its machines are of the test's own making, or there are none.
    pub fn without_rack(mut self) -> Self {
        self.rack = false;
        self
    }

    /// Its machines are so many light ones, `sim00000` and so on, all of the group `sim` and of
    /// web's owners, whose BMCs behave as the test tells them.
    pub fn bmcs(mut self, count: usize) -> Self {
        (self.rack, self.bmcs) = (false, count);
        self
    }

    /// The site has an action of its own.
    pub fn action(mut self, name: &'static str, toml: impl Into<String>) -> Self {
        self.actions.push((name, toml.into()));
        self
    }

    /// No host has a fault. Otherwise web07 is silent and web09 has another password than we know.
    pub fn sound(mut self) -> Self {
        self.sound = true;
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

    /// Builds it. Metalbot does not run yet.
    pub async fn site(self) -> Site {
        metalbot::use_ring();
        let db = match &self.database_url {
            Some(url) => Database::at(url),
            None => Database::new().await,
        };
        let folder = tempfile::tempdir().expect("a folder for the test");
        let servers = self.servers();
        let rack = match self.rack {
            true => Some(start_rack(&folder, &servers).await),
            false => None,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let jira = SimJira::start(listener, JIRA_TOKEN).unwrap();
        let slack = match self.slack {
            Some(_) => Some(SimSlack::start().await.unwrap()),
            None => None,
        };
        let elsewhere = slack.as_ref().zip(self.elsewhere).map(|(slack, id)| slack.workspace(id));
        for slack in slack.iter().chain(&elsewhere) {
            slack.wait_for_acks(PATIENCE);
        }
        let port = rack.as_ref().map_or(DEAD_PORT, Rack::port);
        fs::write(folder.path().join("metalbot.toml"), self.configuration(&jira, slack.as_ref()))
            .unwrap();
        fs::write(folder.path().join("people.toml"), people(self.passwords)).unwrap();
        let bmcs = start_bmcs(self.bmcs);
        let hosts = match &bmcs {
            Some(bmcs) => inventory_of(bmcs, self.bmcs),
            None => fleet::inventory_csv(&servers, port),
        };
        fs::write(folder.path().join("hosts.csv"), hosts).unwrap();
        let (processes, given_back) = (AtomicU32::new(0), GivenBack::default());
        let site =
            Site { db, jira, servers, rack, bmcs, slack, elsewhere, folder, processes, given_back };
        for (name, toml) in &self.actions {
            site.add_action(name, toml);
        }
        site
    }

    fn servers(&self) -> Vec<SimServer> {
        let mut servers = fleet::servers(next_subnet());
        if self.sound {
            servers.iter_mut().for_each(|server| server.fault = None);
        }
        for (host, fault) in &self.faults {
            let server = servers.iter_mut().find(|server| server.name.as_str() == *host);
            server.expect("a host of the fleet").fault = *fault;
        }
        servers
    }

    fn configuration(&self, jira: &SimJira, slack: Option<&SimSlack>) -> String {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut toml = fleet::metalbot_toml(listen, &jira.url(), JIRA_TOKEN);
        for (old, new) in &self.toml {
            assert!(toml.contains(old), "the configuration has no {old:?}:\n{toml}");
            toml = toml.replace(old, new);
        }
        // Many tests share a machine with a slow rack: a BMC that is late is not silent. Where a test
        // says otherwise, it has replaced this already.
        let mut toml = toml.replace("timeout = \"1500ms\"", "timeout = \"4s\"");
        if let Some((slack, mode)) = slack.zip(self.slack) {
            toml += &slack.toml(mode);
        }
        toml + "\n" + &self.more_toml
    }
}

/// Everything around Metalbot.
pub struct Site {
    pub db: Database,
    pub jira: SimJira,
    pub servers: Vec<SimServer>,
    rack: Option<Rack>,
    bmcs: Option<Bmcs>,
    slack: Option<SimSlack>,
    elsewhere: Option<SimSlack>,
    folder: TempDir,
    /// How many processes were started here.
    pub(super) processes: AtomicU32,
    given_back: GivenBack,
}

impl Site {
    /// For processes, with two broken hosts: web07 is silent, web09 has another password.
    pub async fn start() -> Site {
        Builder::processes().site().await
    }

    /// For processes, without a broken host.
    pub async fn sound() -> Site {
        Builder::processes().sound().site().await
    }

    /// The two above, on a database of the caller.
    pub async fn on(database_url: &str, sound: bool) -> Site {
        let builder = if sound { Builder::processes().sound() } else { Builder::processes() };
        Builder { database_url: Some(database_url.to_owned()), ..builder }.site().await
    }

    /// Whether some host has a fault.
    pub fn is_broken(&self) -> bool {
        self.servers.iter().any(|server| server.fault.is_some())
    }

    /// Where the configuration and the logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The simulated machines.
    pub fn rack(&self) -> &Rack {
        self.rack.as_ref().expect("a site with a rack")
    }

    /// The light machines.
    pub fn bmcs(&self) -> &Bmcs {
        self.bmcs.as_ref().expect("a site with light machines")
    }

    /// The simulated Slack.
    pub fn slack(&self) -> &SimSlack {
        self.slack.as_ref().expect("a site with Slack")
    }

    /// Its other workspace.
    pub fn elsewhere(&self) -> &SimSlack {
        self.elsewhere.as_ref().expect("a site with two workspaces")
    }

    /// What a host's BMC did to it, in order: `power 0`, `shutdown 1`, `identify 60 0`.
    pub fn acts(&self, host: &str) -> Vec<String> {
        let acts = self.acts_on(host).into_iter();
        acts.map(|act| format!("{} {}", act.what, act.value).trim_end().to_owned()).collect()
    }

    /// A host's power-offs and power-ons so far, by the rack's own log.
    pub fn cycles(&self, host: &str) -> (usize, usize) {
        let acts = self.acts_on(host).into_iter().filter(|act| act.what == "power");
        acts.fold((0, 0), |(off, on), act| match act.is_power_off() {
            true => (off + 1, on),
            false => (off, on + 1),
        })
    }

    /// Waits until the rack has done this much.
    pub async fn acts_reach(&self, wanted: usize) {
        let enough = async || self.rack().acts().unwrap().len() >= wanted;
        until(&format!("{wanted} acts of the rack"), enough).await;
    }

    /// What was done to a host, for a test that fails.
    pub async fn history(&self, host: &str) -> String {
        let acts = self.acts_on(host).into_iter();
        let mut lines: Vec<String> =
            acts.map(|act| format!("{} the BMC: {} {}", act.at_ms, act.what, act.value)).collect();
        lines.extend(self.db.attempts(host).await);
        lines.sort();
        lines.join("\n")
    }

    fn acts_on(&self, host: &str) -> Vec<RackEvent> {
        let acts = self.rack().acts().unwrap().into_iter();
        acts.filter(|act| act.host.as_str() == host).collect()
    }

    /// The host's own power.
    pub fn power(&self, host: &str) -> Power {
        self.rack().power(&HostName::from_str(host).unwrap()).unwrap()
    }

    /// From now on the host's BMC never answers a command, and takes the whole rack along.
    pub fn freeze_at(&self, command: &str) {
        self.change("rack/chassis", |script| {
            let freeze = format!("#!/bin/sh\ncase \"$*\" in \"{command}\"*) sleep 600 ;; esac\n");
            script.replacen("#!/bin/sh\n", &freeze, 1)
        });
    }

    /// The tickets, as soon as there are so many.
    pub async fn tickets(&self, number: usize) -> Vec<Ticket> {
        let there = async || self.jira.issues().len() >= number;
        until(&format!("{number} tickets"), there).await;
        let tickets = self.jira.issues();
        assert_eq!(tickets.len(), number, "{tickets:#?}");
        tickets
    }

    /// Changes a file of the site, such as `people.toml`, under the running service.
    pub fn change(&self, file: &str, change: impl FnOnce(String) -> String) {
        let file = self.folder().join(file);
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, change(before)).unwrap();
    }

    /// Changes the directory of people.
    pub fn change_people(&self, change: impl FnOnce(String) -> String) {
        self.change("people.toml", change);
    }

    /// Changes the inventory.
    pub fn change_hosts(&self, change: impl FnOnce(String) -> String) {
        self.change("hosts.csv", change);
    }

    /// The configuration.
    pub fn config_file(&self) -> PathBuf {
        self.folder().join("metalbot.toml")
    }

    /// Adds an action to the site's. Only services that start later know it.
    pub fn add_action(&self, name: &str, toml: &str) {
        let folder = self.folder().join("commands");
        if !folder.exists() {
            fs::create_dir(&folder).unwrap();
            self.change("metalbot.toml", |known| known + "\n[commands]\nfolder = \"commands\"\n");
        }
        fs::write(folder.join(name).with_extension("toml"), toml).unwrap();
    }

    /// Waits until every delivery was worked on, every notice sent and every card posted.
    pub async fn quiet(&self) {
        self.db.until(Count::ChatWork, 0).await;
    }

    /// Waits until all that follows from what was done has been done: nothing is unsent, no lease
    /// lives, the audit is sealed.
    pub async fn settled(&self) {
        // What a ticket is filed with is told afterwards.
        for left in [
            Count::ChatWork,
            Count::BatchesAtWork,
            Count::ChatWork,
            Count::Unsent,
            Count::TicketsNotWritten,
            Count::Unsent,
            Count::LiveLeases,
            Count::AuditRowsNotSealed,
        ] {
            self.db.until(left, 0).await;
        }
    }

    /// Checks that the site is left in order by the processes that still run on it, and takes it
    /// down.
    pub async fn finish(self) {
        self.settled().await;
        self.db.check_audit().await;
        let refused = self.db.refused().await;
        assert!(refused.is_empty(), "{refused:#?}");
        let logs = self.logs();
        assert!(!logs.contains("panicked at"), "a process panicked:\n{logs}");
        self.leave().await;
    }

    /// Takes down a site on which no service runs that could leave it in order.
    pub async fn leave(self) {
        self.given_back.0.store(true, Ordering::Relaxed);
        self.db.pool.close().await;
        self.jira.stop().await;
        if let Some(slack) = self.slack {
            slack.stop().await;
        }
        if let Some(rack) = self.rack {
            rack.stop();
        }
    }

    /// What the logs of all processes say.
    pub fn logs(&self) -> String {
        (0..self.processes.load(Ordering::Relaxed))
            .map(|number| {
                let log = fs::read_to_string(self.log_of(number)).unwrap_or_default();
                format!("--- process {number}\n{log}")
            })
            .collect()
    }

    pub(super) fn log_of(&self, process: u32) -> PathBuf {
        self.folder().join(format!("serve-{process}.log"))
    }
}

/// Fails a test that forgets to give its site back, since nobody has looked at what it left.
#[derive(Default)]
struct GivenBack(AtomicBool);

impl Drop for GivenBack {
    fn drop(&mut self) {
        let forgotten = !self.0.load(Ordering::Relaxed) && !std::thread::panicking();
        assert!(!forgotten, "the test ends without `finish`");
    }
}

fn start_bmcs(count: usize) -> Option<Bmcs> {
    let started = (count > 0).then(|| Bmcs::start(0, count, Behaviour::default(), 1));
    started.map(|bmcs| bmcs.expect("a UDP port is free"))
}

/// Content of the inventory file for light machines.
fn inventory_of(bmcs: &Bmcs, count: usize) -> String {
    let mut csv = "name,owner,datacenter,rack,sku,bmc,credentials,groups\n".to_owned();
    for host in (0..count).map(|bmc| bmcs.host(bmc)) {
        let (name, datacenter, rack, sku) = (&host.name, &host.datacenter, &host.rack, &host.sku);
        let BmcEndpoint { address, credentials } = &host.bmc;
        csv +=
            &format!("{name},web-owners,{datacenter},{rack},{sku},{address},{credentials},sim\n");
    }
    csv
}

async fn start_rack(folder: &TempDir, servers: &[SimServer]) -> Rack {
    let started = Rack::start(&folder.path().join("rack"), 0, fleet::bmcs(servers)).await;
    started.unwrap_or_else(|error| panic!("the rack: {error:#}"))
}

/// Racks stand side by side, each on addresses 127.N.x.x of its own.
pub fn next_subnet() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    100 + NEXT.fetch_add(1, Ordering::Relaxed) % 150
}

/// The directory. Hashing a password is slow on purpose: once is enough.
fn people(passwords: bool) -> String {
    static HASH: OnceLock<String> = OnceLock::new();
    let hash = || password::hash(&SecretString::from(PASSWORD)).unwrap();
    let hash = passwords.then(|| HASH.get_or_init(hash).as_str());
    fleet::people_toml(hash)
}
