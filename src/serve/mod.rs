//! `metalbot serve`: the composition root. Only this module constructs what runs.

mod health;
mod http;
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

/// Runs until a signal comes or a part breaks; the process ends with the code.
pub async fn serve(file: &Path, roles: Roles) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    telemetry::init(config.log.format, &config.log.filter)?;
    let metrics = telemetry::install()?;
    let database = Database::open(config.database.url(), &config.state_dir).await?;
    let options = StartOptions { metrics: Some(metrics), extension: None };
    let mut service = Service::start(&config, &database.url, roles, options).await?;
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
