//! The world at process level: rack, Jira and database live in the test, and `metalbot serve` is a
//! process of its own that can be killed, frozen and started again.
//!
//! Invariant: no process and no database outlives its test, not even one that panics.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use metalbot::identity::password;
use metalbot_sim::fleet::{self, SimServer};
use metalbot_sim::jira::SimJira;
use metalbot_sim::person::ConsoleUser;
use metalbot_sim::rack::Rack;
use metalbot_store as store;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::net::TcpListener;

pub const CHANNEL: &str = "metal";
/// Long enough for everything on a busy machine; what should be quick is measured by itself.
pub const LONG: Duration = Duration::from_secs(90);
const PASSWORD: &str = "correct horse";
const JIRA_TOKEN: &str = "a-token";

/// Racks of other tests use lower second numbers of the loopback addresses.
static SUBNET: AtomicU8 = AtomicU8::new(150);

/// A database of the test's own on the server of `DATABASE_URL`.
pub struct TestDatabase {
    pub url: String,
    server: String,
    name: String,
}

impl TestDatabase {
    pub async fn create() -> TestDatabase {
        let server = std::env::var("DATABASE_URL").expect("run tests under .ci/with-postgres");
        let name = format!("test_{}_{:08x}", std::process::id(), rand::random::<u32>());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        let create = format!("create database {name}");
        sqlx::query(sqlx::AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
        let (base, _) = server.rsplit_once('/').expect("the address ends with a database");
        TestDatabase { url: format!("{base}/{name}"), server, name }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A runtime cannot be waited for inside another one.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut connection = PgConnection::connect(&server).await?;
                let drop = format!("drop database if exists {name} with (force)");
                sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&mut connection).await
            })
        });
        if let Ok(Err(error)) = dropping.join() {
            eprintln!("database {} stays: {error}", self.name);
        }
    }
}

/// What the world is like before the first process starts.
#[derive(Clone, Copy)]
pub struct Setup {
    /// web07 is silent and web09 has another password.
    pub broken: bool,
    pub lease: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { broken: true, lease: "2s" }
    }
}

/// Everything around Metalbot.
pub struct World {
    pub rack: Rack,
    pub jira: SimJira,
    pub pool: PgPool,
    pub servers: Vec<SimServer>,
    database_url: String,
    processes: AtomicU32,
    _database: Option<TestDatabase>,
    folder: tempfile::TempDir,
}

impl World {
    pub async fn start(setup: Setup) -> World {
        let database = TestDatabase::create().await;
        let url = database.url.clone();
        World::start_on(setup, url, Some(database)).await
    }

    /// Where the configuration and the logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The same on a database of the caller.
    pub async fn start_on(
        setup: Setup,
        database_url: String,
        database: Option<TestDatabase>,
    ) -> World {
        metalbot::use_ring();
        let folder = tempfile::tempdir().unwrap();
        let mut servers = fleet::servers(SUBNET.fetch_add(1, Ordering::Relaxed));
        if !setup.broken {
            servers.iter_mut().for_each(|server| server.fault = None);
        }
        let rack = Rack::start(&folder.path().join("rack"), 0, fleet::bmcs(&servers)).await;
        let rack = rack.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let jira = SimJira::start(listener, JIRA_TOKEN).unwrap();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let toml = fleet::metalbot_toml(listen, &jira.url(), JIRA_TOKEN)
            .replace("lease_duration = \"5s\"", &format!("lease_duration = \"{}\"", setup.lease));
        assert!(toml.contains(setup.lease), "the site's configuration names its lease otherwise");
        let hosts = fleet::inventory_csv(&servers, rack.port());
        fs::write(folder.path().join("metalbot.toml"), toml).unwrap();
        fs::write(folder.path().join("hosts.csv"), hosts).unwrap();
        fs::write(folder.path().join("people.toml"), people()).unwrap();
        let pool = store::connect_lazy(&database_url, 4).unwrap();
        World {
            rack,
            jira,
            pool,
            servers,
            database_url,
            processes: AtomicU32::new(0),
            _database: database,
            folder,
        }
    }

    /// Starts `metalbot serve` and returns when its web door is open.
    pub async fn serve(&self) -> Process {
        self.serve_until(None).await
    }

    /// The same, to die at a fail-point.
    pub async fn serve_until(&self, failpoint: Option<&str>) -> Process {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let log = self.folder.path().join(format!("serve-{number}.log"));
        let child = self
            .command(&["serve"])
            .envs(failpoint.map(|point| ("METALBOT_FAILPOINT", point)))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .expect("metalbot starts");
        let mut process = Process { child, log, base: String::new() };
        process.wait_until_open().await;
        process
    }

