//! What a platform says about its users, kept for a while so that it need not be asked each time.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::task_lease::interval;
use metalbot_core::domain::inbound::PlatformUser;

/// How long a verified address is believed. Somebody who leaves the platform can act no more there,
/// so this only bounds a change of address.
const BELIEVED: Duration = Duration::from_secs(3600);
/// How long the lack of one is: somebody who was just told how to be bound tries again soon.
const DOUBTED: Duration = Duration::from_secs(60);

/// The verified address of a user: `None` when the platform must be asked, `Some(None)` when it was
/// asked and has none.
pub async fn email(
    conn: &mut PgConnection,
    user: &PlatformUser,
) -> sqlx::Result<Option<Option<String>>> {
    sqlx::query_scalar!(
        "select email from account
         where platform = $1 and platform_user_id = $2 and checked_at > now()
             - case when email is null then $3::interval else $4::interval end",
        user.platform,
        user.id,
        interval(DOUBTED),
        interval(BELIEVED)
    )
    .fetch_optional(conn)
    .await
}

/// Users of a platform who had this verified address when they were last asked about.
pub async fn users_of(
    conn: &mut PgConnection,
    platform: &str,
    email: &str,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "select platform_user_id from account
         where platform = $1 and lower(email) = lower($2) order by platform_user_id",
        platform,
        email
    )
    .fetch_all(conn)
    .await
}

/// Keeps what the platform has just said.
pub async fn remember(pool: &PgPool, user: &PlatformUser, email: Option<&str>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into account (platform, platform_user_id, email) values ($1, $2, $3)
         on conflict (platform, platform_user_id) do update set email = $3, checked_at = now()",
        user.platform,
        user.id,
        email
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_was_said_is_believed_for_a_while(pool: PgPool) {
        let user = PlatformUser { platform: "slack".into(), id: "T1/U1".into() };
        let mut conn = pool.acquire().await.unwrap();
        assert_eq!(email(&mut conn, &user).await.unwrap(), None);
        remember(&pool, &user, None).await.unwrap();
        assert_eq!(email(&mut conn, &user).await.unwrap(), Some(None));
        remember(&pool, &user, Some("a@example.org")).await.unwrap();
        assert_eq!(email(&mut conn, &user).await.unwrap(), Some(Some("a@example.org".into())));
        let old = "update account set checked_at = now() - interval '2 hours'";
        sqlx::query(old).execute(&pool).await.unwrap();
        assert_eq!(email(&mut conn, &user).await.unwrap(), None, "it is asked again");
    }
}
