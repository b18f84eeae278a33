//! Composes what speaks with Slack.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::site::SiteParts;
use crate::app::ChatPlatform;
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
use crate::outgoing::Outgoing;
use metalbot_core::domain::reply::Reply;

/// Between two tries to find out whose a token is.
const LEARN_AGAIN: Duration = Duration::from_secs(3);

/// The client of Slack, if it is spoken to.
pub fn api(config: &Config, outgoing: &Outgoing) -> anyhow::Result<Option<Arc<WebApi>>> {
    let Some(slack) = config.slack.as_ref().filter(|slack| slack.enabled) else { return Ok(None) };
    let settings = SlackSettings {
        api_url: slack.api_url.clone(),
        bots: bots(slack),
        app_token: slack.app_token().cloned(),
    };
    let api = WebApi::new(&settings, outgoing.clone()).context("Slack's client cannot be made")?;
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

/// Client for messages to Slack.
pub(super) fn chat(site: &SiteParts) -> Option<Arc<dyn Chat>> {
    let api = Arc::clone(site.slack.as_ref()?);
    Some(Arc::new(SlackChat::new(site.pool.clone(), api, Arc::clone(&site.app))))
}

/// Keeps the bot's Home tab of each person up to date.
pub(super) fn homes(site: &SiteParts) -> Option<Arc<AppHomes>> {
    Some(Arc::new(AppHomes {
        words: words(&site.loaded.chat_templates),
        pool: site.pool.clone(),
        app: Arc::clone(&site.app),
        api: Arc::clone(site.slack.as_ref()?),
        buttons: |batch| card(batch).buttons,
    }))
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

/// Receiver of Slack's deliveries in one process.
pub(super) struct Ingest {
    /// At least one must be up for the process to be ready.
    pub connections: Option<Connections>,
    /// Routes that Slack sends requests to.
    pub routes: Router,
    /// Ends when the process stops.
    pub running: BoxFuture<'static, ()>,
}

/// Takes deliveries in the configured mode; none without Slack.
pub(super) fn ingest(site: &SiteParts, stop: &CancellationToken) -> Ingest {
    let stopped = stop.clone().cancelled_owned();
    let (Some(api), Some(section)) = (site.slack.clone(), &site.config.slack) else {
        return Ingest { connections: None, routes: Router::new(), running: stopped.boxed() };
    };
    let learning = learn(Arc::clone(&api), stop.clone());
    let (pool, app) = (site.pool.clone(), Arc::clone(&site.app));
    let words = words(&site.loaded.chat_templates);
    let modals = ModalHandler { pool: pool.clone(), app, api: Arc::clone(&api), words };
    let deliveries = SlackIngest { pool, forms: modals.forms(), api: Arc::clone(&api) };
    if let (SlackMode::Http, Some(secret)) = (section.mode, section.signing_secret()) {
        let running = async move { tokio::join!(learning, stopped) };
        let routes = http::router(deliveries, secret);
        return Ingest { connections: None, routes, running: running.map(drop).boxed() };
    }
    let connections = Connections::default();
    let socket = run_socket(api, deliveries, connections.clone(), stop.clone());
    let running = async move {
        // Deliveries that come before are not taken.
        learning.await;
        socket.await;
    };
    let connections = Some(connections);
    Ingest { connections, routes: Router::new(), running: running.boxed() }
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
