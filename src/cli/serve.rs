//! `metalbot serve`: the real thing.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::roles::Roles;
use super::service::{Extras, Service};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::telemetry;

/// A configured database, or a private cluster that lives as long as this value.
pub struct Database {
    pub url: String,
    cluster: Option<Cluster>,
}

impl Database {
    /// Finds or starts the database.
    pub async fn open(config: &Config) -> anyhow::Result<Database> {
        match config.database.url() {
            Some(url) => Ok(Database { url: url.expose().to_owned(), cluster: None }),
            None => {
                let cluster = Cluster::start(&config.state_dir).await?;
                Ok(Database { url: cluster.url().to_owned(), cluster: Some(cluster) })
            }
        }
    }

    /// The database that `metalbot serve` works with. Starts none.
    pub async fn of_service(config: &Config) -> anyhow::Result<Database> {
        if let Some(url) = config.database.url() {
            return Ok(Database { url: url.expose().to_owned(), cluster: None });
        }
        let cluster = Cluster::join(&config.state_dir).await?;
        let cluster = cluster.with_context(|| {
            format!(
                "no `metalbot serve` runs with the state folder {}: start it first",
                config.state_dir.display()
            )
        })?;
        Ok(Database { url: cluster.url().to_owned(), cluster: Some(cluster) })
    }

    /// Stops what was started.
    pub async fn close(self) -> anyhow::Result<()> {
        match self.cluster {
            Some(cluster) => Ok(cluster.stop().await?),
            None => Ok(()),
        }
    }
}

pub(super) async fn serve(file: &Path, roles: Roles) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    telemetry::init(config.log.format, &config.log.filter)?;
    let metrics = telemetry::install()?;
    let database = Database::open(&config).await?;
    let extras = Extras { metrics: Some(metrics), ..Extras::default() };
    let mut service = Service::start(&config, &database.url, roles, extras).await?;
    match service.address {
        Some(address) => tracing::info!(%address, ?roles, "metalbot serves"),
        None => tracing::info!(?roles, "metalbot works"),
    }
    let code = tokio::select! {
        signal = stop_signal() => {
            tracing::info!(signal = signal?, "stopping");
            ExitCode::SUCCESS
        }
        () = service.broken() => ExitCode::FAILURE,
    };
    service.stop().await;
    database.close().await?;
    tracing::info!("stopped");
    Ok(code)
}

/// Waits until the process is asked to stop.
pub async fn stop_signal() -> anyhow::Result<&'static str> {
    Ok(StopSignals::listen()?.next().await)
}

/// The signals that ask the process to stop, from the moment on that they are listened to.
pub struct StopSignals {
    term: Signal,
    interrupt: Signal,
    /// Where nobody chose to ignore it: what `nohup` starts outlives its terminal.
    hangup: Option<Signal>,
}

impl StopSignals {
    pub fn listen() -> anyhow::Result<StopSignals> {
        Ok(StopSignals {
            term: signal(SignalKind::terminate()).context("SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT")?,
            hangup: match hangups_are_ignored() {
                true => None,
                false => Some(signal(SignalKind::hangup()).context("SIGHUP")?),
            },
        })
    }

    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = next(&mut self.hangup) => "SIGHUP",
        }
    }
}

async fn next(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether this process was started with SIGHUP ignored, by the mask of proc(5).
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (SignalKind::hangup().as_raw_value() - 1) != 0)
}
