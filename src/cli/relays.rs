//! Starts what leaves Metalbot or happens by the clock: notices, tickets, and whatever ends or is
//! forgotten in its time.

use std::sync::Arc;
use std::time::Duration;

use super::service::{EVERY_SECOND, Loaded, Service};
use super::ticketing::ticket_tasks;
use super::{accounts, slack_door};
use crate::app::{App, ask, decide, rooms};
use crate::bmc::Bmc;
use crate::chat::Chat;
use crate::chat::slack;
use crate::chat::slack::web_api::WebApi;
use crate::config::Config;
use crate::console::ConsoleChat;
use crate::failpoint::{Point, reach};
use crate::notice::relay::{self as notice_relay, NoticeRelay};
use crate::store::share::Share;
use crate::store::wake::Bell;
use crate::store::{self, audit};
use crate::ticket::{mending, place, recheck, relay as ticket_relay, sync as ticket_sync};

/// How often it is seen what may be forgotten.
const RETENTION: Duration = Duration::from_secs(3600);
/// How long it is known what was seen a moment ago; longer than any door needs it.
const SEEN: Duration = Duration::from_secs(3600);
/// Audit rows sealed in one transaction.
const SEALED_AT_ONCE: i64 = 1_000;

impl Service {
    pub(super) fn start_relays(
        &mut self,
        config: &Config,
        loaded: &Loaded,
        app: &Arc<App>,
        bmc: &Arc<dyn Bmc>,
        slack: Option<&Arc<WebApi>>,
    ) -> anyhow::Result<()> {
        let channels = config.console.channels.iter().map(|channel| channel.name.clone());
        let console: Arc<dyn Chat> = Arc::new(ConsoleChat::new(self.pool.clone(), channels));
        let mut others = Vec::new();
        if let Some(api) = slack {
            let homes = Arc::new(slack_door::homes(&self.pool, api, app, &loaded.chat_templates));
            self.in_turn("homes", EVERY_SECOND, None, move |_| Arc::clone(&homes).round());
            let chat = slack_door::chat(&self.pool, api, app);
            let (share, page) = (Share::Of(slack::PLATFORM.into()), Some(config.public_url()));
            self.start_notices(loaded, slack::PLATFORM, chat, share, page);
            others.push(slack::PLATFORM.into());
        }
        self.start_notices(loaded, rooms::PLATFORM, console, Share::AllBut(others), None);
        self.start_tickets(config, loaded, bmc)?;
        let (pool, app) = (self.pool.clone(), Arc::clone(app));
        self.in_turn("approvers", EVERY_SECOND, None, move |_| {
            let (pool, app) = (pool.clone(), Arc::clone(&app));
            async move { Ok(ask::call_approvers(&pool, &app).await? > 0) }
        });
        let pool = self.pool.clone();
        self.in_turn("expiry", EVERY_SECOND, None, move |_| {
            let pool = pool.clone();
            async move { Ok(decide::expire_overdue(&pool).await? > 0) }
        });
        let pool = self.pool.clone();
        self.in_turn("audit_seal", EVERY_SECOND, None, move |_| {
            let pool = pool.clone();
            async move {
                let mut tx = pool.begin().await?;
                let sealed = audit::seal(&mut tx, SEALED_AT_ONCE).await?;
                if sealed > 0 {
                    reach(Point::SealBeforeCommit);
                }
                tx.commit().await?;
                Ok(sealed > 0)
            }
        });
        let pool = self.pool.clone();
        self.in_turn("forget_seen", SEEN, None, move |_| {
            let pool = pool.clone();
            async move { Ok(store::seen::forget(&pool, SEEN).await? > 0) }
        });
        let (pool, keep) = (self.pool.clone(), config.database.keep);
        self.in_turn("retention", RETENTION, None, move |_| {
            let pool = pool.clone();
            async move { Ok(store::retention::forget(&pool, keep).await? > 0) }
        });
        Ok(())
    }

    fn start_notices(
        &mut self,
        loaded: &Loaded,
        platform: &'static str,
        chat: Arc<dyn Chat>,
        share: Share,
        page: Option<String>,
    ) {
        let relay = Arc::new(NoticeRelay {
            pool: self.pool.clone(),
            platform,
            chat,
            share,
            templates: Arc::clone(&loaded.chat_templates),
            find_account: accounts::find_account(loaded.directory.clone()),
            find_email: accounts::find_email(loaded.directory.clone()),
            console: page,
        });
        let name = format!("notices:{platform}");
        self.in_turn(name, notice_relay::PERIOD, Some(Bell::Outbox), move |_| {
            Arc::clone(&relay).round()
        });
    }

    fn start_tickets(
        &mut self,
        config: &Config,
        loaded: &Loaded,
        bmc: &Arc<dyn Bmc>,
    ) -> anyhow::Result<()> {
        let Some(tasks) = ticket_tasks(&self.pool, config, loaded, bmc)? else { return Ok(()) };
        let placing = Arc::new(tasks.placing);
        self.in_turn("placing", place::PERIOD, Some(Bell::Outbox), move |_| {
            Arc::clone(&placing).round()
        });
        for (relay, sync) in tasks.sites {
            let (relay, sync) = (Arc::new(relay), Arc::new(sync));
            let name = relay.site.name();
            let (writes, reads) = (format!("tickets:{name}"), format!("ticket_sync:{name}"));
            self.in_turn(writes, ticket_relay::PERIOD, Some(Bell::Outbox), move |turn| {
                Arc::clone(&relay).round(turn)
            });
            self.in_turn(reads, ticket_sync::PERIOD, None, move |turn| {
                Arc::clone(&sync).round(turn)
            });
        }
        let rechecks = Arc::new(tasks.rechecks);
        self.in_turn("rechecks", recheck::PERIOD, None, move |turn| {
            Arc::clone(&rechecks).round(turn)
        });
        let mending = Arc::new(tasks.mending);
        self.in_turn("mending", mending::PERIOD, None, move |_| Arc::clone(&mending).round());
        Ok(())
    }
}
