//! Composes what files tickets and what reads what became of them.

use std::sync::Arc;

use sqlx::PgPool;

use super::service::{Loaded, ipmi};
use crate::config::Config;
use crate::domain::workflow::Check;
use crate::preflight::check;
use crate::ticket::jira::Site;
use crate::ticket::relay::{Person, TicketRelay};
use crate::ticket::sync::TicketSync;

/// Both tasks, where a Jira is configured.
pub(super) fn ticket_tasks(
    pool: PgPool,
    config: &Config,
    loaded: &Loaded,
) -> anyhow::Result<Option<(TicketRelay, TicketSync)>> {
    let Some((jira, routes)) = config.jira.as_ref().zip(config.routes()) else { return Ok(None) };
    let sites = jira.sites().into_iter().map(Site::new).collect::<Result<Vec<_>, _>>()?;
    let (directory, inventory) = (loaded.directory.clone(), Arc::clone(&loaded.inventory));
    let bmc = Arc::new(ipmi(config));
    let hosts = Arc::clone(&loaded.inventory);
    let sync = TicketSync {
        pool: pool.clone(),
        sites: sites.clone(),
        policy: config.tickets.clone(),
        check_host: Arc::new(move |name| {
            let (bmc, host) = (Arc::clone(&bmc), hosts.get(&name).cloned());
            Box::pin(async move {
                let Some(host) = host else {
                    return Err(format!("{name} is not in the inventory any more"));
                };
                let looked = check(Check::BmcConsole, &host, bmc.as_ref()).await;
                looked.map_err(|unfit| unfit.message)
            })
        }),
    };
    let relay = TicketRelay {
        pool,
        sites,
        routes,
        policy: config.tickets.clone(),
        templates: Arc::clone(&loaded.ticket_templates),
        find_person: Arc::new(move |login| {
            let directory = directory.current();
            Person {
                name: directory.by_login(login).map_or_else(|| login.to_owned(), |who| who.name),
                account: directory.jira_account(login).map(str::to_owned),
            }
        }),
        find_host: Arc::new(move |name| inventory.get(name).cloned()),
        public_url: config.public_url(),
    };
    Ok(Some((relay, sync)))
}
