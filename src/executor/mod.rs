//! Carries out what was approved: waves of jobs, each a list of steps, every act journaled.
//!
//! [`checker`] looks at the hosts of a new batch, and [`survey`] at the fleet. The way of a job:
//! [`rollout`] queues it, [`worker`] leases it and spawns [`attempt::run_job`], which writes an intent
//! to the [`journal`], acts, and writes the outcome. A worker that dies leaves an intent without
//! outcome; whoever leases the job next asks the host what happened ([`attempt`]) before anything is
//! repeated. When a batch is stopped, hosts that are being worked on are finished, and jobs whose
//! hosts nobody has touched are taken back (`recall`).

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;

use crate::bmc::Bmc;
use metalbot_core::domain::host::{Host, HostName};

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

/// Looks a host up in today's inventory.
pub type FindHost = Arc<dyn Fn(&HostName) -> Option<Host> + Send + Sync>;

/// What the executor works with.
#[derive(Clone)]
pub struct Executor {
    pub pool: PgPool,
    pub bmc: Arc<dyn Bmc>,
    pub find_host: FindHost,
    /// Name of this process, unique among the replicas.
    pub worker: String,
    pub limits: WorkerLimits,
    pub log_reading: LogReading,
}

/// How much, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLimits {
    /// Most jobs of this process at the same time.
    pub max_in_flight: usize,
    /// How long a job stays ours without a sign of life.
    pub lease: Duration,
    /// How long running steps may go on after the order to stop.
    pub drain: Duration,
}
