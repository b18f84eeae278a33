//! Lets the machine work on, and waits until it reports that it is done.
//!
//! To begin it is an act: from then on there is an attempt that the machine may claim, and what it does
//! under it is done to its host. The attempt stays open until the machine has said how it went.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Step, StepContext, StepError, StepState};
use crate::bmc::Permit;
use metalbot_core::domain::course::StepEffect;
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind, HostError};
use metalbot_core::domain::report::ReportKind;

pub(super) struct WaitReport {
    pub(super) report: ReportKind,
}

#[async_trait]
impl Step for WaitReport {
    fn effect(&self) -> StepEffect {
        StepEffect::Repeatable
    }

    fn hears(&self) -> Vec<ReportKind> {
        let failed = ReportKind::FAILED.parse().expect("it is a word");
        vec![self.report.clone(), failed]
    }

    async fn begin(
        &self,
        cx: StepContext<'_>,
        permit: &Arc<dyn Permit>,
    ) -> Result<StepState, StepError> {
        match permit.ask().await {
            Some(_) => Ok(StepState::Wait { look_in: cx.left }),
            None => Err(StepError {
                class: ErrorClass::Transient,
                kind: ErrorKind::NoPermit,
                message: "the machine was not let to begin".into(),
            }),
        }
    }

    async fn look(&self, cx: StepContext<'_>) -> Result<StepState, StepError> {
        let newest = |kind: &str| cx.reports.iter().find(|report| report.kind.as_str() == kind);
        if newest(self.report.as_str()).is_some() {
            return Ok(StepState::Done);
        }
        if let Some(report) = newest(ReportKind::FAILED) {
            let message = format!("the machine reported that it failed: {}", report.failure());
            return Ok(StepState::GivenUp(HostError::new(ErrorKind::ReportedFailure, message)));
        }
        if cx.left.is_zero() {
            let waited = humantime::format_duration(Duration::from_secs(cx.age.as_secs()));
            let message = format!("the machine did not report {} in {waited}", self.report);
            return Ok(StepState::GivenUp(HostError::new(ErrorKind::ReportMissing, message)));
        }
        // A report wakes the job.
        Ok(StepState::Wait { look_in: cx.left })
    }
}
