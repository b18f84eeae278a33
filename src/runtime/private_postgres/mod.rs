//! A private PostgreSQL cluster in the state folder, from the machine's own binaries.
//!
//! Invariants: only the user who runs the cluster (and root) can connect to it: it listens on a
//! Unix socket in a folder of mode 0700 and on no network address. PostgreSQL refuses to run as
//! root, so root runs it as the user `postgres`. The server is not in the terminal's process group:
//! Ctrl-C stops Metalbot alone, which ends its work and then stops the cluster. If Metalbot was
//! killed and its cluster still runs, the next process adopts it.
//!
//! ```text
//! STATE/postgres.lock      held by the process that stops the cluster
//! STATE/postgres.log       the server's log
//! STATE/postgres/data      the cluster, complete or absent
//! STATE/postgres/run       the socket, unless the path is too long for one
//! ```
//!
//! As root, nothing inside `STATE/postgres` is opened for writing or followed through a link: that
//! folder belongs to another user.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

mod binaries;
mod server;

use server::{Server, run, url};

/// Role and database of Metalbot in its cluster.
const NAME: &str = "metalbot";
/// Longest time for a start; after a crash the server replays its write-ahead log first.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Longest time for which a program that is being started may hold our lock: until it runs, it has the
/// open files of the process that starts it.
const SPAWN_LIMIT: Duration = Duration::from_millis(500);

/// Settings of the server. An adopted server keeps the settings that it was started with.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// `false` is for tests only: a power failure then loses the cluster.
    pub fsync: bool,
    pub max_connections: u32,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        PostgresSettings { fsync: true, max_connections: 100 }
    }
}

/// Error of a cluster that cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "no PostgreSQL server binaries found (looked in {looked}); install them \
         (Debian, Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server; \
         macOS: brew install postgresql) or name a database in DATABASE_URL"
    )]
    NoBinaries { looked: String },
    #[error(
        "the cluster in {} was made by PostgreSQL {cluster}, but only {} is installed: \
         install version {cluster}, or move the folder away to begin anew",
        .folder.display(), .installed.join(", ")
    )]
    Version { folder: PathBuf, cluster: String, installed: Vec<String> },
    #[error(
        "PostgreSQL does not run as root and there is no user `postgres` to run it as: \
         create one, or run metalbot as an ordinary user"
    )]
    NoUser,
    #[error(
        "the user `postgres` (uid {uid}) cannot enter {}: allow it (chmod o+x), choose another \
         state folder, or run metalbot as an ordinary user", .folder.display()
    )]
    NotTraversable { folder: PathBuf, uid: u32 },
    #[error(
        "{} belongs to user {owner}, but PostgreSQL would run as user {uid}: run metalbot as the \
         user who made it", .folder.display()
    )]
    ForeignFolder { folder: PathBuf, owner: u32, uid: u32 },
    #[error("{what}: {cause}")]
    Io { what: String, cause: io::Error },
    #[error("{program} failed: {output}")]
    Program { program: &'static str, output: String },
    #[error("PostgreSQL did not start; the end of {}:\n{tail}", .log.display())]
    NotStarted { log: PathBuf, tail: String },
    #[error("cannot prepare the private database: {0}")]
    Database(#[from] sqlx::Error),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ClusterError {
    move |cause| ClusterError::Io { what: what.into(), cause }
}

/// A running private cluster. Stopped by [`PrivatePostgres::stop`] or, at the latest, when dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    url: String,
    /// `None` after a stop, and if another process started the cluster and will stop it.
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    server: Server,
    /// `None` if the server was adopted.
    child: Option<Child>,
    socket_folder: PathBuf,
    _lock: File,
}

impl PrivatePostgres {
    /// Starts the cluster of this state folder, and makes it first if there is none.
    pub async fn start(state_dir: &Path) -> Result<PrivatePostgres, ClusterError> {
        PrivatePostgres::start_with(state_dir, &PostgresSettings::default()).await
    }

