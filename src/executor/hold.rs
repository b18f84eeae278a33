//! The right to a host: made by leasing a job, ended once, asked before each act.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use crate::bmc::{Act, BootTime, Permit};
use crate::failpoint::{Point, reach};
use metalbot_core::domain::course::{self, ACT_LIFETIME, Happened, JobFacts, Stop, Then, Why};
use metalbot_core::domain::host::{BmcEndpoint, HostName, Hosts};
use metalbot_core::domain::ids::{JobId, LeaseId};
use metalbot_store::attempt::{Intent, OutcomeRow};
use metalbot_store::lease::{Leased, Told};

/// What a worker has heard of one of its jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Heard {
    Nothing,
    Told(Told),
    /// The process ends without it.
    Abandoned,
}

impl Heard {
    fn stop(self) -> Stop {
        match self {
            Heard::Told(Told::Stopped(stop)) => stop,
            _ => Stop::No,
        }
    }

    fn is_lost(self) -> bool {
        matches!(self, Heard::Told(Told::Lost) | Heard::Abandoned)
    }
}

/// The jobs that a worker holds.
#[derive(Clone, Debug, Default)]
pub struct Holds(Arc<Mutex<HashMap<JobId, Entry>>>);

#[derive(Debug)]
struct Entry {
    id: LeaseId,
    heard: watch::Sender<Heard>,
}

impl Holds {
    /// Makes the hold of a job that was just leased.
    pub fn hold(&self, leased: Leased, journal: &Journal) -> Hold {
        let (sender, heard) = watch::channel(match leased.stop {
            Stop::No => Heard::Nothing,
            stop => Heard::Told(Told::Stopped(stop)),
        });
        let entry = Entry { id: leased.id, heard: sender };
        // After an outage of the database the job may be our own of before.
        if let Some(before) = self.lock().insert(leased.id.job, entry) {
            before.heard.send_replace(Heard::Told(Told::Lost));
        }
        Hold { leased, heard, ended: false, journal: journal.clone(), holds: self.clone() }
    }

    pub fn ids(&self) -> Vec<LeaseId> {
        self.lock().values().map(|entry| entry.id).collect()
    }

    /// Passes on what the database said of these jobs; of those that it did not mention all is well.
    pub fn tell(&self, asked: &[LeaseId], told: &HashMap<LeaseId, Told>) {
        let entries = self.lock();
        for id in asked {
            // Its hold may have ended meanwhile.
            let Some(entry) = entries.get(&id.job).filter(|entry| entry.id == *id) else {
                continue;
            };
            let heard = told.get(id).map_or(Heard::Nothing, |told| Heard::Told(*told));
            entry.heard.send_if_modified(|before| {
                let new = *before != heard;
                *before = heard;
                new
            });
        }
    }

