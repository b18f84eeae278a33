//! Run of one leased job, step by step: what happens is given to [`course::next`], and what that decides
//! is done.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Executor;
use super::hold::Hold;
use super::job_end::{End, end_unreadable};
use crate::bmc::Permit;
use crate::failpoint::{Point, reach};
use crate::step::{self, Step, StepContext, StepError, StepState, sight};
use metalbot_core::domain::course::{
    self, ACT_LIFETIME, Happened, JobFacts, Sight, StepEffect, Then, Why,
};
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind};
use metalbot_core::domain::host::Host;
use metalbot_core::domain::job::JobState;
use metalbot_core::domain::report::ReceivedReport;
use metalbot_core::domain::workflow::{Plan, PlannedStep};
use metalbot_store::attempt::{AttemptOutcome, Intent};
use metalbot_store::lease::Leased;
use metalbot_store::{answered_within, report};

/// First wait between two attempts of a step; doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A wait that is shorter is waited for here; a longer one parks the job.
const PARK_FROM: Duration = Duration::from_secs(1);
/// Time that the database has to say what a machine has reported, and the wait after which it is asked
/// again.
const REPORTS_ANSWER: Duration = Duration::from_secs(5);
const REPORTS_LATER: Duration = Duration::from_secs(1);
/// Wait for what this process lacks.
const OWN_SHORTAGE: Duration = Duration::from_secs(10);
/// Longest time that a job is parked. What it waits for wakes it; this is for a stop in the very moment
/// in which its job was leased, parked and committed, which two snapshots of the database can miss.
const LONGEST_PARK: Duration = Duration::from_secs(300);
/// Longest wait for what an act would do that was left out since the batch was cancelled: it may have
/// been sent before, and a BMC may show the old state for some seconds.
const SETTLES_IN: Duration = Duration::from_secs(10);
/// Looks at an act whose outcome is unknown, before it counts as undecidable.
const LOOKS: u32 = 3;
/// Takeovers of a job that has not come forward meanwhile, before a person has to look at it: it may be
/// what ends its workers.
const MAX_TAKEOVERS: u32 = 5;

/// What all jobs of a worker share.
#[derive(Clone)]
pub struct WorkerContext {
    pub executor: Executor,
    /// Calls of BMCs that may be under way.
    pub calls: Arc<Semaphore>,
    pub draining: CancellationToken,
}

/// Works on a job until it ends, is parked, or is another worker's.
pub async fn run_job(shared: WorkerContext, plan: Arc<Plan>, hold: Hold) {
    let name = hold.leased.host.clone();
    if hold.leased.step >= plan.steps.len() {
        return end_unreadable(hold, "it has fewer steps than were done").await;
    }
    let mut run = Run::new(shared, plan, hold);
    match run.work().await {
        Ok(end) => {
            if let Err(why) = run.end(end).await {
                tracing::warn!(host = %name, ?why, "what came of a job was not written");
            }
        }
        Err(_) => {
            tracing::warn!(host = %name, "the lease of a job is lost, and this worker stops working on it");
            run.hold.leave();
        }
    }
}

pub(super) struct Run {
    pub(super) shared: WorkerContext,
    pub(super) plan: Arc<Plan>,
    pub(super) hold: Hold,
    /// Index of the step to do next.
    pub(super) at: usize,
    step: Box<dyn Step>,
    step_began: Instant,
    deadline: Instant,
    pub(super) tries: u32,
    /// Something was, or may have been, done to the host by attempts that have ended.
    touched: bool,
    /// The attempt that may have acted and has no outcome.
    pub(super) open: Option<i64>,
    /// It is known that nothing was sent in it.
    unsent: bool,
    /// It is of a worker that is gone.
    inherited: bool,
    /// When the attempt was begun that there is something to write of.
    pub(super) began: Option<Instant>,
    looks: u32,
    /// Time after which the step wants to be looked at.
    look_in: Duration,
    /// What the attempt said, if not that all is well.
    pub(super) error: Option<StepError>,
    /// What the host said when it was asked what had become of the attempt.
    pub(super) looked: Option<StepError>,
    /// Why a step was left out that only looks.
    unseen: Option<StepError>,
    /// Acts were left out because the batch was cancelled.
    pub(super) acts_skipped: bool,
}

