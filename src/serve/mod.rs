//! `metalbot serve`: the composition root. Only this module constructs what runs.

mod accounts;
mod relays;
pub mod roles;
pub mod service;
mod slack;
mod ticketing;

use std::path::Path;
use std::process::ExitCode;

use roles::Roles;
use service::{Extras, Service};

use crate::config::Config;
use crate::runtime::database::Database;
use crate::runtime::shutdown::stop_signal;
use crate::telemetry;

pub async fn serve(file: &Path, roles: Roles) -> anyhow::Result<ExitCode> {
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
