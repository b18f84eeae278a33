//! Questions. Nothing here writes.

use sqlx::PgConnection;

use super::submit::no_such_batch;
use super::{App, Error};
use crate::domain::host::HostName;
use crate::domain::ids::BatchId;
use crate::domain::notice::{HostView, Notice};
use crate::store::{job, mark, view};

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
    let marks = mark::of_hosts(conn, hosts).await?;
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
            mark: marks.iter().find(|mark| mark.host == host.name).cloned(),
            history: history.remove(&host.name).unwrap_or_default(),
        })
        .collect();
    Ok(Notice::HostStatus { hosts })
}
