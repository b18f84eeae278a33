//! Questions. Nothing here writes.

use sqlx::PgConnection;

use super::submit::no_such_batch;
use super::{App, Error};
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::notice::{HostView, Notice};
use metalbot_store::{host_wont_fix, job, view};

/// Lines of `/metal list`.
const LISTED: i64 = 15;
/// Batches told of each host.
const HISTORY: i64 = 5;
/// Hosts that one `/metal status host` tells of.
const HOSTS: usize = 20;

/// Where a batch stands.
pub async fn batch(conn: &mut PgConnection, id: BatchId) -> Result<Notice, Error> {
    let batch = view::batch_view(conn, id).await?.ok_or_else(|| no_such_batch(id))?;
    Ok(Notice::Status { batch: Box::new(batch) })
}

/// The newest batches.
pub async fn list(conn: &mut PgConnection, of: Option<&str>) -> Result<Notice, Error> {
    let batches = view::list(conn, of, LISTED).await?;
    Ok(Notice::List { mine: of.is_some(), batches })
}

/// What happened to some hosts lately.
pub async fn hosts(
    conn: &mut PgConnection,
    app: &App,
    hosts: &[HostName],
) -> Result<Notice, Error> {
    if hosts.len() > HOSTS {
        return Err(Error::Conflict(format!(
            "that is {} hosts: ask about {HOSTS} at a time",
            hosts.len()
        )));
    }
    let mut history = job::history(&mut *conn, hosts, HISTORY).await?;
    let wont_fix = host_wont_fix::of_hosts(conn, hosts).await?;
    let inventory = app.inventory.current();
    let hosts = hosts
        .iter()
        .filter_map(|name| inventory.get(name))
        .map(|host| HostView {
            host: host.name.clone(),
            owner: host.owner.clone(),
            datacenter: host.datacenter.clone(),
            rack: host.rack.clone(),
            sku: host.sku.clone(),
            wont_fix: wont_fix.iter().find(|one| one.host == host.name).cloned(),
            history: history.remove(&host.name).unwrap_or_default(),
        })
        .collect();
    Ok(Notice::HostStatus { hosts })
}
