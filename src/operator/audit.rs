//! `metalbot operator audit verify`.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::database::OpenDatabase;
use super::output::print;
use metalbot_store::audit::{self, ChainReport};

pub(super) async fn verify(file: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let database = OpenDatabase::open(file).await?;
    let mut conn = database.pool.acquire().await?;
    let report = audit::verify(&mut conn).await?;
    drop(conn);
    database.close().await?;
    let ChainReport { sealed, unsealed, head, broken } = &report;
    let said = match broken {
        _ if as_json => {
            json!({ "sealed": sealed, "unsealed": unsealed, "head": head, "broken": broken })
                .to_string()
        }
        None => {
            format!("The audit is whole: {sealed} rows sealed, {unsealed} not yet. Head: {head}")
        }
        Some(what) => format!("The audit is BROKEN after {sealed} rows: {what}."),
    };
    print(&said)?;
    Ok(if broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
