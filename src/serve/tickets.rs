//! Composes the tasks that file tickets and read what people did with them.

use std::sync::Arc;

use super::site::SiteParts;
use crate::bmc::Bmc;
use crate::preflight::check;
use crate::ticket::assign::TicketAssigner;
use crate::ticket::poll::TicketPoller;
use crate::ticket::relay::TicketRelay;
use crate::ticket::resolve::TicketResolver;
use crate::ticket::verify::{CheckHost, HostVerifier};
use metalbot_core::domain::error_kind::{ErrorKind, HostError};
use metalbot_core::domain::host::Hosts;
use metalbot_core::domain::workflow::Check;
use metalbot_jira::Site as JiraSite;
use metalbot_store::relay_scope::RelayScope;

/// Parts of the tasks around Jira.
pub(super) struct TicketTasks {
    pub assigner: Arc<TicketAssigner>,
    pub verifier: Arc<HostVerifier>,
    pub resolver: Arc<TicketResolver>,
    /// For each Jira site what writes to it and what reads from it.
    pub sites: Vec<(Arc<TicketRelay>, Arc<TicketPoller>)>,
}

/// All of them; `None` where no Jira is configured.
pub(super) fn ticket_tasks(site: &SiteParts) -> anyhow::Result<Option<TicketTasks>> {
    let config = &site.config;
    let Some((jira, routes)) = config.jira.as_ref().zip(config.routes()) else { return Ok(None) };
    let outgoing = &site.loaded.outgoing;
    let all = jira.sites().into_iter().map(|mut settings| {
        settings.proxy = outgoing.proxy_to(&settings.url).map(str::to_owned);
        JiraSite::new(settings, outgoing.client())
    });
    let all = all.collect::<Result<Vec<_>, _>>()?;
    let (pool, policy) = (site.pool.clone(), config.tickets.clone());
    let pairs = all.iter().map(|one| {
        let share = share(one, &all, &routes.default.site);
        let relay = TicketRelay {
            pool: pool.clone(),
            site: one.clone(),
            scope: share.clone(),
            default: routes.default.clone(),
            policy: policy.clone(),
            templates: Arc::clone(&site.loaded.ticket_templates),
            people: site.people(),
            hosts: site.hosts(),
            public_url: config.public_url(),
            accounts: Default::default(),
        };
        let (pool, policy) = (pool.clone(), policy.clone());
        let poller = TicketPoller { pool, site: one.clone(), scope: share, policy };
        (Arc::new(relay), Arc::new(poller))
    });
    let sites = pairs.collect();
    let check_host = check_host(Arc::clone(&site.bmc), site.hosts());
    Ok(Some(TicketTasks {
        verifier: Arc::new(HostVerifier {
            pool: pool.clone(),
            check_host,
            reachable: config.executor.reachable(),
        }),
        resolver: Arc::new(TicketResolver { pool: pool.clone(), policy: policy.clone() }),
        assigner: Arc::new(TicketAssigner { pool, routes, policy }),
        sites,
    }))
}

/// Asks a host's BMC whether the host can be worked on.
fn check_host(bmc: Arc<dyn Bmc>, hosts: Arc<dyn Hosts>) -> CheckHost {
    Arc::new(move |name| {
        let (bmc, host) = (Arc::clone(&bmc), hosts.host(&name));
        Box::pin(async move {
            let Some(host) = host else {
                let message = format!("{name} is not in the inventory any more");
                return Err(HostError::new(ErrorKind::UnknownHost, message));
            };
            check(Check::BmcConsole, &host, bmc.as_ref()).await
        })
    })
}

/// The default site's relay also has what was for a site that is configured no more.
fn share(site: &JiraSite, all: &[JiraSite], default: &str) -> RelayScope {
    let others = all.iter().map(JiraSite::name).filter(|name| *name != default);
    match site.name() == default {
        true => RelayScope::AllBut(others.map(str::to_owned).collect()),
        false => RelayScope::Of(site.name().to_owned()),
    }
}
