//! Starts what leaves Metalbot or happens by the clock: notices, tickets, and whatever ends or is
//! forgotten in its time.

use std::sync::Arc;
use std::time::Duration;

use super::service::{EVERY_SECOND, Loaded, Service};
use super::slack as slack_parts;
use super::ticketing::ticket_tasks;
use crate::app::{App, approver_reminders, console_message, decide};
use crate::bmc::Bmc;
use crate::chat::Chat;
use crate::chat::console::ConsoleChat;
use crate::chat::slack;
use crate::chat::slack::web_api::WebApi;
use crate::config::Config;
use crate::failpoint::{Point, reach};
use crate::notify::relay::{self as notice_relay, NoticeRelay};
use crate::ticket::{assign, poll as ticket_sync, relay as ticket_relay, resolve, verify};
use metalbot_store::notifier::Topic;
use metalbot_store::relay_scope::RelayScope;
use metalbot_store::{self as store, audit};

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
            let homes = Arc::new(slack_parts::homes(&self.pool, api, app, &loaded.chat_templates));
            self.start_task("homes", EVERY_SECOND, None, move |_| Arc::clone(&homes).run_once());
            let chat = slack_parts::chat(&self.pool, api, app);
            let (share, page) = (RelayScope::Of(slack::PLATFORM.into()), Some(config.public_url()));
            self.start_notices(loaded, slack::PLATFORM, chat, share, page);
            others.push(slack::PLATFORM.into());
        }
        self.start_notices(
            loaded,
            console_message::PLATFORM,
            console,
            RelayScope::AllBut(others),
            None,
        );
        self.start_tickets(config, loaded, bmc)?;
        let (pool, app) = (self.pool.clone(), Arc::clone(app));
        self.start_task("approvers", EVERY_SECOND, None, move |_| {
            let (pool, app) = (pool.clone(), Arc::clone(&app));
            async move { Ok(approver_reminders::remind_approvers(&pool, &app).await? > 0) }
        });
        let pool = self.pool.clone();
        self.start_task("expiry", EVERY_SECOND, None, move |_| {
            let pool = pool.clone();
            async move { Ok(decide::expire_overdue(&pool).await? > 0) }
        });
        let pool = self.pool.clone();
        self.start_task("audit_seal", EVERY_SECOND, None, move |_| {
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
        self.start_task("forget_seen", SEEN, None, move |_| {
            let pool = pool.clone();
            async move { Ok(store::dedup_key::forget(&pool, SEEN).await? > 0) }
        });
        let (pool, keep) = (self.pool.clone(), config.database.keep);
        self.start_task("retention", RETENTION, None, move |_| {
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
        share: RelayScope,
        page: Option<String>,
    ) {
        let relay = Arc::new(NoticeRelay {
            pool: self.pool.clone(),
            platform,
            chat,
            scope: share,
            templates: Arc::clone(&loaded.chat_templates),
            people: Arc::new(loaded.directory.clone()),
            console: page,
        });
        let name = format!("notices:{platform}");
        self.start_task(name, notice_relay::PERIOD, Some(Topic::Outbox), move |_| {
            Arc::clone(&relay).run_once()
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
        self.start_task("placing", assign::PERIOD, Some(Topic::Outbox), move |_| {
            Arc::clone(&placing).run_once()
        });
        for (relay, sync) in tasks.sites {
            let (relay, sync) = (Arc::new(relay), Arc::new(sync));
            let name = relay.site.name();
            let (writes, reads) = (format!("tickets:{name}"), format!("ticket_sync:{name}"));
            self.start_task(writes, ticket_relay::PERIOD, Some(Topic::Outbox), move |lease| {
                Arc::clone(&relay).run_once(lease)
            });
            self.start_task(reads, ticket_sync::PERIOD, None, move |lease| {
                Arc::clone(&sync).run_once(lease)
            });
        }
        let rechecks = Arc::new(tasks.rechecks);
        self.start_task("rechecks", verify::PERIOD, None, move |lease| {
            Arc::clone(&rechecks).run_once(lease)
        });
        let mending = Arc::new(tasks.mending);
        self.start_task("mending", resolve::PERIOD, None, move |_| Arc::clone(&mending).run_once());
        Ok(())
    }
}
