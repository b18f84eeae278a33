//! `metalbot operator check-config`: what would not work, before anything is started.

use std::io::{Write, stderr};
use std::path::Path;
use std::process::ExitCode;

use anyhow::ensure;
use sqlx::ConnectOptions as _;

use super::output::print;
use crate::config::Config;
use crate::runtime::database::{Configured, Database, DatabaseError};
use crate::serve::site::load;
use metalbot_store::{DatabaseAddress, schema, server};

pub(super) async fn check(file: &Path, connect: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let loaded = load(&config)?;
    let configured = config.database.configured();
    configured.map(Configured::read).transpose()?;
    let mut warnings = loaded.warnings(&config);
    if connect {
        warnings.extend(check_database(&config).await?);
    }
    for warning in warnings {
        let _ = writeln!(stderr(), "warning: {warning}");
    }
    print(&format!(
        "{} is right: {} hosts, {} people, {} actions.",
        file.display(),
        loaded.inventory.current().hosts().len(),
        loaded.directory.current().logins().len(),
        loaded.catalog.actions().len(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Looks at the database, and changes nothing in it. Fails if the service could not work with it;
/// returns what it would still have to do.
async fn check_database(config: &Config) -> anyhow::Result<Vec<String>> {
    let database = Database::existing(config.database.configured(), &config.state_dir).await;
    let database = match database {
        Err(error @ DatabaseError::NotNamed { .. }) => return Ok(vec![error.to_string()]),
        database => database?,
    };
    let looked = look(&database.address).await;
    database.close().await?;
    looked
}

async fn look(address: &DatabaseAddress) -> anyhow::Result<Vec<String>> {
    let unfit = server::look(address).await?;
    let unfit: Vec<String> = unfit.iter().map(|one| format!("{address}: {one}")).collect();
    ensure!(unfit.is_empty(), "{}", unfit.join("\n"));
    let mut conn = address.options().connect().await?;
    let state = schema::state(&mut conn).await?;
    let mut warnings = Vec::new();
    if state.missing > 0 {
        warnings.push(format!(
            "{address}: the schema lacks {} migrations: `metalbot operator migrate` or `metalbot serve` \
             makes them, as a role that may create tables",
            state.missing
        ));
    } else {
        schema::check_rights(&mut conn).await?;
    }
    if state.newer > 0 {
        warnings.push(format!(
            "{address}: the schema is that of a newer release, with which this one can work"
        ));
    }
    Ok(warnings)
}
