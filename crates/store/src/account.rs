//! Answers of platforms about their users, kept for a while so that they need not be asked each time.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::task_lease::interval;
use metalbot_core::domain::inbound::PlatformUser;

/// Time for which a verified address holds. Somebody who leaves the platform can act no more there,
/// so this only bounds a change of address.
const ADDRESS_HOLDS: Duration = Duration::from_secs(3600);
/// Time for which the lack of one holds: whoever was just told how to be bound tries again soon.
const NO_ADDRESS_HOLDS: Duration = Duration::from_secs(60);

/// Address of a platform's user, by the platform's last answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccountEmail {
    /// The platform has verified this address.
    Verified(String),
    /// The platform was asked and has verified none.
    Missing,
    /// The platform was not asked, or not within the time for which an answer holds.
    Unknown,
}

/// Returns what the platform said of the user's address, while that answer holds.
pub async fn email(conn: &mut PgConnection, user: &PlatformUser) -> sqlx::Result<AccountEmail> {
    let answer = sqlx::query_scalar!(
        "select email from account
         where platform = $1 and platform_user_id = $2 and checked_at > now()
             - case when email is null then $3::interval else $4::interval end",
        user.platform,
        user.id,
        interval(NO_ADDRESS_HOLDS),
        interval(ADDRESS_HOLDS)
    )
    .fetch_optional(conn)
    .await?;
    Ok(match answer {
        None => AccountEmail::Unknown,
        Some(None) => AccountEmail::Missing,
        Some(Some(email)) => AccountEmail::Verified(email),
    })
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

/// Stores an answer of the platform; `None`: it has verified no address.
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
        assert_eq!(email(&mut conn, &user).await.unwrap(), AccountEmail::Unknown);
        remember(&pool, &user, None).await.unwrap();
        assert_eq!(email(&mut conn, &user).await.unwrap(), AccountEmail::Missing);
        remember(&pool, &user, Some("a@example.org")).await.unwrap();
        let verified = AccountEmail::Verified("a@example.org".into());
        assert_eq!(email(&mut conn, &user).await.unwrap(), verified);
        let old = "update account set checked_at = now() - interval '2 hours'";
        sqlx::query(old).execute(&pool).await.unwrap();
        assert_eq!(email(&mut conn, &user).await.unwrap(), AccountEmail::Unknown, "too old");
    }
}
