//! Servers that Metalbot cannot work with, each for real: it says so at the start and when it is
//! asked, and `/readyz` says so when a server becomes one.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};

use crate::harness::process::said;
use crate::harness::{Site, until};

/// Runs `metalbot` to its end with another database.
async fn metalbot(site: &Site, args: &[&str], url: &str) -> Output {
    let mut command = site.command(args);
    command.env("DATABASE_URL", url);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Neither the check nor the service takes this database, both for this reason.
async fn is_refused(site: &Site, url: &str, reason: &str) {
    for args in [&["operator", "check-config", "--connect"][..], &["serve"]] {
        let output = metalbot(site, args, url).await;
        let message = said(&output).1;
        assert!(!output.status.success(), "{args:?} has taken it: {message}");
        assert!(message.contains(reason), "{args:?}: {reason} in {message}");
    }
}

/// A free port of this machine.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A program of PostgreSQL's world, which does not run as root.
fn unprivileged(program: &Path) -> Command {
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout != b"0\n" {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

/// A folder that its program can write, whoever runs it.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    folder
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", "INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command, log: &Path) -> Running {
    let log = fs::File::create(log).unwrap();
    let errors = log.try_clone().unwrap();
    Running(command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().unwrap())
}

async fn until_open(url: &str) {
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.extra_float_digits(None);
    until("a server that answers", async || options.connect().await.is_ok()).await;
}

/// Of the site's own address.
fn user_and_password(site: &Site) -> (&str, &str) {
    let (_, rest) = site.db.url.split_once("://").unwrap();
    rest.split_once('@').unwrap().0.split_once(':').unwrap()
}

/// PgBouncer before the site's server; the address that leads through it.
async fn pooler(site: &Site, folder: &Path, mode: &str) -> (Running, String) {
    let port = free_port();
    let options: PgConnectOptions = site.db.url.parse().unwrap();
    let (host, its_port) = (options.get_host(), options.get_port());
    let (user, password) = user_and_password(site);
    let database = options.get_database().unwrap();
    let file = folder.join(format!("{mode}.ini"));
    let text = format!(
        "[databases]\n* = host={host} port={its_port} user={user} password={password}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = any\npool_mode = {mode}\nmax_client_conn = 200\ndefault_pool_size = 50\n"
    );
    fs::write(&file, text).unwrap();
    let log = folder.join(format!("{mode}.log"));
    let running = start(unprivileged(Path::new("/usr/sbin/pgbouncer")).arg(&file), &log);
    let url = format!("postgres://{user}@127.0.0.1:{port}/{database}");
    until_open(&url).await;
    (running, url)
}

#[tokio::test]
async fn a_pooler_by_transaction_is_found_and_one_by_session_is_fine() {
    let (site, folder) = (Site::sound().await, open_folder());
    let (_running, url) = pooler(&site, folder.path(), "transaction").await;
    is_refused(&site, &url, "let it pool by session (PgBouncer: pool_mode = session)").await;
    let (_running, url) = pooler(&site, folder.path(), "session").await;
    let output = metalbot(&site, &["operator", "check-config", "--connect"], &url).await;
    assert!(output.status.success(), "{}", said(&output).1);
    let process = site.serve_with(&[("DATABASE_URL", &url)]).await;
    process.terminate().await;
    site.leave().await;
}

#[tokio::test]
async fn an_old_encoding_is_refused() {
    let site = Site::sound().await;
    let options: PgConnectOptions = site.db.url.parse().unwrap();
    let name = format!("{}_latin1", options.get_database().unwrap());
    let make = format!("create database {name} encoding 'LATIN1' locale 'C' template template0");
    site.db.pool.execute(AssertSqlSafe(make)).await.unwrap();
    let url = options.database(&name).to_url_lossy().to_string();
    is_refused(&site, &url, "the database's encoding is LATIN1").await;
    let drop = format!("drop database {name} with (force)");
    site.db.pool.execute(AssertSqlSafe(drop)).await.unwrap();
    site.leave().await;
}

/// Programs of the newest PostgreSQL of this machine.
fn binaries() -> PathBuf {
    let list = "ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1";
    let found = Command::new("sh").args(["-c", list]).output().unwrap();
    PathBuf::from(said(&found).0.trim())
}

#[tokio::test]
async fn a_standby_is_refused() {
    let (site, folder) = (Site::sound().await, open_folder());
    let (bin, data) = (binaries(), folder.path().join("data"));
    let mut copy = unprivileged(&bin.join("pg_basebackup"));
    let options: PgConnectOptions = site.db.url.parse().unwrap();
    let (user, password) = user_and_password(&site);
    copy.arg("-D")
        .arg(&data)
        .args(["-h", options.get_host(), "-U", user])
        .env("PGPASSWORD", password);
    copy.args(["-p", &options.get_port().to_string()]);
    copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]);
    let copied = tokio::task::spawn_blocking(move || copy.output().unwrap()).await.unwrap();
    assert!(copied.status.success(), "{}", said(&copied).1);
    let port = free_port();
    let mut server = unprivileged(&bin.join("postgres"));
    server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    server.args(["-c", "unix_socket_directories=", "-c", "max_connections=400", "-c", "fsync=off"]);
    let _running = start(&mut server, &folder.path().join("log"));
    let url = options.host("127.0.0.1").port(port).to_url_lossy().to_string();
    until_open(&url).await;
    is_refused(&site, &url, "the server is a standby, and nothing can be written").await;
    site.leave().await;
}

#[tokio::test]
async fn a_process_is_not_ready_while_nothing_can_be_written() {
    let site = Site::sound().await;
    let process = site.serve().await;
    let ready = async || {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{}/readyz", process.base)).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["reason"].clone())
    };
    until("readiness", async || ready().await.0 == 200).await;
    let options: PgConnectOptions = site.db.url.parse().unwrap();
    let database = options.get_database().unwrap();
    // As a failover does it: the sessions end, and those that follow only read.
    let elsewhere = options.clone().database("postgres").connect().await;
    let mut elsewhere = elsewhere.unwrap();
    let switch = async |conn: &mut sqlx::PgConnection, to: &str| {
        let statements = format!(
            "alter database {database} set default_transaction_read_only = {to};
             select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"
        );
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(conn).await.unwrap();
    };
    switch(&mut elsewhere, "on").await;
    until("that it is not ready, and says why", async || {
        let (status, reason) = ready().await;
        status == 503 && reason.as_str().is_some_and(|said| said.contains("nothing can be written"))
    })
    .await;
    is_refused(&site, &site.db.url, "transactions are read-only").await;
    switch(&mut elsewhere, "off").await;
    until("readiness again", async || ready().await.0 == 200).await;
    process.terminate().await;
    site.leave().await;
}
