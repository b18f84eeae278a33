//! `metalbot serve` as a process of its own, on a private PostgreSQL with its default durability.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use metalbot::runtime::private_postgres::PrivatePostgres;
use metalbot_store as store;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tempfile::TempDir;

/// Longest that anything is waited for.
const LONG: Duration = Duration::from_secs(120);

/// A folder for the configuration, and the database beside it.
pub struct Site {
    folder: TempDir,
    cluster: PrivatePostgres,
    /// The bench's own connections.
    pub pool: PgPool,
}

impl Site {
    /// Starts the database; with `profile` it counts what its statements cost.
    pub async fn new(profile: bool) -> anyhow::Result<Site> {
        let folder = tempfile::tempdir()?;
        // Root's server runs as another user.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711))?;
        let state = folder.path().join("state");
        let mut cluster = PrivatePostgres::start(&state).await?;
        if profile {
            let mut conn = PgConnection::connect(cluster.url()).await?;
            let preload = "alter system set shared_preload_libraries = 'pg_stat_statements'";
            conn.execute(preload).await?;
            conn.close().await?;
            cluster.stop().await?;
            cluster = PrivatePostgres::start(&state).await?;
        }
        let pool = store::connect_lazy(
            &store::DatabaseAddress::read(cluster.url())?,
            8,
            store::PoolRole::Maintenance,
        );
        if profile {
            pool.execute("create extension pg_stat_statements").await?;
        }
        let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&pool).await?;
        ensure!(fsync == "on", "what is not durable is not measured");
        Ok(Site { folder, cluster, pool })
    }

    /// Where `metalbot.toml` and what it names belong.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts Metalbot with the configuration in the folder.
    pub async fn serve(&self) -> anyhow::Result<Server> {
        Server::start(self.folder(), self.cluster.url()).await
    }

    /// Stops the database. With `profile`, prints first what cost it most.
    pub async fn close(self, profile: bool) -> anyhow::Result<()> {
        if profile {
            print_profile(&self.pool).await?;
        }
        self.pool.close().await;
        Ok(self.cluster.stop().await?)
    }
}

async fn print_profile(pool: &PgPool) -> anyhow::Result<()> {
    let statements: Vec<(i64, f64, i64, f64, String)> = sqlx::query_as(
        "select calls, total_exec_time, rows, wal_bytes::float8,
             left(regexp_replace(query, '\\s+', ' ', 'g'), 100)
         from pg_stat_statements order by total_exec_time desc limit 25",
    )
    .fetch_all(pool)
    .await?;
    println!("\n   calls        ms       rows  WAL KiB  statement");
    for (calls, ms, rows, wal, query) in statements {
        println!("{calls:>8}  {ms:>8.0}  {rows:>9}  {:>7.0}  {query}", wal / 1024.0);
    }
    Ok(())
}

/// `metalbot serve`; it ends with this value.
pub struct Server {
    process: Child,
    postmaster: u32,
    /// Address of its web door.
    pub base: String,
}

impl Server {
    async fn start(folder: &Path, database_url: &str) -> anyhow::Result<Server> {
        let pid_file = folder.join("state/postgres/data/postmaster.pid");
        let pid_file = fs::read_to_string(pid_file).context("the cluster's pid")?;
        let postmaster = pid_file.lines().next().context("the cluster's pid")?.trim().parse()?;
        let log = folder.join("serve.log");
        let process = Command::new(env!("CARGO_BIN_EXE_metalbot"))
            .args(["serve", "--config"])
            .arg(folder.join("metalbot.toml"))
            .env("DATABASE_URL", database_url)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let mut server = Server { process, postmaster, base: String::new() };
        let started = Instant::now();
        while server.base.is_empty() {
            let said = fs::read_to_string(&log)?;
            let ended = server.process.try_wait()?;
            ensure!(
                ended.is_none() && started.elapsed() < LONG,
                "metalbot does not serve:\n{said}"
            );
            if let Some((_, rest)) = said.split_once("metalbot has started and is serving address=")
                && let Some((address, _)) = rest.split_once(' ')
            {
                server.base = format!("http://{address}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    /// CPU seconds so far of Metalbot, of PostgreSQL and of another process.
    pub fn cpu(&self, other: u32) -> anyhow::Result<[f64; 3]> {
        let mut spent = [0.0; 3];
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            // It may have ended meanwhile.
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
            // proc_pid_stat(5), from the third field on: 4 is the parent, 14 and 15 are user and
            // system time, 16 and 17 those of children that ended.
            let fields: Vec<&str> = rest.split(' ').collect();
            let field =
                |number: usize| fields.get(number - 3).and_then(|it| it.parse::<f64>().ok());
            let ticks = field(14).unwrap_or(0.0) + field(15).unwrap_or(0.0);
            let reaped = field(16).unwrap_or(0.0) + field(17).unwrap_or(0.0);
            if pid == self.process.id() {
                spent[0] += ticks;
            } else if pid == self.postmaster {
                spent[1] += ticks + reaped;
            } else if field(4) == Some(f64::from(self.postmaster)) {
                spent[1] += ticks;
            } else if pid == other {
                spent[2] += ticks;
            }
        }
        // USER_HZ is 100 on every Linux that Rust runs on.
        Ok(spent.map(|ticks| ticks / 100.0))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
