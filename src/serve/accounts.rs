//! Finds the accounts of people, and of groups, on the platforms that they are told on.

use std::sync::Arc;

use futures_util::FutureExt;
use sqlx::PgPool;

use crate::app::{App, identify};
use crate::chat::slack;
use crate::chat::slack::chat::{Called, FindCalled};
use crate::identity::DirectoryHandle;
use crate::notify::relay::{FindAccount, FindEmail};
use metalbot_core::domain::inbound::ChatLocation;

/// Accounts that the directory names.
pub fn find_account(directory: DirectoryHandle) -> FindAccount {
    Arc::new(move |login, platform| directory.current().account(login, platform).map(str::to_owned))
}

/// Addresses by which a platform may know somebody.
pub fn find_email(directory: DirectoryHandle) -> FindEmail {
    Arc::new(move |login| directory.current().email(login).map(str::to_owned))
}

/// For mentions in Slack: a group by the configuration, or else a person.
pub fn find_called(pool: &PgPool, app: &Arc<App>) -> FindCalled {
    let (pool, app) = (pool.clone(), Arc::clone(app));
    Arc::new(move |name: String, at: ChatLocation| {
        let (pool, app) = (pool.clone(), Arc::clone(&app));
        async move {
            let mut calls = app.calls.iter();
            let group = calls.find(|call| call.platform == slack::PLATFORM && call.group == name);
            if let Some(mention) = group.and_then(|call| call.mention.clone()) {
                return Some(Called::Group(mention));
            }
            // Somebody who cannot be notified is still named.
            let mut conn = pool.acquire().await.ok()?;
            let found = identify::account(&mut conn, &app, &name, &at).await.ok()?;
            found.map(Called::User)
        }
        .boxed()
    })
}