impl Run {
    fn new(shared: WorkerContext, plan: Arc<Plan>, hold: Hold) -> Run {
        let Leased { step: at, step_age, tries, touched, .. } = hold.leased;
        let open = hold.leased.open_attempt;
        let inherited = open.is_some() && hold.leased.takeovers > 0;
        let planned = &plan.steps[at];
        let now = Instant::now();
        let lost = || StepError {
            class: ErrorClass::Unknown,
            kind: ErrorKind::OutcomeUnknown,
            message: "the worker died before it saw the outcome".into(),
        };
        Run {
            step: step::of(planned),
            step_began: now.checked_sub(step_age).unwrap_or(now),
            deadline: now + time_for(&plan, at, hold.leased.acts_skipped).saturating_sub(step_age),
            at,
            tries,
            touched,
            open,
            unsent: false,
            inherited,
            began: None,
            looks: 0,
            look_in: Duration::ZERO,
            error: inherited.then(lost),
            looked: None,
            unseen: None,
            acts_skipped: hold.leased.acts_skipped,
            shared,
            plan,
            hold,
        }
    }

    /// Goes on until the hold is to be ended. An error: the job is not this worker's any more.
    async fn work(&mut self) -> Result<End, Why> {
        let takeovers = self.hold.leased.takeovers;
        if takeovers > MAX_TAKEOVERS {
            let message = format!(
                "{takeovers} workers ended in the middle of it: look at the host, then release it"
            );
            let (class, kind) = (ErrorClass::Unknown, ErrorKind::OutcomeUnknown);
            return Ok(End::Quarantined(StepError { class, kind, message }));
        }
        let mut happened = Happened::Turned;
        if self.open.is_some() {
            if self.inherited {
                // Until then, what its worker was allowed to send may still leave.
                sleep(ACT_LIFETIME).await;
            }
            let host = match self.approved_host() {
                Ok(host) => host,
                Err(error) => return Ok(self.leave_alone(error)),
            };
            happened = self.look(&host).await;
        }
        loop {
            if self.hold.is_lost() {
                return Err(Why::Lost);
            }
            if happened == Happened::Turned && self.shared.draining.is_cancelled() {
                return Ok(End::Parked(Duration::ZERO));
            }
            let host = match self.approved_host() {
                Ok(host) => host,
                Err(error) => return Ok(self.leave_alone(error)),
            };
            happened = match course::next(self.facts(), happened) {
                Then::Begin => self.begin(&host).await,
                Then::Look => {
                    sleep(wait_after(self.looks)).await;
                    self.look(&host).await
                }
                Then::Wait => {
                    if let Some(end) = self.wait(self.look_in).await {
                        return Ok(end);
                    }
                    if self.open.is_some() {
                        self.look(&host).await
                    } else {
                        // To look again is no other try.
                        self.tries = self.tries.saturating_sub(1);
                        Happened::Turned
                    }
                }
                Then::Advance => {
                    if let Some(end) = self.advance(AttemptOutcome::Succeeded).await? {
                        return Ok(end);
                    }
                    Happened::Turned
                }
                Then::Skip => {
                    if let Some(end) = self.skip().await? {
                        return Ok(end);
                    }
                    Happened::Turned
                }
                Then::Again => {
                    self.end_attempt(AttemptOutcome::Failed).await?;
                    if let Some(end) = self.wait(wait_after(self.tries)).await {
                        return Ok(end);
                    }
                    Happened::Turned
                }
                Then::Anew => {
                    self.end_attempt(AttemptOutcome::Unknown).await?;
                    self.tries = if self.inherited { 0 } else { self.tries.saturating_sub(1) };
                    if let Some(end) = self.wait(wait_after(1)).await {
                        return Ok(end);
                    }
                    Happened::Turned
                }
                Then::Later => {
                    if self.open.is_some() {
                        self.end_attempt(AttemptOutcome::Failed).await?;
                    }
                    // Nothing was asked of the host, so that there is nothing to tell of it.
                    (self.began, self.error) = (None, None);
                    self.tries = self.tries.saturating_sub(1);
                    if let Some(end) = self.wait(OWN_SHORTAGE).await {
                        return Ok(end);
                    }
                    Happened::Turned
                }
                Then::Fail => return Ok(End::Failed(self.failure(happened))),
                Then::Quarantine => return Ok(End::Quarantined(self.failure(happened))),
                Then::Back => return Ok(End::Back),
                Then::HandOver => return Ok(End::Parked(Duration::ZERO)),
                Then::Leave => return Err(Why::Lost),
            };
        }
    }

    fn planned(&self) -> &PlannedStep {
        &self.plan.steps[self.at]
    }

    fn facts(&self) -> JobFacts {
        let now = Instant::now();
        JobFacts {
            effect: self.step.effect(),
            finishing: self.planned().finishing,
            touched: self.touched || self.open.is_some(),
            inherited: self.inherited,
            tries_left: self.tries <= self.planned().retry,
            time_left: now + wait_after(self.tries) < self.deadline,
            looks_left: self.looks < LOOKS,
            stop: self.hold.stop(),
        }
    }

