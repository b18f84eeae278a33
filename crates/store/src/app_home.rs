//! People's own pages on a platform. Like a card, a page is a projection: it is rendered again when
//! the audit has grown since, and what it shows is read then.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::task_lease::interval;
use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::ids::BatchId;

/// A page to be rendered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DueHome {
    pub platform_user_id: String,
    /// Position in the audit up to which the page will show everything.
    pub position: i64,
    pub digest: Option<Vec<u8>>,
    pub attempts: i32,
}

/// Marks a page as opened by its person: it is rendered at once, and kept up to date for a while.
pub async fn opened(pool: &PgPool, platform: &str, platform_user_id: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into app_home (platform, platform_user_id) values ($1, $2)
         on conflict (platform, platform_user_id) do update
             set opened_at = now(), rendered_position = -1, digest = null, due_at = now(),
                 attempts = 0",
        platform,
        platform_user_id
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Pages opened within `kept` that do not show what was recorded last.
pub async fn due(pool: &PgPool, platform: &str, kept: Duration) -> sqlx::Result<Vec<DueHome>> {
    sqlx::query_as!(
        DueHome,
        r#"select platform_user_id, digest, attempts,
                  newest.position as "position!"
           from app_home, (select coalesce(max(position), 0) as position from audit_seal) as newest
           where platform = $1 and due_at <= now() and rendered_position < newest.position
             and opened_at > now() - $2::interval
           order by due_at limit 50"#,
        platform,
        interval(kept) as _
    )
    .fetch_all(pool)
    .await
}

/// Stores that the page shows everything up to its position in the audit; the next time waits for `pause`.
pub async fn rendered(
    pool: &PgPool,
    platform: &str,
    home: &DueHome,
    digest: &[u8],
    pause: Duration,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update app_home set rendered_position = greatest(rendered_position, $3), digest = $4,
             due_at = now() + $5::interval, attempts = 0, last_error = null
         where platform = $1 and platform_user_id = $2",
        platform,
        home.platform_user_id,
        home.position,
        digest,
        interval(pause) as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Stores that the platform did not take the page; it is sent again after a while.
pub async fn postpone(
    pool: &PgPool,
    platform: &str,
    platform_user_id: &str,
    wait: Duration,
    error: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update app_home set attempts = attempts + 1, due_at = now() + $3::interval, last_error = $4
         where platform = $1 and platform_user_id = $2",
        platform,
        platform_user_id,
        interval(wait) as _,
        error
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Batches of a person: those that go on, and the last few that ended.
pub async fn batches_of(
    conn: &mut PgConnection,
    login: &str,
    at_most: i64,
) -> sqlx::Result<Vec<BatchId>> {
    let over = BatchState::ALL.into_iter().filter(|state| state.is_final());
    let over: Vec<String> = over.map(|state| state.as_str().to_owned()).collect();
    let ids = sqlx::query_scalar!(
        "select id from batch
         where submitter = $1 and (state <> all($2) or finished_at > now() - interval '1 day')
         order by state <> all($2) desc, id desc limit $3",
        login,
        &over,
        at_most
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(BatchId).collect())
}

/// Batches that wait for an approval, with what each needs: `(id, submitter, requirements)`. One that
/// this version cannot read is left out.
pub async fn waiting(
    conn: &mut PgConnection,
) -> sqlx::Result<Vec<(BatchId, String, Vec<metalbot_core::domain::approval::Requirement>)>> {
    sqlx::query!(
        "select id, submitter, requirements from batch
         where state = 'awaiting_approval' order by expires_at limit 500"
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .filter_map(|row| match serde_json::from_value(row.requirements) {
        Ok(needs) => Some(Ok((BatchId(row.id), row.submitter, needs))),
        Err(error) => {
            tracing::error!(batch = row.id, %error, "a batch that waits for approval cannot be shown on the pages of its approvers");
            None
        }
    })
    .collect()
}
