//! Composes the relays that send notices, one for each platform.

use std::sync::Arc;

use super::site::SiteParts;
use super::slack;
use crate::app::console_message;
use crate::chat::Chat;
use crate::chat::console::ConsoleChat;
use crate::chat::slack::PLATFORM as SLACK;
use crate::notify::relay::NoticeRelay;
use metalbot_store::relay_scope::RelayScope;

/// The relays. The console's also takes notices for platforms that are configured no more.
pub(super) fn relays(site: &SiteParts) -> Vec<Arc<NoticeRelay>> {
    let mut relays = Vec::new();
    let mut others = Vec::new();
    if let Some(chat) = slack::chat(site) {
        let share = RelayScope::Of(SLACK.into());
        let console = Some(site.config.public_url());
        relays.push(relay(site, SLACK, chat, share, console));
        others.push(SLACK.into());
    }
    let channels = site.config.console.channels.iter().map(|channel| channel.name.clone());
    let console = Arc::new(ConsoleChat::new(site.pool.clone(), channels));
    let share = RelayScope::AllBut(others);
    relays.push(relay(site, console_message::PLATFORM, console, share, None));
    relays
}

fn relay(
    site: &SiteParts,
    platform: &'static str,
    chat: Arc<dyn Chat>,
    share: RelayScope,
    console: Option<String>,
) -> Arc<NoticeRelay> {
    Arc::new(NoticeRelay {
        pool: site.pool.clone(),
        platform,
        chat,
        scope: share,
        templates: Arc::clone(&site.loaded.chat_templates),
        people: site.people(),
        console,
    })
}
