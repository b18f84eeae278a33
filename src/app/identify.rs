//! Finds the person behind a platform's user, and the platform's user of a person.

use sqlx::{PgConnection, PgPool};

use super::{App, PlatformError};
use metalbot_core::domain::inbound::{ChatLocation, PlatformUser};
use metalbot_core::domain::principal::Principal;
use metalbot_store::account::{self, AccountEmail};

/// Identity of a user as far as it is known without asking the platform.
pub(super) enum Identity {
    Person(Principal),
    Nobody,
    AskPlatform,
}

/// Finds the person behind a user: by the directory's own mapping, else by an address that the
/// platform has verified.
pub(super) async fn person(
    conn: &mut PgConnection,
    app: &App,
    user: &PlatformUser,
) -> sqlx::Result<Identity> {
    let directory = app.directory.current();
    if let Some(who) = directory.person(user) {
        return Ok(Identity::Person(who));
    }
    if !app.platforms.contains_key(user.platform.as_str()) {
        return Ok(Identity::Nobody);
    }
    Ok(match account::email(conn, user).await? {
        AccountEmail::Unknown => Identity::AskPlatform,
        AccountEmail::Missing => Identity::Nobody,
        AccountEmail::Verified(email) => {
            directory.by_email(&email).map_or(Identity::Nobody, Identity::Person)
        }
    })
}

/// Error that leaves a user unidentified.
#[derive(Debug, thiserror::Error)]
pub enum IdentifyError {
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// Finds the person behind a user who waits for an answer: if necessary the platform is asked at
/// once, with no transaction open.
pub async fn identify(
    pool: &PgPool,
    app: &App,
    user: &PlatformUser,
) -> Result<Option<Principal>, IdentifyError> {
    let mut conn = pool.acquire().await?;
    match person(&mut conn, app, user).await? {
        Identity::Person(who) => return Ok(Some(who)),
        Identity::Nobody => return Ok(None),
        Identity::AskPlatform => drop(conn),
    }
    let Some(platform) = app.platforms.get(user.platform.as_str()) else { return Ok(None) };
    let email = platform.verified_email(user).await?;
    account::remember(pool, user, email.as_deref()).await?;
    Ok(email.and_then(|email| app.directory.current().by_email(&email)))
}

/// Finds a person's user on the platform of the location `near`. If the platform's users belong to
/// an installation, only a user of the location's installation counts: an account of another one
/// cannot see messages there.
pub async fn account(
    conn: &mut PgConnection,
    app: &App,
    login: &str,
    near: &ChatLocation,
) -> sqlx::Result<Option<String>> {
    let directory = app.directory.current();
    let scope = |id: &str| id.rsplit_once('/').map(|(scope, _)| scope.to_owned());
    let here = scope(&near.channel);
    if let Some(id) = directory.account(login, &near.platform)
        && scope(id) == here
    {
        return Ok(Some(id.to_owned()));
    }
    match directory.email(login) {
        Some(email) if app.platforms.contains_key(near.platform.as_str()) => {
            let users = account::users_of(conn, &near.platform, email).await?;
            Ok(users.into_iter().find(|id| scope(id) == here))
        }
        _ => Ok(None),
    }
}
