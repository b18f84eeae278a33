//! What machines tell of themselves while a job of theirs waits for them.
//!
//! A machine claims the open attempt of its host once, and gets a token; with that it reports, until the
//! attempt has its outcome. The token is the right to report of that attempt and to nothing else.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use super::Error;
use crate::runtime::notifier::Notifier;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::report::{MAX_REPORTS, Report, ReportError};
use metalbot_store::report::{ReportAnswer, TokenHash};
use metalbot_store::{answered_within, card, report};

/// Shortest time between two edits of a card for what machines tell of their progress.
const CARD_PERIOD: Duration = Duration::from_secs(2);
/// Time that the database has for one report, and for the cards of a period.
const ANSWER: Duration = Duration::from_secs(5);
/// What every token begins with, so that one is recognised where it does not belong.
const PREFIX: &str = "mbr_";

/// Right of one machine to report of one attempt. Shown once; nobody can read it again.
pub struct ReportToken(String);

impl ReportToken {
    fn new() -> ReportToken {
        ReportToken(format!("{PREFIX}{}", hex::encode(rand::random::<[u8; 32]>())))
    }

    /// The token itself, for the machine alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ReportToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReportToken(..)")
    }
}

/// Lets the machine that is this host claim its open attempt. `None`: there is none that waits for
/// reports, a worker is looking at it just now, it was claimed before, or its batch was stopped.
pub async fn claim(pool: &PgPool, host: &HostName) -> Result<Option<ReportToken>, Error> {
    let mut tx = pool.begin().await?;
    let Some(attempt) = report::open_attempt(&mut tx, host).await? else { return Ok(None) };
    let token = ReportToken::new();
    if !report::issue_token(&mut tx, attempt, &hash(token.expose())).await? {
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(token))
}

/// Whether a report was there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepted {
    Stored,
    Repeated,
}

/// Why a report is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportRefusal {
    #[error(
        "send the token that you were given for this attempt, as `Authorization: Bearer TOKEN`"
    )]
    Token,
    #[error("the report cannot be read: {0}")]
    Report(#[from] ReportError),
    #[error("another report of this attempt has the key {0:?}: give each its own")]
    KeyTaken(String),
    #[error("the attempt has ended, and nobody waits for its reports any more: stop working on it")]
    Ended,
    #[error("an attempt may have {MAX_REPORTS} reports, and this one has them")]
    TooMany,
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<sqlx::Error> for ReportRefusal {
    fn from(error: sqlx::Error) -> Self {
        ReportRefusal::Other(error.into())
    }
}

/// Takes the reports of machines, and shows on the cards how far they are.
pub struct AgentReports {
    pool: PgPool,
    notifier: Arc<Notifier>,
    /// Batches of which machines have told progress since their cards were last marked. What a process
    /// that dies had here is shown with the next report.
    progressed: Mutex<BTreeSet<BatchId>>,
}

impl fmt::Debug for AgentReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentReports").finish_non_exhaustive()
    }
}

impl AgentReports {
    pub fn new(pool: PgPool, notifier: Arc<Notifier>) -> AgentReports {
        AgentReports { pool, notifier, progressed: Mutex::default() }
    }

    /// Stores a report, once; a job that waits for it is woken.
    pub async fn take(&self, token: &str, report: &Report) -> Result<Accepted, ReportRefusal> {
        report.check()?;
        if !looks_like_a_token(token) {
            return Err(ReportRefusal::Token);
        }
        let stored = async {
            let mut tx = self.pool.begin().await?;
            let received = report::receive(&mut tx, &hash(token), report).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(received)
        };
        match answered_within(ANSWER, stored).await? {
            ReportAnswer::Stored { wakes: true, .. } => self.notifier.work_changed(),
            ReportAnswer::Stored { batch, .. } => _ = self.progressed().insert(batch),
            ReportAnswer::Repeated => return Ok(Accepted::Repeated),
            ReportAnswer::KeyTaken => return Err(ReportRefusal::KeyTaken(report.key.clone())),
            ReportAnswer::Ended => return Err(ReportRefusal::Ended),
            ReportAnswer::TooMany => return Err(ReportRefusal::TooMany),
            ReportAnswer::Unknown => return Err(ReportRefusal::Token),
        }
        Ok(Accepted::Stored)
    }

    /// Marks the cards of batches whose machines told progress, once a period. Never returns.
    pub async fn run_cards(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CARD_PERIOD).await;
            let batches = std::mem::take(&mut *self.progressed());
            for batch in batches {
                let marked =
                    async { card::progress(&mut *self.pool.acquire().await?, batch).await };
                if let Err(error) = answered_within(ANSWER, marked).await {
                    tracing::warn!(%batch, %error, "a card does not show how far its machines are");
                    self.progressed().insert(batch);
                }
            }
        }
    }

    fn progressed(&self) -> std::sync::MutexGuard<'_, BTreeSet<BatchId>> {
        self.progressed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Keeps what cannot be a token from the database.
fn looks_like_a_token(text: &str) -> bool {
    text.strip_prefix(PREFIX)
        .is_some_and(|rest| rest.len() == 64 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown_by_chance() {
        let token = ReportToken::new();
        assert!(looks_like_a_token(token.expose()));
        assert!(!format!("{token:?}").contains(&token.expose()[8..]));
        for other in ["", "mbr_", "mbr_12", &token.expose()[4..], "mbr_'; drop table job; --"] {
            assert!(!looks_like_a_token(other), "{other}");
        }
    }
}
