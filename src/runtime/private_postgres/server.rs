//! The server's folder and programs: making, starting, waiting. [`super::PrivatePostgres`] stops
//! the server.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use super::binaries::{self, Binaries};
use super::{ClusterError, NAME, PostgresSettings, START_LIMIT, io_error};

/// Number in the name of the socket file; nothing listens on a network.
const PORT: u16 = 5432;
/// Longest path of a Unix socket that every system takes (macOS: 104 bytes with the end mark).
const SOCKET_PATH_MAX: usize = 103;

/// Folder of a cluster, with the programs and the user that run it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) root: PathBuf,
    binaries: Binaries,
    /// User and group to run as; `None` for our own.
    run_as: Option<(u32, u32)>,
}

/// Entries of `postmaster.pid` about a running server.
pub(super) struct Postmaster {
    pub(super) pid: u32,
    pub(super) socket_folder: PathBuf,
}

impl Server {
    pub(super) fn find(root: PathBuf) -> Result<Server, ClusterError> {
        let run_as = run_as()?;
        let made_by = fs::read_to_string(root.join("data/PG_VERSION")).ok();
        let made_by = made_by.as_deref().map(str::trim);
        let installed = binaries::find();
        if installed.is_empty() {
            return Err(ClusterError::NoBinaries { looked: binaries::LOOKED.into() });
        }
        let mut versions: Vec<String> = installed.iter().map(Binaries::major).collect();
        versions.dedup();
        let fitting =
            installed.into_iter().find(|one| made_by.is_none_or(|version| version == one.major()));
        match (fitting, made_by) {
            (Some(binaries), _) => Ok(Server { root, binaries, run_as }),
            (None, made_by) => Err(ClusterError::Version {
                folder: root,
                cluster: made_by.unwrap_or_default().into(),
                installed: versions,
            }),
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.with_extension("log")
    }

    /// Builds the command of a PostgreSQL program, run as the cluster's user and in a process group
    /// of its own, so that the terminal's signals do not reach it.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.folder.join(program));
        command.current_dir(&self.root).stdin(Stdio::null()).process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        // Error texts are shown to operators and compared by this program, so they must be English.
        command.env("LC_ALL", "C");
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Makes a private folder that belongs to the cluster's user.
    fn make_private(&self, folder: &Path) -> Result<(), ClusterError> {
        let what = || format!("cannot make {}", folder.display());
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => {
                if let Some((uid, gid)) = self.run_as {
                    lchown(folder, Some(uid), Some(gid)).map_err(io_error(what()))?;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(io_error(what())(error)),
        }
    }

    pub(super) fn make_folder(&self) -> Result<(), ClusterError> {
        self.make_private(&self.root)?;
        let metadata = fs::metadata(&self.root)
            .map_err(io_error(format!("cannot read {}", self.root.display())))?;
        let uid = match self.run_as {
            Some((uid, _)) => uid,
            None => own_uid()?,
        };
        if metadata.uid() != uid {
            let (folder, owner) = (self.root.clone(), metadata.uid());
            return Err(ClusterError::ForeignFolder { folder, owner, uid });
        }
        let Some((uid, gid)) = self.run_as else { return Ok(()) };
        let mut path = PathBuf::new();
        for part in self.root.components() {
            path.push(part);
            // The kernel decides, by group memberships and access lists too.
            let enters = Command::new("/bin/sh")
                .args(["-c", "cd \"$1\"", "sh"])
                .arg(&path)
                .current_dir("/")
                .stderr(Stdio::null())
                .uid(uid)
                .gid(gid)
                .status()
                .map_err(io_error("cannot run /bin/sh"))?;
            if !enters.success() {
                return Err(ClusterError::NotTraversable { folder: path, uid });
            }
        }
        Ok(())
    }

    /// Makes the cluster once. The folder gets its final name only when it is complete.
    pub(super) fn init(&self) -> Result<(), ClusterError> {
        if self.data().join("PG_VERSION").exists() {
            return Ok(());
        }
        let unfinished = self.root.join("data.unfinished");
        if unfinished.exists() {
            let what = format!("cannot remove {}", unfinished.display());
            fs::remove_dir_all(&unfinished).map_err(io_error(what))?;
        }
        let mut initdb = self.command("initdb");
        initdb
            .args(["--username", NAME, "--encoding=UTF8", "--locale=C", "--no-instructions"])
            // The mode of the socket's folder protects it: only its owner and root can enter.
            .args(["--auth-local=trust", "--auth-host=reject", "--pgdata"]);
        run("initdb", initdb.arg(&unfinished))?;
        fs::rename(&unfinished, self.data())
            .map_err(io_error(format!("cannot rename {}", unfinished.display())))
    }

    /// The running server of this folder, if there is one.
    pub(super) fn running(&self) -> Option<Postmaster> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid: u32 = lines.next()?.trim().parse().ok()?;
        let socket_folder = PathBuf::from(lines.nth(3)?.trim());
        let alive = binaries::is_server_of(pid, &self.data());
        (alive && socket_folder.is_absolute()).then_some(Postmaster { pid, socket_folder })
    }

    /// Removes `postmaster.pid` if its pid now belongs to another program, as can happen after
    /// `kill -9` or a reboot: PostgreSQL would take that program for a running server. A pid that
    /// no process has needs nothing, because PostgreSQL removes such a file itself.
    pub(super) fn clear_stale_pid(&self) -> Result<(), ClusterError> {
        let file = self.data().join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&file) else { return Ok(()) };
        let pid = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
        if pid.is_some_and(binaries::is_alive) {
            tracing::warn!(?pid, "removing postmaster.pid, because its pid is another program's");
            fs::remove_file(&file)
                .map_err(io_error(format!("cannot remove {}", file.display())))?;
        }
        Ok(())
    }

