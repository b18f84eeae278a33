//! What people want to be told: `/metal notify`, for oneself and for a channel.

use serde_json::json;
use sqlx::PgTransaction;

use super::{App, Ask, Error};
use crate::identity::authz::{Authorised, Permission, authorise};
use metalbot_core::command::Notify;
use metalbot_core::domain::notice::Notice;
use metalbot_store::{audit, preference};

/// Shows what the person and the channel are told, after the change asked for.
pub async fn notify(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ask: Ask<'_>,
    change: Notify,
) -> Result<Notice, Error> {
    let login = &ask.who.login;
    let mut mine = preference::of(tx, login).await?;
    let mut here = preference::channel(tx, ask.place).await?;
    let changed = match change {
        Notify::Show => false,
        Notify::Mine(changes) => {
            mine = mine.changed(&changes);
            preference::set(tx, login, &mine).await?;
            true
        }
        Notify::Here(change) => {
            let _: Authorised = authorise(&app.policy, ask.who, Permission::Tune)?;
            here = here.changed(change);
            preference::set_channel(tx, ask.place, &here).await?;
            // It changes what others hear.
            let detail = json!({ "channel": ask.place.channel, "setting": here });
            audit::record(tx, &ask.actor(), "channel.tuned", None, detail).await?;
            true
        }
    };
    Ok(Notice::Notify { mine, here, changed })
}
