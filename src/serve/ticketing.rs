//! Composes the tasks that file tickets and read what became of them.

use std::sync::Arc;

use sqlx::PgPool;

use super::service::Loaded;
use crate::bmc::Bmc;
use crate::config::Config;
use crate::preflight::check;
use crate::ticket::assign::TicketAssigner;
use crate::ticket::poll::TicketPoller;
use crate::ticket::relay::TicketRelay;
use crate::ticket::resolve::TicketResolver;
use crate::ticket::verify::HostVerifier;
use metalbot_core::domain::error_kind::{ErrorKind, HostError};
use metalbot_core::domain::host::Hosts;
use metalbot_core::domain::people::People;
use metalbot_core::domain::workflow::Check;
use metalbot_jira::Site;
use metalbot_store::relay_scope::RelayScope;

/// The tasks, with a pair for each Jira site.
pub(super) struct TicketTasks {
    pub placing: TicketAssigner,
    pub sites: Vec<(TicketRelay, TicketPoller)>,
    pub rechecks: HostVerifier,
    pub mending: TicketResolver,
}

/// All of them, where a Jira is configured.
pub(super) fn ticket_tasks(
    pool: &PgPool,
    config: &Config,
    loaded: &Loaded,
    bmc: &Arc<dyn Bmc>,
) -> anyhow::Result<Option<TicketTasks>> {
    let Some((jira, routes)) = config.jira.as_ref().zip(config.routes()) else { return Ok(None) };
    let sites = jira.sites().into_iter().map(Site::new).collect::<Result<Vec<_>, _>>()?;
    let people: Arc<dyn People> = Arc::new(loaded.directory.clone());
    let hosts: Arc<dyn Hosts> = Arc::clone(&loaded.inventory) as _;
    let pairs = sites.iter().map(|site| {
        let share = share(site, &sites, &routes.default.site);
        let relay = TicketRelay {
            pool: pool.clone(),
            site: site.clone(),
            scope: share.clone(),
            default: routes.default.clone(),
            policy: config.tickets.clone(),
            templates: Arc::clone(&loaded.ticket_templates),
            people: Arc::clone(&people),
            hosts: Arc::clone(&hosts),
            public_url: config.public_url(),
            accounts: Default::default(),
        };
        let (site, policy) = (site.clone(), config.tickets.clone());
        (relay, TicketPoller { pool: pool.clone(), site, scope: share, policy })
    });
    let pairs = pairs.collect();
    let bmc = Arc::clone(bmc);
    let rechecks = HostVerifier {
        pool: pool.clone(),
        check_host: Arc::new(move |name| {
            let (bmc, host) = (Arc::clone(&bmc), hosts.host(&name));
            Box::pin(async move {
                let Some(host) = host else {
                    let message = format!("{name} is not in the inventory any more");
                    return Err(HostError::new(ErrorKind::UnknownHost, message));
                };
                check(Check::BmcConsole, &host, bmc.as_ref()).await
            })
        }),
    };
    let policy = config.tickets.clone();
    let placing = TicketAssigner { pool: pool.clone(), routes, policy: policy.clone() };
    let mending = TicketResolver { pool: pool.clone(), policy };
    Ok(Some(TicketTasks { placing, sites: pairs, rechecks, mending }))
}

/// The default site's relay also has what was for a site that is configured no more.
fn share(site: &Site, all: &[Site], default: &str) -> RelayScope {
    let others = all.iter().map(Site::name).filter(|name| *name != default);
    match site.name() == default {
        true => RelayScope::AllBut(others.map(str::to_owned).collect()),
        false => RelayScope::Of(site.name().to_owned()),
    }
}
