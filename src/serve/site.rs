//! Reads and checks the files that a configuration names, and holds what a process's parts share.

use std::collections::BTreeSet;
use std::sync::Arc;

use sqlx::PgPool;

use super::slack;
use crate::app::{App, Reactions};
use crate::bmc::Bmc;
use crate::bmc::ipmi::IpmiBmc;
use crate::chat::slack::web_api::WebApi;
use crate::config::Config;
use crate::identity::DirectoryHandle;
use crate::inventory::Inventory;
use crate::notify::render::ChatTemplates;
use crate::outgoing::Outgoing;
use crate::runtime::hot_reload::HotReload;
use crate::ticket::render::TicketTemplates;
use metalbot_core::command::{Catalog, CommandLimits};
use metalbot_core::domain::host::Hosts;
use metalbot_core::domain::people::People;

/// The files that a configuration names.
pub struct Loaded {
    pub catalog: Catalog,
    pub inventory: Arc<HotReload<Inventory>>,
    pub directory: DirectoryHandle,
    pub chat_templates: Arc<ChatTemplates>,
    pub ticket_templates: Arc<TicketTemplates>,
    pub outgoing: Outgoing,
}

/// Reads everything that the configuration names and checks that it fits together. Starts nothing.
pub fn load(config: &Config) -> anyhow::Result<Loaded> {
    let directory = DirectoryHandle::open(&config.directory.file)?;
    let (fitting, people) = (config.clone(), directory.clone());
    let inventory = HotReload::open(&config.inventory.file, move |file| {
        let inventory = Inventory::load(file)?;
        let credentials: BTreeSet<String> =
            inventory.hosts().map(|host| host.bmc.credentials.clone()).collect();
        let owners: BTreeSet<String> = inventory.hosts().map(|host| host.owner.clone()).collect();
        fitting.check(&people.current(), &credentials, &owners)?;
        anyhow::Ok(inventory)
    })?;
    let templates = config.templates.folder.as_ref();
    let (chat, tickets) = (templates.map(|t| t.join("chat")), templates.map(|t| t.join("tickets")));
    Ok(Loaded {
        catalog: Catalog::load(config.commands.folder.as_deref())?,
        inventory: Arc::new(inventory),
        directory,
        chat_templates: Arc::new(ChatTemplates::load(chat.as_deref(), &config.rollout.time_zone)?),
        ticket_templates: Arc::new(TicketTemplates::load(tickets.as_deref())?),
        outgoing: config.outgoing()?,
    })
}

impl Loaded {
    /// What of the configuration is more likely a mistake than meant.
    pub fn warnings(&self, config: &Config) -> Vec<String> {
        let inventory = self.inventory.current();
        config.warnings(&inventory.hosts().map(|host| host.datacenter.as_str()).collect())
    }
}

/// State that the parts of one process share.
pub struct SiteParts {
    pub config: Config,
    pub loaded: Loaded,
    pub pool: PgPool,
    pub app: Arc<App>,
    pub bmc: Arc<dyn Bmc>,
    /// The client of Slack, where the configuration has one.
    pub slack: Option<Arc<WebApi>>,
}

impl SiteParts {
    /// Reads what the configuration names. Connects to nothing.
    pub fn new(config: &Config, pool: PgPool) -> anyhow::Result<SiteParts> {
        let loaded = load(config)?;
        let slack = slack::api(config, &loaded.outgoing)?;
        let app = Arc::new(app(config, &loaded, slack.as_ref()));
        let bmc: Arc<dyn Bmc> = Arc::new(ipmi(config));
        Ok(SiteParts { config: config.clone(), loaded, pool, app, bmc, slack })
    }

    /// Today's hosts.
    pub(super) fn hosts(&self) -> Arc<dyn Hosts> {
        Arc::clone(&self.loaded.inventory) as _
    }

    /// Today's people.
    pub(super) fn people(&self) -> Arc<dyn People> {
        Arc::new(self.loaded.directory.clone())
    }
}

/// Builds the use cases' context from a configuration that was loaded.
pub fn app(config: &Config, loaded: &Loaded, slack: Option<&Arc<WebApi>>) -> App {
    App {
        platforms: slack::platforms(slack),
        catalog: loaded.catalog.clone(),
        inventory: Arc::clone(&loaded.inventory),
        directory: loaded.directory.clone(),
        policy: config.policy(),
        approvals: config.approval.clone(),
        limits: CommandLimits {
            max_hosts: config.limits.max_hosts as usize,
            max_text: config.limits.max_text,
            reason_required: config.limits.reason_required,
            countdown: config.rollout.countdown,
            zone: config.rollout.time_zone.clone(),
        },
        reactions: Reactions {
            approve: config.chat.approve_reactions.clone(),
            reject: config.chat.reject_reactions.clone(),
        },
        approver_mentions: config.chat.approver_mention.clone(),
        remind_before: config.chat.remind_before,
    }
}

/// The BMC client with the configuration's credentials.
pub fn ipmi(config: &Config) -> IpmiBmc {
    IpmiBmc::new(config.bmc_credentials(), config.ipmi.clone())
}
