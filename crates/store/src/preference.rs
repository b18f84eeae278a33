//! Preferences of people and channels for notices; see `domain::notify`.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::corrupt;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::notify::{ChannelSetting, Preferences};

/// Preferences of a person; the default until they chose.
pub async fn of(conn: &mut PgConnection, login: &str) -> sqlx::Result<Preferences> {
    let row = sqlx::query!(
        "select complete, failures, waves, approvals, digest from preference where login = $1",
        login
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(Preferences::default()) };
    Ok(Preferences {
        complete: row.complete.parse().map_err(corrupt)?,
        failures: row.failures.parse().map_err(corrupt)?,
        waves: row.waves.parse().map_err(corrupt)?,
        approvals: row.approvals.parse().map_err(corrupt)?,
        digest: row.digest,
    })
}

/// Stores the preferences of a person.
pub async fn set(conn: &mut PgConnection, login: &str, who: &Preferences) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into preference (login, complete, failures, waves, approvals, digest)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (login) do update set complete = excluded.complete,
             failures = excluded.failures, waves = excluded.waves,
             approvals = excluded.approvals, digest = excluded.digest",
        login,
        who.complete.as_str(),
        who.failures.as_str(),
        who.waves.as_str(),
        who.approvals.as_str(),
        who.digest
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Logins of those who want a direct message when something waits for their approval.
pub async fn told_of_approvals(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!("select login from preference where approvals = 'dm' order by login")
        .fetch_all(conn)
        .await
}

/// Setting of a channel; the default until somebody chose.
pub async fn channel(conn: &mut PgConnection, at: &ChatLocation) -> sqlx::Result<ChannelSetting> {
    let row = sqlx::query!(
        "select actions, verbosity from channel_setting where platform = $1 and channel = $2",
        at.platform,
        at.channel
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(ChannelSetting::default()) };
    Ok(ChannelSetting {
        actions: row.actions.map(|actions| actions.into_iter().collect::<BTreeSet<String>>()),
        verbosity: row.verbosity.parse().map_err(corrupt)?,
    })
}

/// Stores the setting of a channel.
pub async fn set_channel(
    conn: &mut PgConnection,
    at: &ChatLocation,
    setting: &ChannelSetting,
) -> sqlx::Result<()> {
    let actions: Option<Vec<String>> =
        setting.actions.as_ref().map(|actions| actions.iter().cloned().collect());
    sqlx::query!(
        "insert into channel_setting (platform, channel, actions, verbosity)
         values ($1, $2, $3, $4)
         on conflict (platform, channel)
             do update set actions = excluded.actions, verbosity = excluded.verbosity",
        at.platform,
        at.channel,
        actions.as_deref(),
        setting.verbosity.as_str()
    )
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;
    use metalbot_core::domain::notify::{DeliveryPreference, Verbosity};

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_was_chosen_is_kept(pool: PgPool) {
        let mut conn = pool.acquire().await.unwrap();
        assert_eq!(of(&mut conn, "alice").await.unwrap(), Preferences::default());
        let who = Preferences {
            approvals: DeliveryPreference::Dm,
            complete: DeliveryPreference::Off,
            digest: false,
            ..Preferences::default()
        };
        set(&mut conn, "bob", &Preferences::default()).await.unwrap();
        set(&mut conn, "alice", &Preferences::default()).await.unwrap();
        set(&mut conn, "alice", &who).await.unwrap();
        assert_eq!(of(&mut conn, "alice").await.unwrap(), who);
        assert_eq!(told_of_approvals(&mut conn).await.unwrap(), ["alice"]);

        let at = ChatLocation { platform: "slack".into(), channel: "C1".into(), thread: None };
        assert_eq!(channel(&mut conn, &at).await.unwrap(), ChannelSetting::default());
        let wipes = ChannelSetting {
            actions: Some(["wipe".into(), "reboot".into()].into()),
            verbosity: Verbosity::Failures,
        };
        for setting in [wipes, ChannelSetting::default()] {
            set_channel(&mut conn, &at, &setting).await.unwrap();
            assert_eq!(channel(&mut conn, &at).await.unwrap(), setting);
        }
    }
}