    /// Adds an action to the site's. Only processes that start later know it.
    pub fn add_action(&self, name: &str, toml: &str) {
        let folder = self.folder.path().join("commands");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(name).with_extension("toml"), toml).unwrap();
        let config = self.folder.path().join("metalbot.toml");
        let known = fs::read_to_string(&config).unwrap();
        fs::write(&config, known + "\n[commands]\nfolder = \"commands\"\n").unwrap();
    }

    /// `metalbot` with the site's configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metalbot"));
        command
            .args(args)
            .env("METALBOT_CONFIG", self.folder.path().join("metalbot.toml"))
            .env("DATABASE_URL", &self.database_url)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs `metalbot` to its end.
    pub async fn metalbot(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Changes a file of the site, such as `people.toml`.
    pub fn change(&self, file: &str, change: impl FnOnce(String) -> String) {
        let file = self.folder.path().join(file);
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, change(before)).unwrap();
    }

    /// `host`'s power-offs and power-ons so far, by the rack's own log.
    pub fn cycles(&self, host: &str) -> (usize, usize) {
        let acts = self.rack.acts().unwrap();
        let mine = acts.iter().filter(|act| act.host.as_str() == host && act.what == "power");
        mine.fold((0, 0), |(off, on), act| match act.is_power_off() {
            true => (off + 1, on),
            false => (off, on + 1),
        })
    }

    /// Waits until the rack has done this much.
    pub async fn acts_reach(&self, wanted: usize) {
        let started = Instant::now();
        while self.rack.acts().unwrap().len() < wanted {
            assert!(started.elapsed() < LONG, "the rack never came to {wanted} acts");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The one value of a query.
    pub async fn one<T>(&self, query: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let query = AssertSqlSafe(query.to_owned());
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// The values of a query.
    pub async fn all(&self, query: &str) -> Vec<String> {
        let query = AssertSqlSafe(query.to_owned());
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap()
    }

    /// What was done to a host, for a test that fails.
    pub async fn history(&self, host: &str) -> String {
        let acts = self.rack.acts().unwrap();
        let acts = acts.iter().filter(|act| act.host.as_str() == host);
        let mut lines: Vec<String> =
            acts.map(|act| format!("{} the BMC: {} {}", act.at_ms, act.what, act.value)).collect();
        let attempts: Vec<String> = sqlx::query_scalar(
            "select concat_ws(' ', (extract(epoch from intent_at) * 1000)::bigint, 'step', attempt.step,
                 'try', try, 'epoch', attempt.epoch, 'by', attempt.worker, outcome,
                 (extract(epoch from outcome_at) * 1000)::bigint, attempt.error)
             from attempt join job on job.id = job_id where host = $1",
        )
        .bind(host)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        lines.extend(attempts);
        lines.sort();
        lines.join("\n")
    }

    /// What the logs of all processes say, for a test that fails.
    pub fn logs(&self) -> String {
        (0..self.processes.load(Ordering::Relaxed))
            .map(|number| {
                let log = self.folder.path().join(format!("serve-{number}.log"));
                format!("--- {number}\n{}", fs::read_to_string(log).unwrap_or_default())
            })
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// The directory, with the same password for everybody. Hashing is slow on purpose: once is enough.
fn people() -> &'static str {
    static PEOPLE: OnceLock<String> = OnceLock::new();
    PEOPLE.get_or_init(|| {
        fleet::people_toml(Some(&password::hash(&SecretString::from(PASSWORD)).unwrap()))
    })
}

/// A running `metalbot serve`.
pub struct Process {
    child: Child,
    log: PathBuf,
    pub base: String,
}

impl Process {
    async fn wait_until_open(&mut self) {
        let started = Instant::now();
        while self.base.is_empty() {
            let log = self.log();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("metalbot ended at once ({status}):\n{log}");
            }
            assert!(started.elapsed() < LONG, "metalbot does not serve:\n{log}");
            if let Some((_, rest)) = log.split_once("metalbot serves address=")
                && let Some((address, _)) = rest.split_once(' ')
            {
                self.base = format!("http://{address}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(Path::new(&self.log)).unwrap_or_default()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub async fn sign_in(&self, login: &str) -> ConsoleUser {
        self.try_sign_in(login).await.unwrap()
    }

    /// The same of a process that may die meanwhile.
    pub async fn try_sign_in(&self, login: &str) -> anyhow::Result<ConsoleUser> {
        ConsoleUser::sign_in(&self.base, login, PASSWORD).await
    }

    /// Nothing of the process is asked: it is gone at once.
    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end; returns how it did and how long that took.
    pub async fn terminate(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        self.signal("TERM");
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, started.elapsed());
            }
            assert!(started.elapsed() < LONG, "it does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The process stands still, as in a long pause of its machine.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -s {name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
