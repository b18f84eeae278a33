//! Where Metalbot is heard. A batch whose card nobody can see must not hold hosts, so that none is
//! asked for at a place that is known to be closed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{PgConnection, PgPool};

use super::{App, Error};
use metalbot_core::domain::inbound::Place;
use metalbot_store::channel_access;

pub use metalbot_store::channel_access::opened;

/// Asks a platform whether it shows what is said at a place. `Some` says what has to be done first,
/// for people. The error says why it could not be asked.
pub type FindClosed =
    Arc<dyn Fn(Place) -> BoxFuture<'static, Result<Option<String>, String>> + Send + Sync>;

/// Refuses what needs a card at a place that shows none. [`Error::AskWhere`]: the platform must say
/// first whether it does.
pub(super) async fn must_be_open(
    conn: &mut PgConnection,
    app: &App,
    at: &Place,
) -> Result<(), Error> {
    match channel_access::closed(conn, at).await? {
        Some(Some(why)) => Err(Error::Conflict(format!("{why}; nothing was done"))),
        None if app.places.contains_key(at.platform.as_str()) => Err(Error::AskWhere),
        _ => Ok(()),
    }
}

/// Asks the platform, with no transaction open. One that does not answer is taken at its best: it
/// may show the card later, and the submitter is told when it does not.
pub async fn ask(pool: &PgPool, app: &App, at: &Place) -> sqlx::Result<Option<String>> {
    let mut conn = pool.acquire().await?;
    if let Some(known) = channel_access::closed(&mut conn, at).await? {
        return Ok(known);
    }
    drop(conn);
    let Some(find) = app.places.get(at.platform.as_str()) else { return Ok(None) };
    let closed = match find(at.clone()).await {
        Ok(closed) => closed,
        Err(error) => {
            tracing::warn!(error, channel = at.channel, "a platform does not say who hears us");
            None
        }
    };
    channel_access::remember(pool, at, closed.as_deref()).await?;
    Ok(closed)
}
