//! Where people see what Metalbot says. A batch whose card nobody can see must not hold hosts, so
//! that none is asked for in a channel that is known to be closed.

use sqlx::{PgConnection, PgPool};

use metalbot_core::domain::channel_access::ChannelAccess;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_store::channel_access;

use super::App;

pub use metalbot_store::channel_access::opened;

/// Returns what is known of a channel without asking its platform. A channel of a platform that
/// cannot be asked counts as open.
pub(super) async fn access(
    conn: &mut PgConnection,
    app: &App,
    at: &ChatLocation,
) -> sqlx::Result<ChannelAccess> {
    Ok(match channel_access::access(conn, at).await? {
        ChannelAccess::Unknown if !app.platforms.contains_key(at.platform.as_str()) => {
            ChannelAccess::Open
        }
        known => known,
    })
}

/// Asks the platform, with no transaction open, what has to be done before people see there what
/// Metalbot says. A platform that does not answer is taken at its best: it may show the card later,
/// and the submitter is told when it does not.
pub async fn ask(pool: &PgPool, app: &App, at: &ChatLocation) -> sqlx::Result<Option<String>> {
    let mut conn = pool.acquire().await?;
    match channel_access::access(&mut conn, at).await? {
        ChannelAccess::Open => return Ok(None),
        ChannelAccess::Closed { what_to_do } => return Ok(Some(what_to_do)),
        ChannelAccess::Unknown => {}
    }
    drop(conn);
    let Some(platform) = app.platforms.get(at.platform.as_str()) else { return Ok(None) };
    let closed = match platform.closed(at).await {
        Ok(closed) => closed,
        Err(error) => {
            tracing::warn!(%error, channel = at.channel, "cannot ask whether a channel is open");
            None
        }
    };
    channel_access::remember(pool, at, closed.as_deref()).await?;
    Ok(closed)
}
