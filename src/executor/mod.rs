//! Carries out what was approved: waves of jobs, each a list of steps, every act journaled.
//!
//! [`checker`] looks at the hosts of a new batch, and [`bmc_inventory`] at the fleet. The course of a job:
//! [`rollout`] queues it, [`worker`] leases it, which yields a [`hold::Hold`], and [`job_run`] goes
//! through its steps. What follows what is decided in [`metalbot_core::domain::course`]. Right before a
//! packet acts, the hold proves in the database that it may, and that is the intent in the [`journal`];
//! then comes the outcome. A worker that dies leaves an intent without outcome; whoever takes the job
//! over looks at the host before anything is repeated. A job whose step waits is parked: it costs a row.
//!
//! All of it concerns only hosts in the datacenters that the process reaches; of what no process reaches
//! [`placement`] makes the batches say so.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;

use crate::bmc::Bmc;
use metalbot_core::domain::host::Hosts;
use metalbot_core::domain::placement::ReachableDatacenters;

mod bmc_events;
pub mod bmc_inventory;
pub mod checker;
pub mod hold;
mod job_end;
pub mod job_run;
pub mod journal;
pub mod placement;
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
    pub reachable: ReachableDatacenters,
    pub limits: WorkerLimits,
    pub log_reading: LogReading,
}

/// Limits of one worker.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLimits {
    /// Most calls of BMCs of this process at the same time.
    pub max_in_flight: usize,
    /// Time after which the jobs of a worker that is not heard of are others'.
    pub lease: Duration,
    /// Time for which running steps may go on when the process stops.
    pub drain: Duration,
}