    pub async fn start_with(
        state_dir: &Path,
        settings: &PostgresSettings,
    ) -> Result<PrivatePostgres, ClusterError> {
        let show = state_dir.display();
        fs::create_dir_all(state_dir).map_err(io_error(format!("cannot make {show}")))?;
        let state_dir =
            state_dir.canonicalize().map_err(io_error(format!("cannot enter {show}")))?;
        let lock_file = state_dir.join("postgres.lock");
        let lock = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&lock_file)
            .map_err(io_error(format!("cannot write {}", lock_file.display())))?;
        let server = Server::find(state_dir.join("postgres"))?;
        let other = PrivatePostgres::of_other(&server, &lock_file, SPAWN_LIMIT, || lock.try_lock());
        if let Some(cluster) = other.await? {
            return Ok(cluster);
        }
        server.make_folder()?;
        server.init()?;
        let begin = Instant::now();
        loop {
            let (child, socket_folder) = match server.running() {
                Some(postmaster) => {
                    tracing::info!(
                        pid = postmaster.pid,
                        "using a private cluster that was left running"
                    );
                    (None, postmaster.socket_folder)
                }
                None => {
                    server.clear_stale_pid()?;
                    let folder = server.socket_folder()?;
                    (Some(server.spawn(&folder, settings)?), folder)
                }
            };
            // From here on an error or a dropped future stops the server.
            let running = Running {
                server: server.clone(),
                child,
                socket_folder: socket_folder.clone(),
                _lock: lock.try_clone().map_err(io_error("cannot share the lock"))?,
            };
            let mut cluster =
                PrivatePostgres { url: url(&socket_folder, NAME), running: Some(running) };
            let child = cluster.running.as_mut().and_then(|running| running.child.as_mut());
            match server.wait_ready(&socket_folder, child).await {
                // Connections of a server that was killed take a moment to end.
                Err(ClusterError::NotStarted { tail, .. })
                    if tail.contains("pre-existing shared memory block")
                        && begin.elapsed() < Duration::from_secs(20) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    server.make_database(&socket_folder).await?;
                    return Ok(cluster);
                }
            }
            drop(cluster);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether this state folder has a cluster, running or not.
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join("postgres").join("data").exists()
    }

    /// Connects to the cluster that another process of this folder runs, if one does. Starts and
    /// makes nothing.
    pub async fn join(state_dir: &Path) -> Result<Option<PrivatePostgres>, ClusterError> {
        let lock_file = state_dir.join("postgres.lock");
        let Ok(lock) = File::open(&lock_file) else { return Ok(None) };
        // The process that runs the cluster holds the lock exclusively.
        if lock.try_lock_shared().is_ok() {
            return Ok(None);
        }
        let server = Server::find(state_dir.join("postgres"))?;
        let at_once = Duration::ZERO;
        PrivatePostgres::of_other(&server, &lock_file, at_once, || lock.try_lock_shared()).await
    }

    /// Finds the cluster of the process that holds the lock, once its server answers; `None` as soon
    /// as the lock is ours, for that process may end meanwhile. Asks for the lock alone in the first
    /// `patience`.
    async fn of_other(
        server: &Server,
        lock_file: &Path,
        patience: Duration,
        try_lock: impl Fn() -> Result<(), TryLockError>,
    ) -> Result<Option<PrivatePostgres>, ClusterError> {
        let begin = Instant::now();
        loop {
            match try_lock() {
                Ok(()) => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(cause)) => {
                    return Err(io_error(format!("cannot lock {}", lock_file.display()))(cause));
                }
            }
            if begin.elapsed() >= patience
                && let Some(postmaster) = server.running()
            {
                let url = url(&postmaster.socket_folder, NAME);
                if let Ok(connection) = PgConnection::connect(&url).await {
                    connection.close().await?;
                    return Ok(Some(PrivatePostgres { url, running: None }));
                }
            }
            if begin.elapsed() > START_LIMIT {
                let tail = "another process holds the lock, but its server does not answer".into();
                return Err(ClusterError::NotStarted { log: server.log(), tail });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Connection URL, for sqlx and for `psql` alike.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns whether this process stops the cluster; `false` if another process started it.
    pub fn is_ours(&self) -> bool {
        self.running.is_some()
    }

    /// Ends all connections, lets the server write its data and waits until it has ended.
    pub async fn stop(mut self) -> Result<(), ClusterError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        tokio::task::spawn_blocking(move || running.stop())
            .await
            .map_err(|error| io_error("cannot wait for the shutdown")(io::Error::other(error)))?
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.running.as_mut().map(Running::stop) {
            tracing::error!(%error, "the private cluster could not be stopped");
        }
    }
}