    /// Makes the folder of the socket: in the state folder, or in `/tmp` when the path would be too
    /// long for a socket.
    pub(super) fn socket_folder(&self) -> Result<PathBuf, ClusterError> {
        let names = [format!(".s.PGSQL.{PORT}.lock"), format!(".s.PGSQL.{PORT}")];
        let near = self.root.join("run");
        if near.as_os_str().len() + 1 + names[0].len() > SOCKET_PATH_MAX {
            // Random, so that nobody can have made the folder before.
            let far = PathBuf::from(format!("/tmp/metalbot-{:032x}", rand::random::<u128>()));
            self.make_private(&far)?;
            return Ok(far);
        }
        self.make_private(&near)?;
        for name in names {
            // No server of this folder runs, so these files are stale, whatever pid they hold.
            let _ = fs::remove_file(near.join(name));
        }
        Ok(near)
    }

    pub(super) fn spawn(
        &self,
        socket_folder: &Path,
        settings: &PostgresSettings,
    ) -> Result<Child, ClusterError> {
        let folder = socket_folder.to_string_lossy().replace('"', "\"\"");
        let mut options = vec![
            "listen_addresses=".to_owned(),
            format!("port={PORT}"),
            format!("unix_socket_directories=\"{folder}\""),
            "unix_socket_permissions=0700".into(),
            format!("max_connections={}", settings.max_connections),
            "logging_collector=off".into(),
            "log_destination=stderr".into(),
            "timezone=UTC".into(),
            "log_timezone=UTC".into(),
        ];
        if !settings.fsync {
            options.extend(
                ["fsync", "synchronous_commit", "full_page_writes"].map(|o| format!("{o}=off")),
            );
        }
        let log = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.log())
            .map_err(io_error(format!("cannot write {}", self.log().display())))?;
        let both = log.try_clone().map_err(io_error("cannot open the log twice"))?;
        self.command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(options.iter().flat_map(|option| ["-c", option]))
            .stdout(log)
            .stderr(both)
            .spawn()
            .map_err(io_error("cannot run postgres"))
    }

    /// Waits until the server answers. Fails at once if it ends, and after `START_LIMIT`.
    pub(super) async fn wait_ready(
        &self,
        socket_folder: &Path,
        mut child: Option<&mut Child>,
    ) -> Result<(), ClusterError> {
        let begin = Instant::now();
        let url = url(socket_folder, "postgres");
        loop {
            if let Ok(connection) = PgConnection::connect(&url).await {
                return Ok(connection.close().await?);
            }
            let ended = match child.as_deref_mut() {
                Some(child) => child.try_wait().ok().flatten().is_some(),
                None => self.running().is_none(),
            };
            if ended || begin.elapsed() > START_LIMIT {
                let text = fs::read(self.log()).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().rev().take(8).collect();
                let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
                return Err(ClusterError::NotStarted { log: self.log(), tail });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn make_database(&self, socket_folder: &Path) -> Result<(), ClusterError> {
        let mut connection = PgConnection::connect(&url(socket_folder, "postgres")).await?;
        let exists: Option<i32> =
            sqlx::query_scalar("SELECT 1 FROM pg_database WHERE datname = $1")
                .bind(NAME)
                .fetch_optional(&mut connection)
                .await?;
        if exists.is_none() {
            sqlx::query("CREATE DATABASE metalbot").execute(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }
}

/// URL of a database on the server whose socket is in this folder.
pub(super) fn url(socket_folder: &Path, database: &str) -> String {
    let mut folder = String::new();
    for byte in socket_folder.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                folder.push(char::from(*byte));
            }
            other => folder += &format!("%{other:02X}"),
        }
    }
    format!("postgres://{NAME}@localhost:{PORT}/{database}?host={folder}&sslmode=disable")
}

pub(super) fn run(program: &'static str, command: &mut Command) -> Result<(), ClusterError> {
    let output = command.output().map_err(io_error(format!("cannot run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(ClusterError::Program { program, output: String::from_utf8_lossy(&text).trim().into() })
}

/// User and group to run as: those of `postgres` if we are root, otherwise our own (`None`).
fn run_as() -> Result<Option<(u32, u32)>, ClusterError> {
    if own_uid()? != 0 {
        return Ok(None);
    }
    match (id(&["-u", "postgres"])?, id(&["-g", "postgres"])?) {
        (Some(uid), Some(gid)) => Ok(Some((uid, gid))),
        _ => Err(ClusterError::NoUser),
    }
}

pub(super) fn own_uid() -> Result<u32, ClusterError> {
    let unknown = || io_error("cannot learn who we are")(io::Error::other("`id -u` failed"));
    id(&["-u"])?.ok_or_else(unknown)
}

/// Asks the program `id`, which knows all of the system's sources of users; `None` for an unknown
/// user.
fn id(arguments: &[&str]) -> Result<Option<u32>, ClusterError> {
    let output =
        Command::new("id").args(arguments).output().map_err(io_error("cannot run `id`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
}
