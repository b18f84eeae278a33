//! `metalbot audit verify`.

use std::path::Path;
use std::process::ExitCode;

use crate::config::Config;
use crate::runtime::database::Database;
use metalbot_store as store;

pub(super) async fn verify(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let database = Database::open(&config).await?;
    let pool = store::connect_lazy(&database.url, 2)?;
    let mut conn = pool.acquire().await?;
    let report = store::audit::verify(&mut conn).await?;
    drop(conn);
    pool.close().await;
    database.close().await?;
    if json {
        println!(
            "{}",
            serde_json::json!({
                "sealed": report.sealed,
                "unsealed": report.unsealed,
                "head": report.head,
                "broken": report.broken,
            })
        );
    } else {
        match &report.broken {
            None => println!(
                "The audit is whole: {} rows sealed, {} not yet. Head: {}",
                report.sealed, report.unsealed, report.head
            ),
            Some(what) => println!("The audit is BROKEN after {} rows: {what}.", report.sealed),
        }
    }
    Ok(if report.broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