impl Running {
    fn stop(&mut self) -> Result<(), ClusterError> {
        if self.server.running().is_some() {
            let mut stop = self.server.command("pg_ctl");
            stop.args(["stop", "--mode=fast", "--wait", "--timeout=120", "--silent", "-D"]);
            run("pg_ctl stop", stop.arg(self.server.data()))?;
        }
        if let Some(mut child) = self.child.take() {
            // pg_ctl cannot stop a server that has not written its pid file yet.
            if !self.server.data().join("postmaster.pid").exists() {
                let _ = child.kill();
            }
            child.wait().map_err(io_error("cannot wait for the server"))?;
        }
        if !self.socket_folder.starts_with(&self.server.root) {
            // Only this process uses it, see `Server::socket_folder`; if it remains it does no
            // harm.
            let _ = fs::remove_dir(&self.socket_folder);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;
    use crate::runtime::private_postgres::server::own_uid;

    const QUICK: PostgresSettings = PostgresSettings { fsync: false, max_connections: 20 };

    /// A folder that the user `postgres` can reach, with a name that needs quoting.
    fn state(name: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let state = folder.path().join(name);
        (folder, state)
    }

    async fn query(cluster: &PrivatePostgres, sql: &'static str) -> Vec<String> {
        let mut connection = PgConnection::connect(cluster.url()).await.unwrap();
        let rows = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows
    }

    /// Leaves the state after `kill -9` of Metalbot: a running server, and a lock that is free.
    fn forget(mut cluster: PrivatePostgres) -> Server {
        let Running { server, child, _lock, .. } = cluster.running.take().unwrap();
        drop((child, _lock));
        server
    }

    fn process_group(pid: u32) -> String {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_life() {
        let (_folder, state) = state("it's a \"$tate\"");
        let cluster = PrivatePostgres::start_with(&state, &QUICK).await.unwrap();
        assert_eq!(query(&cluster, "SHOW fsync").await, ["off"]);
        assert_eq!(query(&cluster, "SHOW server_encoding").await, ["UTF8"]);
        assert_eq!(query(&cluster, "SHOW listen_addresses").await, [""]);
        let collation = "SELECT datcollate::text FROM pg_database WHERE datname = 'metalbot'";
        assert_eq!(query(&cluster, collation).await, ["C"]);
        query(&cluster, "CREATE TABLE kept AS SELECT 'here'::text AS word").await;
        let socket_folder = fs::metadata(state.join("postgres/run")).unwrap();
        assert_eq!(socket_folder.permissions().mode() & 0o777, 0o700);

        // A second process joins, and leaves without stopping it.
        let guest = PrivatePostgres::start_with(&state, &QUICK).await.unwrap();
        assert!(cluster.is_ours() && !guest.is_ours());
        guest.stop().await.unwrap();
        assert_eq!(query(&cluster, "SELECT word FROM kept").await, ["here"]);

        // Data outlive an orderly stop.
        let server = cluster.running.as_ref().unwrap().server.clone();
        cluster.stop().await.unwrap();
        assert!(server.running().is_none());
        let cluster = PrivatePostgres::start_with(&state, &QUICK).await.unwrap();
        assert_eq!(query(&cluster, "SELECT word FROM kept").await, ["here"]);

        // The terminal's Ctrl-C goes to our process group only.
        let pid = server.running().unwrap().pid;
        assert_ne!(process_group(pid), process_group(std::process::id()));

        // We are killed: the next one adopts the server, and stops it.
        forget(cluster);
        let cluster = PrivatePostgres::start_with(&state, &QUICK).await.unwrap();
        assert_eq!(server.running().unwrap().pid, pid);
        assert_eq!(query(&cluster, "SELECT word FROM kept").await, ["here"]);
        cluster.stop().await.unwrap();
        assert!(server.running().is_none());

        // The whole machine is killed, and the pid is somebody else's afterwards.
        let cluster = PrivatePostgres::start_with(&state, &QUICK).await.unwrap();
        let pid = server.running().unwrap().pid;
        forget(cluster);
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        assert!(killed.success());
        while server.running().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let pid_file = server.data().join("postmaster.pid");
        let text = fs::read_to_string(&pid_file).unwrap();
        let stolen = text.replacen(&pid.to_string(), &std::process::id().to_string(), 1);
        fs::write(&pid_file, stolen).unwrap();
        let cluster = PrivatePostgres::start_with(&state, &QUICK).await.unwrap();
        assert_eq!(query(&cluster, "SELECT word FROM kept").await, ["here"]);
        drop(cluster);
        assert!(server.running().is_none(), "dropping stops it too");

        // A cluster of another version is not touched.
        fs::write(server.data().join("PG_VERSION"), "11\n").unwrap();
        let error = PrivatePostgres::start_with(&state, &QUICK).await.unwrap_err();
        assert!(
            matches!(&error, ClusterError::Version { cluster, .. } if cluster == "11"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_long_path_gets_its_socket_elsewhere() {
        let (_folder, state) = state(&"long".repeat(30));
        let cluster = PrivatePostgres::start_with(&state, &QUICK).await.unwrap();
        let extra = cluster.running.as_ref().unwrap().socket_folder.clone();
        assert!(extra.starts_with("/tmp"), "{extra:?}");
        assert_eq!(query(&cluster, "SHOW fsync").await, ["off"]);
        cluster.stop().await.unwrap();
        assert!(!extra.exists());
    }

    #[tokio::test]
    async fn a_server_that_cannot_start_says_why() {
        let (_folder, state) = state("state");
        let cluster = PrivatePostgres::start_with(&state, &QUICK).await.unwrap();
        cluster.stop().await.unwrap();
        let settings = PostgresSettings { max_connections: 0, ..QUICK };
        let error = PrivatePostgres::start_with(&state, &settings).await.unwrap_err();
        assert!(error.to_string().contains("max_connections"), "{error}");
        assert!(PrivatePostgres::start_with(&state, &QUICK).await.is_ok());
    }

    #[tokio::test]
    async fn a_lock_that_becomes_free_is_taken() {
        let (_folder, state) = state("state");
        fs::create_dir(&state).unwrap();
        let held = File::create(state.join("postgres.lock")).unwrap();
        held.lock().unwrap();
        let (cluster, ()) = tokio::join!(PrivatePostgres::start_with(&state, &QUICK), async {
            tokio::time::sleep(SPAWN_LIMIT * 2).await;
            drop(held);
        });
        let cluster = cluster.unwrap();
        assert!(cluster.is_ours(), "the other process has ended");
        cluster.stop().await.unwrap();
    }

    #[tokio::test]
    async fn root_names_the_folder_that_postgres_cannot_enter() {
        if own_uid().unwrap() != 0 {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let error =
            PrivatePostgres::start_with(&folder.path().join("state"), &QUICK).await.unwrap_err();
        let ClusterError::NotTraversable { folder: named, .. } = &error else { panic!("{error}") };
        assert_eq!(named, folder.path());
    }

    #[test]
    fn the_url_is_quoted() {
        assert_eq!(
            url(Path::new("/a b/c&d"), "x"),
            "postgres://metalbot@localhost:5432/x?host=/a%20b/c%26d&sslmode=disable"
        );
    }
}
