//! `metalbot migrate`: the schema alone, for sites that let nothing else change it.

use std::path::Path;
use std::process::ExitCode;

use crate::config::Config;
use crate::runtime::database::Database;
use metalbot_store as store;

pub(super) async fn migrate(file: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let database = Database::open(&config).await?;
    let pool = store::connect_lazy(&database.url, 2)?;
    store::MIGRATIONS.run(&pool).await?;
    pool.close().await;
    database.close().await?;
    println!("The database is up to date.");
    Ok(ExitCode::SUCCESS)
}