    fn context<'a>(&'a self, host: &'a Host, reports: &'a [ReceivedReport]) -> StepContext<'a> {
        StepContext {
            host,
            reports,
            bmc: self.shared.executor.bmc.as_ref(),
            age: self.step_began.elapsed(),
            left: self.deadline.saturating_duration_since(Instant::now()),
        }
    }

    /// Begins the step, unless something is heard meanwhile that forbids it.
    async fn begin(&mut self, host: &Host) -> Happened {
        self.tries += 1;
        self.began.get_or_insert_with(Instant::now);
        (self.looks, self.error, self.looked) = (0, None, None);
        let intent = Intent {
            lease: self.hold.leased.id,
            step: self.at,
            try_number: self.tries,
            finishing: self.planned().finishing,
        };
        let (hosts, draining) = (&self.shared.executor.hosts, &self.shared.draining);
        let may_act = self.hold.may_act(intent, Arc::clone(hosts), draining.clone());
        let permit: Arc<dyn Permit> = may_act.clone();
        let (said, cut_off) = {
            let facts = self.facts();
            let mut hold = self.hold.listen();
            let begun = async {
                let _call = self.shared.calls.acquire().await;
                self.step.begin(self.context(host, &[]), &permit).await
            };
            tokio::pin!(begun);
            let mut may_cut_off = true;
            loop {
                tokio::select! {
                    said = &mut begun => break (Some(said), false),
                    () = hold.forbids(facts, draining), if may_cut_off => {
                        if may_act.close() {
                            break (None, true);
                        }
                        // It was asked for, and may be on its way.
                        may_cut_off = false;
                    }
                }
            }
        };
        reach(Point::JobAfterAct);
        if cut_off {
            (self.began, self.tries) = (None, self.tries - 1);
        }
        let Some(said) = said else { return Happened::Turned };
        if let Some(Ok(attempt)) = may_act.answer() {
            (self.open, self.inherited) = (Some(attempt), false);
        }
        let refused = matches!(&said, Err(error) if error.kind == ErrorKind::NoPermit);
        self.unsent = refused && !may_act.was_asked_again();
        let happened = match may_act.answer() {
            Some(Err(why)) if refused => Happened::Refused(why),
            _ if refused => Happened::Refused(Why::Late),
            _ => Happened::Begun(sight(&said)),
        };
        match said {
            Ok(StepState::Wait { look_in }) => self.look_in = look_in,
            Ok(StepState::GivenUp(error)) => self.error = Some(error.into()),
            Ok(_) => {}
            Err(error) => self.error = Some(error),
        }
        happened
    }

    /// Asks the host what has become of the attempt.
    async fn look(&mut self, host: &Host) -> Happened {
        self.looks += 1;
        let reports = match self.reports().await {
            Ok(reports) => reports,
            Err(error) => {
                tracing::warn!(%error, "what a machine has reported cannot be read");
                self.look_in = REPORTS_LATER;
                return Happened::Looked(Sight::Waits);
            }
        };
        reach(Point::LookBefore);
        let said = {
            let _call = self.shared.calls.acquire().await;
            self.step.look(self.context(host, &reports)).await
        };
        reach(Point::LookAfter);
        let happened = Happened::Looked(sight(&said));
        match said {
            Ok(StepState::Wait { look_in }) => (self.look_in, self.looks) = (look_in, 0),
            Ok(StepState::GivenUp(error)) => self.error = Some(error.into()),
            Ok(_) => {}
            Err(error) if error.class == ErrorClass::Own => self.look_in = OWN_SHORTAGE,
            Err(error) => self.looked = Some(error),
        }
        happened
    }

    /// What the machine has reported of the open attempt, as far as the step wants to know.
    async fn reports(&self) -> sqlx::Result<Vec<ReceivedReport>> {
        let kinds = self.step.hears();
        let Some(attempt) = self.open.filter(|_| !kinds.is_empty()) else { return Ok(Vec::new()) };
        let newest = report::newest(&self.shared.executor.pool, attempt, &kinds);
        answered_within(REPORTS_ANSWER, newest).await
    }

    /// Waits here; a longer wait is an end, which parks the job.
    async fn wait(&mut self, time: Duration) -> Option<End> {
        if time >= PARK_FROM || self.shared.draining.is_cancelled() {
            return Some(End::Parked(time.min(LONGEST_PARK)));
        }
        tokio::select! {
            () = sleep(time) => {}
            () = self.hold.news() => {}
            () = self.shared.draining.cancelled() => {}
        }
        None
    }

    /// Turns to the next step; an end where there is none.
    async fn advance(&mut self, outcome: AttemptOutcome) -> Result<Option<End>, Why> {
        let next = self.at + 1;
        let Some(planned) = self.plan.steps.get(next) else {
            return Ok(Some(match self.unseen.take() {
                Some(error) => End::Failed(error),
                None if self.acts_skipped => End::Stopped,
                None => End::Succeeded,
            }));
        };
        let step = step::of(planned);
        let time = time_for(&self.plan, next, self.acts_skipped);
        let attempt = self.attempt_end(outcome, self.open.is_some(), self.error.clone());
        self.hold.record(self.row(attempt, JobState::Running, next)).await?;
        reach(Point::JobAfterOutcome);
        self.touched |= self.open.is_some();
        let now = Instant::now();
        (self.at, self.step, self.step_began, self.deadline) = (next, step, now, now + time);
        (self.tries, self.looks, self.began, self.error) = (0, 0, None, None);
        (self.open, self.inherited) = (None, false);
        Ok(None)
    }

    /// Leaves the step out: its batch was cancelled.
    async fn skip(&mut self) -> Result<Option<End>, Why> {
        match self.step.effect() {
            StepEffect::Reads if waits_for_skipped(&self.plan, self.at, self.acts_skipped) => {
                self.error = None;
            }
            StepEffect::Reads => self.unseen = self.error.take(),
            StepEffect::Repeatable | StepEffect::Once => self.acts_skipped = true,
        }
        self.advance(AttemptOutcome::Failed).await
    }

    /// Writes what came of the attempt; the step is tried again. What may have been sent has touched the
    /// host, even if that looks as before: a BMC may show the old state for some seconds.
    async fn end_attempt(&mut self, outcome: AttemptOutcome) -> Result<(), Why> {
        let (error, acted) = (self.error.take(), self.open.is_some() && !self.unsent);
        let attempt = self.attempt_end(outcome, acted, error);
        self.hold.record(self.row(attempt, JobState::Running, self.at)).await?;
        reach(Point::JobAfterOutcome);
        self.touched |= acted;
        (self.open, self.began, self.looked) = (None, None, None);
        Ok(())
    }

    /// End of a job whose host cannot be worked on. What was done to it before stays unfinished.
    fn leave_alone(&self, error: StepError) -> End {
        match self.touched || self.open.is_some() {
            true => End::Quarantined(StepError { class: ErrorClass::Unknown, ..error }),
            false => End::Failed(error),
        }
    }

    /// Returns the host, if its BMC is the one that the batch was submitted for: the people who approved
    /// meant that machine, and the name may be another's by now.
    fn approved_host(&self) -> Result<Host, StepError> {
        let rejected = |kind, message| StepError { class: ErrorClass::Rejected, kind, message };
        let Leased { host: name, bmc: then, .. } = &self.hold.leased;
        let host = self.shared.executor.hosts.host(name).ok_or_else(|| {
            rejected(ErrorKind::UnknownHost, format!("{name} is not in the inventory any more"))
        })?;
        if *then != host.bmc {
            return Err(rejected(
                ErrorKind::InventoryChanged,
                format!(
                    "the BMC of {name} was {} with credentials {} when this was asked for, and is \
                     {} with credentials {} now: look at the host, then submit the batch again",
                    then.address, then.credentials, host.bmc.address, host.bmc.credentials
                ),
            ));
        }
        Ok(host)
    }
}

/// Whether a step waits for what the act before it would have done, which was left out: once one was, all
/// are but those that bring the host to a safe end.
fn waits_for_skipped(plan: &Plan, at: usize, acts_skipped: bool) -> bool {
    let reads = |step: &PlannedStep| step::of(step).effect() == StepEffect::Reads;
    let act = plan.steps[..at].iter().rev().find(|step| !reads(step));
    acts_skipped && reads(&plan.steps[at]) && act.is_some_and(|act| !act.finishing)
}

/// Time that a step has.
fn time_for(plan: &Plan, at: usize, acts_skipped: bool) -> Duration {
    let time = plan.steps[at].deadline();
    if waits_for_skipped(plan, at, acts_skipped) { time.min(SETTLES_IN) } else { time }
}

/// Doubling waits, each between half and the whole of its step, so that many hosts that failed
/// together do not come back together.
fn wait_after(tries: u32) -> Duration {
    let whole = FIRST_WAIT * 2u32.pow(tries.saturating_sub(1).min(10));
    whole.min(LONGEST_WAIT).mul_f64(rand::random_range(0.5..=1.0))
}
