//! `metalbot operator migrate`: the schema alone, for sites that let nothing else change it.

use std::path::Path;
use std::process::ExitCode;

use super::database::OpenDatabase;
use super::output::print;
use metalbot_store::schema;

pub(super) async fn migrate(file: &Path) -> anyhow::Result<ExitCode> {
    let database = OpenDatabase::open_or_make(file).await?;
    schema::migrate(&database.pool).await?;
    database.close().await?;
    print("The database is up to date.")?;
    Ok(ExitCode::SUCCESS)
}
