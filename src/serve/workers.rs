//! Composes what drives machines: the worker, the conductor and the checker of batches, the inventory of
//! BMCs.

use std::sync::Arc;

use super::site::SiteParts;
use crate::executor::bmc_inventory::Survey;
use crate::executor::checker::Checker;
use crate::executor::rollout::Conductor;
use crate::executor::{Executor, WorkerLimits};

/// The worker of a process with this name.
pub(super) fn executor(site: &SiteParts, process: &str) -> Executor {
    let config = &site.config.executor;
    Executor {
        pool: site.pool.clone(),
        bmc: Arc::clone(&site.bmc),
        hosts: site.hosts(),
        worker: process.to_owned(),
        reachable: config.reachable(),
        limits: WorkerLimits {
            max_in_flight: config.max_in_flight as usize,
            lease: config.lease_duration,
            drain: config.drain_timeout,
        },
        log_reading: Default::default(),
    }
}

/// Starts batches and opens their waves.
pub(super) fn conductor(site: &SiteParts) -> Arc<Conductor> {
    Arc::new(Conductor {
        pool: site.pool.clone(),
        caps: site.config.caps,
        people: site.people(),
        hosts: site.hosts(),
        approvals: site.config.approval.clone(),
    })
}

/// Looks at the hosts of new batches.
pub(super) fn checker(site: &SiteParts) -> Arc<Checker> {
    Arc::new(Checker {
        pool: site.pool.clone(),
        bmc: Arc::clone(&site.bmc),
        hosts: site.hosts(),
        reachable: site.config.executor.reachable(),
        approvals: site.config.approval.clone(),
        patience: site.config.database.patience(),
        elsewhere: Default::default(),
    })
}

/// Asks BMCs who made them, unless the configuration says never.
pub(super) fn survey(site: &SiteParts) -> Option<Arc<Survey>> {
    let config = &site.config.executor;
    let (every, reachable) = (config.bmc_inventory_interval, config.reachable());
    let (pool, bmc) = (site.pool.clone(), Arc::clone(&site.bmc));
    (!every.is_zero()).then(|| Arc::new(Survey::new(pool, bmc, site.hosts(), reachable, every)))
}
