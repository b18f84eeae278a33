//! Access to channels: whether Metalbot's messages are visible there. A batch whose card nobody can
//! see must not hold hosts, so no batch is accepted from a channel that is known to be closed.

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

/// Asks the platform, with no transaction open, what people have to do before they can see
/// Metalbot's messages in a channel; `None` if they can see them now. If the platform does not
/// answer, the channel counts as open: the card may be shown later, and the submitter is told if it
/// is not.
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
            let channel = at.channel.as_str();
            tracing::warn!(%error, channel, "cannot ask whether a channel is open; taken as open");
            None
        }
    };
    channel_access::remember(pool, at, closed.as_deref()).await?;
    Ok(closed)
}
