//! What is written when the run of a job ends, and of each of its attempts.

use std::time::Duration;

use super::bmc_events;
use super::hold::Hold;
use super::job_run::Run;
use crate::failpoint::{Point, reach};
use crate::step::StepError;
use crate::telemetry;
use metalbot_core::domain::course::{Happened, Sight, Why};
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind, HostError};
use metalbot_core::domain::job::{JobEvent, JobState, next};
use metalbot_store::attempt::{AttemptEnd, AttemptOutcome, OutcomeRow};

/// Wait before a job is taken up again that the database could not tell enough of.
const LATER: Duration = Duration::from_secs(1);

/// Last thing that is written of a hold.
pub(super) enum End {
    Succeeded,
    Failed(StepError),
    Quarantined(StepError),
    /// Its batch was cancelled, and its host has been brought to a safe end.
    Stopped,
    /// Its batch was stopped before anything was done.
    Back,
    Parked(Duration),
}

/// Ends a job whose plan cannot be read.
pub async fn end_unreadable(hold: Hold, why: &str) {
    let touched = hold.leased.touched || hold.leased.open_attempt.is_some();
    let message = format!("the plan of the batch cannot be read: {why}");
    let (event, class) = match touched {
        true => (JobEvent::Quarantine, AttemptOutcome::Unknown),
        false => (JobEvent::Fail, AttemptOutcome::Failed),
    };
    let row = OutcomeRow {
        lease: hold.leased.id,
        attempt: Some(AttemptEnd {
            step: hold.leased.step,
            try_number: hold.leased.tries + 1,
            began_ago: Duration::ZERO,
            outcome: class,
            acted: hold.leased.open_attempt.is_some(),
            error: Some(HostError::new(ErrorKind::JournalRefused, message)),
        }),
        job_state: after(event),
        step: hold.leased.step,
        acts_skipped: false,
        wake_in: None,
        news_seen: hold.leased.news,
        maybe_down: false,
    };
    if hold.end(row).await.is_ok() {
        count_end(after(event));
    }
}

/// Puts a job off whose plan could not be read just now.
pub async fn end_later(hold: Hold) {
    let row = OutcomeRow {
        lease: hold.leased.id,
        attempt: None,
        job_state: after(JobEvent::Park),
        step: hold.leased.step,
        acts_skipped: false,
        wake_in: Some(LATER),
        news_seen: hold.leased.news,
        maybe_down: false,
    };
    // Otherwise the job is not this worker's any more.
    let _ = hold.end(row).await;
}

impl Run {
    /// What is to be written of the attempt, if there is one.
    pub(super) fn attempt_end(
        &self,
        outcome: AttemptOutcome,
        acted: bool,
        error: Option<StepError>,
    ) -> Option<AttemptEnd> {
        (self.open.is_some() || self.began.is_some() || error.is_some()).then(|| AttemptEnd {
            step: self.at,
            try_number: self.tries.max(1),
            began_ago: self.began.map_or(Duration::ZERO, |began| began.elapsed()),
            outcome,
            acted,
            error: error.map(HostError::from),
        })
    }

    pub(super) fn row(
        &self,
        attempt: Option<AttemptEnd>,
        job_state: JobState,
        step: usize,
    ) -> OutcomeRow {
        // What is quarantined counts as down whatever was done to it.
        let ended =
            matches!(job_state, JobState::Failed | JobState::Succeeded | JobState::Cancelled);
        OutcomeRow {
            lease: self.hold.leased.id,
            attempt,
            job_state,
            step,
            acts_skipped: self.acts_skipped,
            wake_in: None,
            news_seen: self.hold.leased.news,
            maybe_down: ended && self.plan.leaves_down(step),
        }
    }

    /// Ends the hold.
    pub(super) async fn end(self, end: End) -> Result<(), Why> {
        use AttemptOutcome as Outcome;
        let stopped = |message: &str| StepError {
            class: ErrorClass::Transient,
            kind: ErrorKind::NoPermit,
            message: message.into(),
        };
        let (event, step) = match &end {
            End::Succeeded => (JobEvent::Succeed, self.at + 1),
            End::Failed(_) => (JobEvent::Fail, self.at),
            End::Quarantined(_) => (JobEvent::Quarantine, self.at),
            End::Stopped => (JobEvent::Stop, self.at + 1),
            // Should its turn come again, it begins anew: the host may be in another state by then.
            End::Back => (JobEvent::Recall, 0),
            End::Parked(_) => (JobEvent::Park, self.at),
        };
        let (mut kind, mut wake_in) = (None, None);
        let attempt = match end {
            End::Succeeded => self.attempt_end(Outcome::Succeeded, self.open.is_some(), None),
            End::Failed(error) | End::Quarantined(error) => {
                kind = Some(error.kind);
                let outcome = match error.class {
                    ErrorClass::Unknown => Outcome::Unknown,
                    ErrorClass::Transient | ErrorClass::Rejected | ErrorClass::Own => {
                        Outcome::Failed
                    }
                };
                let sent = self.open.is_some() && error.kind != ErrorKind::NoPermit;
                self.attempt_end(outcome, sent, Some(error))
            }
            End::Stopped => {
                let why = stopped("the batch was cancelled: its host was brought to a safe end");
                self.attempt_end(Outcome::Failed, self.open.is_some(), Some(why))
            }
            End::Back => {
                let why = stopped("the batch was stopped before anything was done");
                self.attempt_end(Outcome::Failed, false, Some(why))
            }
            End::Parked(wait) => {
                wake_in = Some(wait);
                None
            }
        };
        let state = after(event);
        let row = OutcomeRow { wake_in, ..self.row(attempt, state, step) };
        let (executor, leased) = (self.shared.executor.clone(), self.hold.leased.clone());
        self.hold.end(row).await?;
        reach(Point::JobAfterOutcome);
        if state.is_ended() {
            count_end(state);
        }
        if let Some(kind) = kind {
            bmc_events::start_reading(&executor, &leased, kind);
        }
        Ok(())
    }

    /// Why the job ends, in words.
    pub(super) fn failure(&self, happened: Happened) -> StepError {
        let unknown = |message| StepError {
            class: ErrorClass::Unknown,
            kind: ErrorKind::OutcomeUnknown,
            message,
        };
        let error = self.error.clone().unwrap_or_else(|| unknown("it did not happen".into()));
        match (happened, &self.looked) {
            (Happened::Refused(Why::Refused), _) => StepError {
                class: ErrorClass::Rejected,
                kind: ErrorKind::JournalRefused,
                message: "the journal refused the intent, and nothing was sent".into(),
            },
            (Happened::Refused(Why::Late), _) => StepError {
                message: "the database did not answer in time, and nothing was sent".into(),
                ..error
            },
            (Happened::Looked(Sight::Undecidable), _) => {
                let message = format!("{}: look at the host, then release it", error.message);
                StepError { class: ErrorClass::Unknown, message, ..error }
            }
            (Happened::Looked(Sight::Failed(_)), Some(looked)) if self.open.is_some() => {
                unknown(format!("{}, and now {}", error.message, looked.message))
            }
            (Happened::Looked(Sight::Failed(_)), Some(looked)) => looked.clone(),
            _ => error,
        }
    }
}

fn after(event: JobEvent) -> JobState {
    next(JobState::Running, event)
        .expect("a running job can end in any way, wait, and be taken back")
}

fn count_end(state: JobState) {
    metrics::counter!(telemetry::JOBS_ENDED, "state" => state.as_str()).increment(1);
}
