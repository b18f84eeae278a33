//! `metalbot serve`: the composition root. Only this module constructs what runs.

pub mod audit;
mod health;
mod http;
mod listener;
mod notices;
pub mod roles;
pub mod service;
pub mod site;
mod slack;
pub mod tasks;
mod tickets;
mod workers;

use std::path::Path;
use std::process::ExitCode;

use roles::Roles;
use service::{Service, StartOptions};

use crate::config::Config;
use crate::runtime::database::Database;
use crate::runtime::shutdown::stop_signal;
use crate::telemetry;

/// Descriptors beside those of connections to the web door and to the database.
const SPARE: u64 = 256;

/// Runs until a signal comes or a part breaks; the process ends with the code.
pub async fn serve(file: &Path, roles: Roles) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    telemetry::init(config.log.format, &config.log.filter)?;
    let metrics = telemetry::install()?;
    let descriptors = listener::raise_descriptor_limit();
    let wanted =
        u64::from(config.http.max_connections) + u64::from(config.database.max_connections);
    // The rest is for BMCs, files and what leaves the site.
    if wanted + SPARE > descriptors {
        tracing::warn!(
            descriptors,
            "http.max_connections and database.max_connections need more descriptors than the system \
             allows this process: lower them, or raise the limit (LimitNOFILE= of systemd)"
        );
    }
    let database = Database::open(config.database.configured(), &config.state_dir).await?;
    let options = StartOptions { metrics: Some(metrics), extension: None };
    let mut service = Service::start(&config, &database.address, roles, options).await?;
    match service.address {
        Some(address) => tracing::info!(%address, ?roles, "metalbot has started and is serving"),
        None => tracing::info!(?roles, "metalbot has started, without a web address"),
    }
    let code = tokio::select! {
        signal = stop_signal() => {
            tracing::info!(signal = signal?, "metalbot is stopping, asked by a signal");
            ExitCode::SUCCESS
        }
        () = service.broken() => ExitCode::FAILURE,
    };
    service.stop().await;
    database.close().await?;
    tracing::info!("metalbot has stopped in order");
    Ok(code)
}
