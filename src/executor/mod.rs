//! Carries out what was approved: waves of jobs, each a list of steps, every act journaled.
//!
//! [`checker`] looks at the hosts of a new batch, and [`bmc_inventory`] at the fleet. The course of a job:
//! [`rollout`] queues it, [`worker`] leases it and spawns [`attempt::run_job`], which writes an intent
//! to the [`journal`], acts, and writes the outcome. A worker that dies leaves an intent without
//! outcome; whoever leases the job next asks the host what happened ([`attempt`]) before anything is
//! repeated. When a batch is stopped, hosts that are being worked on are finished, and jobs whose
//! hosts nobody has touched are taken back (`recall`).

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;

use crate::bmc::Bmc;
use metalbot_core::domain::host::Hosts;

pub mod attempt;
mod bmc_events;
pub mod bmc_inventory;
pub mod checker;
pub mod journal;
mod lease_clock;
mod recall;
pub mod rollout;
pub mod worker;

pub use self::bmc_events::LogReading;

/// Parts that all jobs of a worker share.
#[derive(Clone)]
pub struct Executor {
    pub pool: PgPool,
    pub bmc: Arc<dyn Bmc>,
    pub hosts: Arc<dyn Hosts>,
    /// Name of this process, unique among the replicas.
    pub worker: String,
    pub limits: WorkerLimits,
    pub log_reading: LogReading,
}

/// Limits of one worker.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLimits {
    /// Most jobs of this process at the same time.
    pub max_in_flight: usize,
    /// Time after which a job without a heartbeat is another worker's.
    pub lease: Duration,
    /// Time for which running steps may go on when the process stops.
    pub drain: Duration,
}
