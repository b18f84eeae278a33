//! `metalbot operator audit verify`.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::database::OpenDatabase;
use super::output::print;
use crate::serve::audit::key;
use metalbot_store::audit::{self, ChainReport, Checkpoint};

pub(super) async fn verify(
    file: &Path,
    expected: Option<&Checkpoint>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let database = OpenDatabase::open(file).await?;
    let key = key(&database.config)?;
    let mut conn = database.pool.acquire().await?;
    let report = audit::verify(&mut conn, key.as_ref(), expected).await?;
    drop(conn);
    database.close().await?;
    let ChainReport { sealed, unsealed, keyed_from, head, broken } = &report;
    let keyed = match keyed_from {
        Some(from) => format!("sealed with the key from row {from} on"),
        None => "sealed without a key".to_owned(),
    };
    let said = match broken {
        _ if as_json => json!({
            "sealed": sealed,
            "unsealed": unsealed,
            "keyed_from": keyed_from,
            "head": head,
            "broken": broken,
        })
        .to_string(),
        None => format!(
            "The audit is whole: {sealed} rows sealed, {unsealed} not yet; {keyed}. \
             Checkpoint: {sealed}:{head}"
        ),
        Some(what) => format!("The audit is BROKEN after {sealed} rows: {what}."),
    };
    print(&said)?;
    Ok(if broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