    /// Lets go of everything: the tasks are ended next, and others take their jobs over.
    pub fn abandon(&self) {
        self.lock().values().for_each(|entry| {
            entry.heard.send_replace(Heard::Abandoned);
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one host, until it is ended. One that is dropped otherwise, by a panic, leaves a job that
/// another worker takes over.
#[derive(Debug)]
pub struct Hold {
    pub leased: Leased,
    heard: watch::Receiver<Heard>,
    ended: bool,
    journal: Journal,
    holds: Holds,
}

impl Hold {
    /// How far people have stopped the batch, as far as this worker has heard.
    pub fn stop(&self) -> Stop {
        self.heard.borrow().stop()
    }

    pub fn is_lost(&self) -> bool {
        self.heard.borrow().is_lost()
    }

    /// Returns when something else is heard of the job than before.
    pub async fn news(&mut self) {
        self.listen().news().await;
        self.heard.mark_unchanged();
    }

    /// A second pair of ears.
    pub fn listen(&self) -> Ears {
        Ears(self.heard.clone())
    }

    /// The right to act in this step, which is asked for when it is needed.
    pub fn may_act(
        &self,
        intent: Intent,
        hosts: Arc<dyn Hosts>,
        draining: CancellationToken,
    ) -> Arc<MayAct> {
        Arc::new(MayAct {
            intent,
            host: self.leased.host.clone(),
            bmc: self.leased.bmc.clone(),
            hosts,
            draining,
            journal: self.journal.clone(),
            asked: Mutex::new(Asked::Not),
            again: AtomicBool::new(false),
        })
    }

    /// Writes what has come of a step; the job goes on.
    pub async fn record(&self, row: OutcomeRow) -> Result<(), Why> {
        self.journal.outcome(row).await
    }

    /// Ends the hold with the last that is written of it.
    pub async fn end(mut self, row: OutcomeRow) -> Result<(), Why> {
        let written = self.journal.outcome(row).await;
        self.ended = true;
        written
    }

    /// Ends the hold of a job that is another worker's by now.
    pub fn leave(mut self) {
        self.ended = true;
    }
}

/// Hears what is told of a job while its hold is in use.
pub struct Ears(watch::Receiver<Heard>);

impl Ears {
    async fn news(&mut self) {
        if self.0.changed().await.is_err() {
            // Another hold of the same job has taken its place, which was heard before.
            std::future::pending::<()>().await;
        }
    }

    /// Returns when the step must not be begun any more, which these are the facts of.
    pub async fn forbids(&mut self, facts: JobFacts, draining: &CancellationToken) {
        loop {
            let heard = *self.0.borrow_and_update();
            let facts = JobFacts { stop: heard.stop(), ..facts };
            let begins = course::next(facts, Happened::Turned) == Then::Begin;
            if heard.is_lost() || !begins || draining.is_cancelled() {
                return;
            }
            tokio::select! {
                () = self.news() => {}
                () = draining.cancelled() => {}
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut entries = self.holds.lock();
        if entries.get(&self.leased.id.job).is_some_and(|entry| entry.id == self.leased.id) {
            entries.remove(&self.leased.id.job);
        }
        drop(entries);
        if !self.ended && !self.is_lost() {
            let (job, host) = (self.leased.id.job, &self.leased.host);
            tracing::error!(%job, %host, "a job was dropped in the middle, and is taken over");
        }
    }
}

/// How far an act was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Not,
    /// The database is being asked.
    Under,
    /// It is the attempt that is open.
    Given(i64),
    Refused(Why),
    /// Whoever wanted to act is not waited for any more.
    Closed,
}

/// The right to act in one attempt of a step.
pub struct MayAct {
    intent: Intent,
    host: HostName,
    bmc: BmcEndpoint,
    hosts: Arc<dyn Hosts>,
    draining: CancellationToken,
    journal: Journal,
    asked: Mutex<Asked>,
    again: AtomicBool,
}

impl MayAct {
    /// Whether the right was asked for more than once: what was given first may have been used, even if
    /// the last was refused or has expired.
    pub fn was_asked_again(&self) -> bool {
        self.again.load(Ordering::Relaxed)
    }

    /// Forbids the act unless it was asked for already; returns whether it is forbidden.
    pub fn close(&self) -> bool {
        let mut asked = self.lock();
        if *asked == Asked::Not {
            *asked = Asked::Closed;
        }
        matches!(*asked, Asked::Closed | Asked::Refused(_))
    }

    /// The attempt that was opened, or why there is none; `None`: nobody asked.
    pub fn answer(&self) -> Option<Result<i64, Why>> {
        match *self.lock() {
            Asked::Given(attempt) => Some(Ok(attempt)),
            Asked::Refused(why) => Some(Err(why)),
            // Its intent may land later, and is void.
            Asked::Under => Some(Err(Why::Late)),
            Asked::Not | Asked::Closed => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the inventory and this process first, then the database.
    async fn prove(&self) -> Result<i64, Why> {
        if self.draining.is_cancelled() {
            return Err(Why::Draining);
        }
        let proving = async {
            if self.newest_bmc().await.as_ref() != Some(&self.bmc) {
                return Err(Why::Changed);
            }
            reach(Point::JobBeforeIntent);
            self.journal.intent(self.intent).await
        };
        tokio::time::timeout(ACT_LIFETIME, proving).await.unwrap_or(Err(Why::Late))
    }

    /// The host's BMC by the inventory as it is now: it may have changed since it was last looked at.
    async fn newest_bmc(&self) -> Option<BmcEndpoint> {
        let (hosts, name) = (Arc::clone(&self.hosts), self.host.clone());
        let look = move || {
            hosts.refresh();
            hosts.host(&name).map(|host| host.bmc)
        };
        tokio::task::spawn_blocking(look).await.ok()?
    }
}

impl fmt::Debug for MayAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MayAct").field("intent", &self.intent).finish_non_exhaustive()
    }
}

#[async_trait]
impl Permit for MayAct {
    async fn ask(&self) -> Option<Act> {
        {
            let mut asked = self.lock();
            match *asked {
                Asked::Not => *asked = Asked::Under,
                // A step of two commands, or one that a busy BMC did not take, is proved again.
                Asked::Given(_) => self.again.store(true, Ordering::Relaxed),
                Asked::Under | Asked::Refused(_) | Asked::Closed => return None,
            }
        }
        let now = BootTime::now();
        let proved = self.prove().await;
        let mut asked = self.lock();
        match proved {
            Ok(attempt) => {
                *asked = Asked::Given(attempt);
                drop(asked);
                reach(Point::JobAfterIntent);
                Some(Act::expiring(now, ACT_LIFETIME))
            }
            Err(why) => {
                // What was given before may have been sent: the attempt stays open.
                if !matches!(*asked, Asked::Given(_)) {
                    *asked = Asked::Refused(why);
                }
                None
            }
        }
    }
}
