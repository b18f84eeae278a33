//! Run of one leased job: intent, act, outcome, step by step.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Executor;
use super::bmc_events;
use super::journal::{Journal, Stale};
use super::lease_clock::LeaseClock;
use super::recall::Recall;
use crate::bmc::Permit;
use crate::failpoint::{Point, reach};
use crate::step::{self, Probe, Step, StepContext, StepError};
use crate::telemetry;
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind, HostError};
use metalbot_core::domain::host::Host;
use metalbot_core::domain::job::{JobEvent, JobState, next};
use metalbot_core::domain::workflow::{Plan, PlannedStep};
use metalbot_store::attempt::{AttemptOutcome, Intent, OutcomeRow};
use metalbot_store::lease::Leased;

/// First wait between two attempts of a step; doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Probes of an act whose outcome is unknown, before it counts as undecidable.
const PROBES: u32 = 3;

/// Works on a job until it ends, its lease is lost, or `stop` asks for a hand-over.
pub async fn run_job(
    executor: Executor,
    journal: Journal,
    plan: Arc<Plan>,
    leased: Leased,
    lease: Arc<LeaseClock>,
    recall: Arc<Recall>,
    stop: CancellationToken,
) {
    let host = approved_host(&executor, &leased);
    let name = leased.host.clone();
    let mut run = Run::new(&executor, &journal, &plan, leased, lease, recall);
    let worked = match host {
        Ok(host) => run.work(&host, &stop).await,
        Err(error) => run.leave(error).await,
    };
    match worked {
        Ok(()) => {}
        Err(Stale) => {
            tracing::warn!(host = %name, "the lease of a job is lost: this worker stops working on it")
        }
    }
}

/// Returns the host, if its BMC is the one that the batch was submitted for: the people who approved
/// meant that machine, and the name may be another's by now.
fn approved_host(executor: &Executor, leased: &Leased) -> Result<Host, StepError> {
    let rejected = |kind, message| StepError { class: ErrorClass::Rejected, kind, message };
    let name = &leased.host;
    let host = executor.hosts.host(name).ok_or_else(|| {
        rejected(ErrorKind::UnknownHost, format!("{name} is not in the inventory any more"))
    })?;
    let then = &leased.bmc;
    if *then != host.bmc {
        return Err(rejected(
            ErrorKind::InventoryChanged,
            format!(
                "the BMC of {name} was {} with credentials {} when this was asked for, and is {} \
                 with credentials {} now: look at the host, then submit the batch again",
                then.address, then.credentials, host.bmc.address, host.bmc.credentials
            ),
        ));
    }
    Ok(host)
}

/// Continuation after an attempt.
enum Then {
    NextStep,
    Again,
    End,
}

struct Run<'a> {
    executor: &'a Executor,
    journal: &'a Journal,
    plan: &'a Plan,
    leased: Leased,
    lease: Arc<LeaseClock>,
    recall: Arc<Recall>,
}

impl<'a> Run<'a> {
    fn new(
        executor: &'a Executor,
        journal: &'a Journal,
        plan: &'a Plan,
        leased: Leased,
        lease: Arc<LeaseClock>,
        recall: Arc<Recall>,
    ) -> Self {
        Run { executor, journal, plan, leased, lease, recall }
    }

