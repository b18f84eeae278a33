//! Composes Slack's door from a configuration.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::accounts::find_called;
use crate::app::{App, ChatPlatform};
use crate::chat::Chat;
use crate::chat::slack::chat::SlackChat;
use crate::chat::slack::forms::{ModalHandler, RenderNotice};
use crate::chat::slack::home::AppHomes;
use crate::chat::slack::ingest::SlackIngest;
use crate::chat::slack::socket::{Connections, run_socket};
use crate::chat::slack::web_api::{Bots, SlackSettings, WebApi};
use crate::chat::slack::{self, http};
use crate::config::{Config, SlackConfig, SlackMode};
use crate::notify::card::card;
use crate::notify::render::ChatTemplates;
use crate::web::FindCard;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::reply::Reply;
use metalbot_store as store;

/// Between two tries to find out whose a token is.
const LEARN_AGAIN: Duration = Duration::from_secs(30);

/// The client of Slack, if it is spoken to.
pub fn api(config: &Config) -> anyhow::Result<Option<Arc<WebApi>>> {
    let Some(slack) = config.slack.as_ref().filter(|slack| slack.enabled) else { return Ok(None) };
    let settings = SlackSettings {
        api_url: slack.api_url.clone(),
        bots: bots(slack),
        app_token: slack.app_token().cloned(),
    };
    let api = WebApi::new(&settings).context("cannot read the system's certificates")?;
    Ok(Some(Arc::new(api)))
}

fn bots(slack: &SlackConfig) -> Bots {
    let tokens = slack.bot_tokens();
    match tokens[..] {
        [(None, token)] => Bots::One(token.clone()),
        _ => Bots::Each(
            tokens
                .into_iter()
                .filter_map(|(team, token)| Some((team?.to_owned(), token.clone())))
                .collect(),
        ),
    }
}

/// The platforms that the use cases can ask, by name.
pub fn platforms(slack: Option<&Arc<WebApi>>) -> HashMap<&'static str, Arc<dyn ChatPlatform>> {
    let slack = slack.map(|api| (slack::PLATFORM, Arc::clone(api) as Arc<dyn ChatPlatform>));
    slack.into_iter().collect()
}

/// Where messages to Slack go.
pub fn chat(pool: &PgPool, api: &Arc<WebApi>, app: &Arc<App>) -> Arc<dyn Chat> {
    Arc::new(SlackChat::new(pool.clone(), Arc::clone(api), find_called(pool, app)))
}

/// Where the cards are that Slack shows.
pub fn find_card(pool: &PgPool, api: Option<&Arc<WebApi>>, app: &Arc<App>) -> FindCard {
    let chat = api.map(|api| chat(pool, api, app));
    let pool = pool.clone();
    Arc::new(move |batch| {
        let (pool, chat) = (pool.clone(), chat.clone());
        Box::pin(async move {
            let card = store::card::message_of(&pool, batch).await.ok().flatten();
            let (platform, channel, id) = card.filter(|(on, ..)| on == slack::PLATFORM)?;
            chat?.link(&ChatLocation { platform, channel, thread: None }, &id).await.ok().flatten()
        })
    })
}

/// What keeps people's own pages up to date.
pub fn homes(
    pool: &PgPool,
    api: &Arc<WebApi>,
    app: &Arc<App>,
    templates: &Arc<ChatTemplates>,
) -> AppHomes {
    AppHomes {
        words: words(templates),
        pool: pool.clone(),
        app: Arc::clone(app),
        api: Arc::clone(api),
        buttons: |batch| card(batch).buttons,
    }
}

/// Words an answer where somebody waits for it.
fn words(templates: &Arc<ChatTemplates>) -> RenderNotice {
    let templates = Arc::clone(templates);
    Arc::new(move |reply: &Reply| match templates.reply(reply) {
        Ok(markdown) => markdown,
        Err(error) => {
            tracing::error!(%error, "cannot word an answer");
            "That cannot be shown; the log says why.".to_owned()
        }
    })
}

/// The way in of one process.
pub struct Open {
    /// Must be up for the process to be ready.
    pub connections: Option<Connections>,
    /// What Slack sends requests to.
    pub pages: Router,
    /// Ends when the process stops.
    pub running: BoxFuture<'static, ()>,
}

/// Opens the door in the configured mode; without Slack there is none.
pub fn open(
    config: &Config,
    api: Option<Arc<WebApi>>,
    app: &Arc<App>,
    templates: &Arc<ChatTemplates>,
    pool: &PgPool,
    stop: &CancellationToken,
) -> Open {
    let stopped = stop.clone();
    let idle = async move { stopped.cancelled().await };
    let (Some(api), Some(section)) = (api, &config.slack) else {
        return Open { connections: None, pages: Router::new(), running: idle.boxed() };
    };
    let learning = learn(Arc::clone(&api), stop.clone());
    let desk = ModalHandler {
        pool: pool.clone(),
        app: Arc::clone(app),
        api: Arc::clone(&api),
        words: words(templates),
    };
    let door = SlackIngest { pool: pool.clone(), forms: desk.forms(), api: Arc::clone(&api) };
    match (section.mode, section.signing_secret()) {
        (SlackMode::Http, Some(secret)) => {
            let running = async move {
                tokio::join!(learning, idle);
            }
            .boxed();
            Open { connections: None, pages: http::router(door, secret), running }
        }
        _ => {
            let connections = Connections::default();
            let socket = run_socket(api, door, connections.clone(), stop.clone());
            let running = async move {
                tokio::join!(learning, socket);
            }
            .boxed();
            Open { connections: Some(connections), pages: Router::new(), running }
        }
    }
}

/// Finds out whose the only token is, so that other installations are not taken for it.
async fn learn(api: Arc<WebApi>, stop: CancellationToken) {
    while !api.learn().await {
        tokio::select! {
            () = tokio::time::sleep(LEARN_AGAIN) => {}
            () = stop.cancelled() => return,
        }
    }
}
