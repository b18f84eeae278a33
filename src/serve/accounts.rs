//! Finds the accounts of people, and of groups, on the platforms that they are told on.

use std::sync::Arc;

use futures_util::FutureExt;
use sqlx::PgPool;

use crate::app::{App, identify};
use crate::chat::slack;
use crate::chat::slack::chat::{Called, FindCalled};
use metalbot_core::domain::inbound::ChatLocation;

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