    async fn work(&mut self, host: &Host, stop: &CancellationToken) -> Result<(), Stale> {
        let (lease, recall) = (Arc::clone(&self.lease), Arc::clone(&self.recall));
        let permit = Permit::new(move || lease.holds() && recall.touch());
        while let Some(planned) = self.plan.steps.get(self.leased.step) {
            let step = step::of(planned);
            let deadline = Instant::now() + planned.deadline();
            let cx =
                StepContext { host, bmc: self.executor.bmc.as_ref(), permit: &permit, deadline };
            loop {
                if stop.is_cancelled() {
                    return Ok(());
                }
                match self.attempt(planned, step.as_ref(), cx).await? {
                    Then::Again => tokio::select! {
                        () = sleep(wait_after(self.leased.tries)) => {}
                        () = stop.cancelled() => {}
                        () = self.recall.taken_back() => return self.hand_back(None).await,
                    },
                    Then::NextStep => break,
                    Then::End => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Makes one attempt, or settles one that a dead worker left behind.
    async fn attempt(
        &mut self,
        planned: &PlannedStep,
        step: &dyn Step,
        cx: StepContext<'_>,
    ) -> Result<Then, Stale> {
        if let Some(open) = self.leased.open_attempt.take() {
            let lost = StepError {
                class: ErrorClass::Unknown,
                kind: ErrorKind::OutcomeUnknown,
                message: "the worker died before it saw the outcome".into(),
            };
            return match self.ask_the_host(step, cx, &lost).await {
                Ok(seen @ (Probe::NotDone | Probe::Repeatable)) => {
                    if seen == Probe::NotDone && !self.leased.touched {
                        self.recall.deny_touch();
                    }
                    // A crash of ours is not a failure of the host: it costs no try.
                    let error = Some(lost.into());
                    let (state, step) = (JobState::Running, self.leased.step);
                    self.write(open, AttemptOutcome::Unknown, error, state, step).await?;
                    self.leased.tries = 0;
                    Ok(Then::Again)
                }
                seen => self.settle(planned, cx, open, lost, seen).await,
            };
        }
        self.leased.tries += 1;
        let intent = Intent {
            job: self.leased.job,
            epoch: self.leased.epoch,
            step: self.leased.step,
            try_number: self.leased.tries,
            untouched: !self.recall.is_touched(),
        };
        reach(Point::JobBeforeIntent);
        let id = match self.journal.intent(intent).await {
            Ok(id) => id,
            // Either the lease is over, and handing it back says so, or the batch was stopped.
            Err(Stale) if intent.untouched => {
                self.hand_back(None).await?;
                return Ok(Then::End);
            }
            Err(Stale) => return Err(Stale),
        };
        // The process may have been frozen since the intent was written.
        if !self.lease.holds() {
            return Err(Stale);
        }
        reach(Point::JobAfterIntent);
        let ran = tokio::select! {
            ran = step.run(cx) => ran,
            () = self.recall.taken_back() => {
                self.hand_back(Some(id)).await?;
                return Ok(Then::End);
            }
        };
        reach(Point::JobAfterAct);
        match ran {
            Ok(()) => self.succeeded(id).await,
            Err(error) if error.kind == ErrorKind::NoPermit && self.recall.is_taken_back() => {
                self.hand_back(Some(id)).await?;
                Ok(Then::End)
            }
            // The lease ended meanwhile, and nothing was done: whoever has the job now, or next, need
            // not probe the host.
            Err(error) if error.kind == ErrorKind::NoPermit => {
                let error = Some(error.into());
                let (state, step) = (JobState::Running, self.leased.step);
                self.write(id, AttemptOutcome::Failed, error, state, step).await?;
                Err(Stale)
            }
            Err(error) if error.class == ErrorClass::Unknown => {
                let seen = self.ask_the_host(step, cx, &error).await;
                self.settle(planned, cx, id, error, seen).await
            }
            Err(error) => self.failed(planned, cx, id, error).await,
        }
    }

    /// Asks the host what became of an act whose outcome nobody saw.
    async fn ask_the_host(
        &self,
        step: &dyn Step,
        cx: StepContext<'_>,
        lost: &StepError,
    ) -> Result<Probe, StepError> {
        let mut seen = Err(lost.clone());
        for round in 0..PROBES {
            seen = step.probe(cx).await;
            match &seen {
                Err(error) if error.class != ErrorClass::Rejected && round + 1 < PROBES => {
                    sleep(wait_after(round)).await;
                }
                _ => break,
            }
        }
        seen
    }

    /// Ends an attempt of unknown outcome by what the host said.
    async fn settle(
        &mut self,
        planned: &PlannedStep,
        cx: StepContext<'_>,
        attempt: i64,
        lost: StepError,
        seen: Result<Probe, StepError>,
    ) -> Result<Then, Stale> {
        match seen {
            Ok(Probe::Done) => self.succeeded(attempt).await,
            Ok(Probe::NotDone | Probe::Repeatable) => {
                let again = StepError { class: ErrorClass::Transient, ..lost };
                self.failed(planned, cx, attempt, again).await
            }
            Ok(Probe::Undecidable) => {
                let message = format!("{}: look at the host, then release it", lost.message);
                self.end(attempt, JobEvent::Quarantine, StepError { message, ..lost }).await
            }
            Err(error) => {
                let message = format!("{}, and now {}", lost.message, error.message);
                let unknown = StepError {
                    class: ErrorClass::Unknown,
                    kind: ErrorKind::OutcomeUnknown,
                    message,
                };
                self.end(attempt, JobEvent::Quarantine, unknown).await
            }
        }
    }

    async fn succeeded(&mut self, attempt: i64) -> Result<Then, Stale> {
        let step = self.leased.step + 1;
        let last = step >= self.plan.steps.len();
        let state = if last { after(JobEvent::Succeed) } else { JobState::Running };
        self.write(attempt, AttemptOutcome::Succeeded, None, state, step).await?;
        if last {
            count_end(state);
        }
        (self.leased.step, self.leased.tries) = (step, 0);
        Ok(if last { Then::End } else { Then::NextStep })
    }

    async fn failed(
        &mut self,
        planned: &PlannedStep,
        cx: StepContext<'_>,
        attempt: i64,
        error: StepError,
    ) -> Result<Then, Stale> {
        let tries_left = self.leased.tries <= planned.retry;
        let time_left = Instant::now() + wait_after(self.leased.tries) < cx.deadline;
        if error.class != ErrorClass::Transient || !tries_left || !time_left {
            return self.end(attempt, JobEvent::Fail, error).await;
        }
        let step = self.leased.step;
        let error = Some(error.into());
        self.write(attempt, AttemptOutcome::Failed, error, JobState::Running, step).await?;
        Ok(Then::Again)
    }

    async fn end(
        &mut self,
        attempt: impl Into<Option<i64>>,
        event: JobEvent,
        error: StepError,
    ) -> Result<Then, Stale> {
        let outcome = match error.class {
            ErrorClass::Unknown => AttemptOutcome::Unknown,
            ErrorClass::Transient | ErrorClass::Rejected => AttemptOutcome::Failed,
        };
        let kind = error.kind;
        let error = Some(error.into());
        self.write(attempt, outcome, error, after(event), self.leased.step).await?;
        count_end(after(event));
        bmc_events::start_reading(self.executor, &self.leased, kind);
        Ok(Then::End)
    }

    /// Gives a job back whose host was not touched: its batch was stopped, and decides what follows.
    /// Should its turn come again, it begins anew: the host may be in another state by then.
    async fn hand_back(&self, attempt: Option<i64>) -> Result<(), Stale> {
        let stopped = "the batch was stopped before anything was done";
        let error = Some(HostError::new(ErrorKind::NoPermit, stopped));
        self.write(attempt, AttemptOutcome::Failed, error, after(JobEvent::Recall), 0).await
    }

    /// Ends a job whose host cannot be worked on. What was done to it before stays unfinished.
    async fn leave(&mut self, error: StepError) -> Result<(), Stale> {
        let (event, class) = match self.recall.is_touched() {
            true => (JobEvent::Quarantine, ErrorClass::Unknown),
            false => (JobEvent::Fail, error.class),
        };
        let error = StepError { class, ..error };
        self.end(self.leased.open_attempt, event, error).await.map(drop)
    }

    async fn write(
        &self,
        attempt: impl Into<Option<i64>>,
        outcome: AttemptOutcome,
        error: Option<HostError>,
        job_state: JobState,
        step: usize,
    ) -> Result<(), Stale> {
        let Leased { job, epoch, .. } = self.leased;
        let attempt = attempt.into();
        let maybe_down = job_state == JobState::Failed && self.plan.leaves_down(step);
        let acted = self.recall.is_touched();
        let row =
            OutcomeRow { attempt, job, epoch, outcome, acted, error, job_state, step, maybe_down };
        self.journal.outcome(row).await?;
        reach(Point::JobAfterOutcome);
        Ok(())
    }
}

fn after(event: JobEvent) -> JobState {
    next(JobState::Running, event).expect("a running job can end in any way, and be taken back")
}

fn count_end(state: JobState) {
    metrics::counter!(telemetry::JOBS_ENDED, "state" => state.as_str()).increment(1);
}

/// Doubling waits, each between half and the whole of its step, so that many hosts that failed
/// together do not come back together.
fn wait_after(tries: u32) -> Duration {
    let whole = FIRST_WAIT * 2u32.pow(tries.saturating_sub(1).min(10));
    whole.min(LONGEST_WAIT).mul_f64(rand::random_range(0.5..=1.0))
}
