//! Queries. Nothing here writes.

use sqlx::{PgConnection, PgPool};

use super::error::{Conflict, NotFound};
use super::{App, Error};
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::view::{BatchLine, BatchView, HostView};
use metalbot_store::{card, host_wont_fix, job, view};

/// Lines of `/metal list`.
const LISTED: i64 = 15;
/// Batches shown for each host.
const HISTORY: i64 = 5;
/// Most hosts that one `/metal status host` shows.
const HOSTS: usize = 20;

/// The message that shows a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CardAddress {
    pub location: ChatLocation,
    /// The platform's own id of the message.
    pub message: String,
    /// Address that shows it, where the platform has such addresses.
    pub permalink: Option<String>,
}

/// The card of a batch; `None` when none was posted.
pub async fn card(pool: &PgPool, batch: BatchId) -> sqlx::Result<Option<CardAddress>> {
    let Some((platform, channel, message)) = card::message_of(pool, batch).await? else {
        return Ok(None);
    };
    let permalink = card::permalinks(&mut *pool.acquire().await?, &[batch]).await?.remove(&batch);
    let location = ChatLocation::channel(platform, channel);
    Ok(Some(CardAddress { location, message, permalink }))
}

/// A batch as it stands now.
pub async fn batch(conn: &mut PgConnection, id: BatchId) -> Result<BatchView, Error> {
    view::batch_view(conn, id).await?.ok_or_else(|| NotFound::Batch(id).into())
}

/// The newest batches.
pub async fn list(conn: &mut PgConnection, of: Option<&str>) -> Result<Vec<BatchLine>, Error> {
    Ok(view::list(conn, of, LISTED).await?)
}

/// Hosts, each with the batches that worked on it lately.
pub async fn hosts(
    conn: &mut PgConnection,
    app: &App,
    hosts: &[HostName],
) -> Result<Vec<HostView>, Error> {
    if hosts.len() > HOSTS {
        return Err(Conflict::TooManyHosts { asked: hosts.len(), most: HOSTS }.into());
    }
    let mut history = job::history(&mut *conn, hosts, HISTORY).await?;
    let wont_fix = host_wont_fix::of_hosts(conn, hosts).await?;
    let inventory = app.inventory.current();
    Ok(hosts
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
        .collect())
}
