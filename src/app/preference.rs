//! Preferences for notices: `/metal notify`, for oneself and for a channel.

use serde_json::json;
use sqlx::PgTransaction;

use super::error::Conflict;
use super::{App, Error, RequestContext};
use crate::identity::authz::{Authorised, Permission, authorise};
use metalbot_core::command::Notify;
use metalbot_core::domain::reply::Reply;
use metalbot_store::{audit, preference};

/// Makes the change, if one is asked for, and answers with the preferences of the person and of the
/// channel.
pub async fn notify(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    change: Notify,
) -> Result<Reply, Error> {
    let login = ctx.login();
    let mut mine = preference::of(tx, login).await?;
    let channel = ctx.origin.location();
    let mut here = match channel {
        Some(channel) => Some(preference::channel(tx, channel).await?),
        None => None,
    };
    let changed = match change {
        Notify::Show => false,
        Notify::Mine(changes) => {
            mine = mine.changed(&changes);
            preference::set(tx, login, &mine).await?;
            true
        }
        Notify::Here(change) => {
            let _: Authorised = authorise(&app.policy, &ctx.principal, Permission::Tune)?;
            let (Some(channel), Some(setting)) = (channel, here) else {
                return Err(Conflict::NotInAChannel.into());
            };
            let setting = setting.changed(change);
            preference::set_channel(tx, channel, &setting).await?;
            // This changes the notices that other people get.
            let detail = json!({ "channel": channel.channel, "setting": setting });
            here = Some(setting);
            audit::record(tx, &ctx.actor(), "channel.tuned", None, detail).await?;
            true
        }
    };
    Ok(Reply::Preferences { mine, here, changed })
}
