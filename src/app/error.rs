//! Errors of use cases. Each interface renders them in its own way: chat by a template, the API as
//! a problem, the command line on standard error.
//!
//! Invariants: the message is for the person and says what to do next; the cause of an internal
//! error is logged and never shown; after an error nothing was changed.

use metalbot_core::command::CommandError;
use metalbot_core::domain::approval::MayNot;
use metalbot_core::domain::batch::{BatchState, IllegalBatchEvent};
use metalbot_core::domain::host::{HostName, fold};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::reply::ErrorReply;
use metalbot_store::batch::ApplyError;

use crate::identity::authz::Forbidden;

/// Error of a request that was not carried out; the variant is its class.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be understood, or asks for what no request may.
    #[error("{}", .0.message())]
    Invalid(#[from] CommandError),
    /// The person is not allowed to do it.
    #[error(transparent)]
    Forbidden(#[from] Denied),
    /// The batch, host or action does not exist.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The present state of a batch, host or channel does not allow it.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The database does not answer: the same request may be repeated.
    #[error("Metalbot cannot do this right now; nothing was changed. Try again in a minute")]
    Unavailable(#[source] sqlx::Error),
    /// A fault in Metalbot or its database; the log has the cause.
    #[error("Metalbot has failed at this; nothing was changed, and its log says why")]
    Internal(#[source] sqlx::Error),
}

/// Reason why the person is not allowed to do something.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    #[error(transparent)]
    Policy(#[from] Forbidden),
    #[error(transparent)]
    Decision(#[from] MayNot),
}

/// Thing that was asked for and does not exist.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotFound {
    #[error("there is no batch {0}; `/metal list` shows the latest")]
    Batch(BatchId),
    /// A host can leave the inventory between a batch and its retry.
    #[error("{} is not in the inventory any more", fold(.0))]
    Hosts(Vec<HostName>),
    #[error("{} is not in {batch}", fold(.hosts))]
    HostsInBatch { batch: BatchId, hosts: Vec<HostName> },
    #[error("there is no action {0} any more")]
    Action(String),
}

/// State that does not allow the request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Conflict {
    #[error("the state of the batch does not allow it: {0}")]
    State(BatchState),
    #[error("{batch} is {state}: retry it when it has ended")]
    NotEnded { batch: BatchId, state: BatchState },
    #[error("every host of {0} succeeded: nothing to retry")]
    NothingFailed(BatchId),
    #[error("no host of {0} failed: submit it anew instead")]
    NothingToRetry(BatchId),
    #[error("{0} has changed since you saw it: look at it again, then decide")]
    PlanChanged(BatchId),
    #[error("you have already decided on {0}")]
    AlreadyDecided(BatchId),
    #[error("the time to decide on {0} is over: it expires")]
    DecisionOverdue(BatchId),
    #[error("{batch} is {state}{}: there is nothing to decide", in_brackets(.why))]
    NothingToDecide { batch: BatchId, state: BatchState, why: Option<String> },
    #[error("{0} has begun, and no word on its approval changes that: say `stop` to end it")]
    Begun(BatchId),
    #[error("the approval of {0} does not stand any more: it goes on when it is approved again")]
    ApprovalLost(BatchId),
    #[error(
        "{login}, who asked for {batch}, is not in the directory any more, so that it is not started: \
         cancel it, and ask for it anew if it is still wanted"
    )]
    SubmitterLeft { batch: BatchId, login: String },
    #[error("{0} went on after that and was paused again: look at its card, then decide")]
    PausedAgain(BatchId),
    #[error("{batch} is {state}: hosts can be dropped only while it waits for approval")]
    DropTooLate { batch: BatchId, state: BatchState },
    #[error("that would leave no host: use `/metal cancel {}`", .0.0)]
    DropLeavesNone(BatchId),
    #[error("{} is not quarantined, and not counted as down", fold(.0))]
    NotReleasable(Vec<HostName>),
    #[error("that is {asked} hosts: ask about {most} at a time")]
    TooManyHosts { asked: usize, most: usize },
    /// Nobody would see the batch's card; the text says what has to be done first.
    #[error("{0}; nothing was done")]
    ChannelClosed(String),
    #[error("that button is not valid here any more")]
    StaleButton,
    #[error(
        "that is not read as a decision: write approve, reject because ..., cancel, retry or status and \
         nothing else, or press the button"
    )]
    UnclearReply,
    #[error("say it in the channel that it is about")]
    NotInAChannel,
}

fn in_brackets(why: &Option<String>) -> String {
    why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
}

impl Error {
    /// Stable name, for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Invalid(_) => "invalid",
            Error::Forbidden(Denied::Policy(_)) => "forbidden",
            Error::Forbidden(Denied::Decision(_)) => "forbidden.decision",
            Error::NotFound(missing) => missing.code(),
            Error::Conflict(conflict) => conflict.code(),
            Error::Unavailable(_) => "unavailable",
            Error::Internal(_) => "internal",
        }
    }

    /// Advice on the right form of the request, if there is any beside the message.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Invalid(error) => error.hint(),
            _ => None,
        }
    }

    /// Position in the text that was typed, 1-based, in characters.
    pub fn column(&self) -> Option<usize> {
        match self {
            Error::Invalid(error) => error.column,
            _ => None,
        }
    }

    /// The error as an answer. `input` is the typed text, if the request came as text.
    pub fn reply(&self, input: Option<&str>) -> ErrorReply {
        let column = input.and(self.column());
        ErrorReply {
            code: self.code().into(),
            message: self.to_string(),
            input: column.and(input).map(str::to_owned),
            column,
            hint: self.hint(),
        }
    }
}

impl NotFound {
    fn code(&self) -> &'static str {
        match self {
            NotFound::Batch(_) => "not_found.batch",
            NotFound::Hosts(_) => "not_found.hosts",
            NotFound::HostsInBatch { .. } => "not_found.hosts_in_batch",
            NotFound::Action(_) => "not_found.action",
        }
    }
}

impl Conflict {
    fn code(&self) -> &'static str {
        match self {
            Conflict::State(_) => "conflict.state",
            Conflict::NotEnded { .. } => "conflict.not_ended",
            Conflict::NothingFailed(_) | Conflict::NothingToRetry(_) => "conflict.nothing_to_retry",
            Conflict::PlanChanged(_) => "conflict.plan_changed",
            Conflict::AlreadyDecided(_) => "conflict.already_decided",
            Conflict::DecisionOverdue(_) | Conflict::NothingToDecide { .. } => {
                "conflict.nothing_to_decide"
            }
            Conflict::Begun(_) => "conflict.begun",
            Conflict::ApprovalLost(_) => "conflict.approval_lost",
            Conflict::SubmitterLeft { .. } => "conflict.submitter_left",
            Conflict::PausedAgain(_) => "conflict.paused_again",
            Conflict::DropTooLate { .. } => "conflict.drop_too_late",
            Conflict::DropLeavesNone(_) => "conflict.drop_leaves_none",
            Conflict::NotReleasable(_) => "conflict.not_releasable",
            Conflict::TooManyHosts { .. } => "conflict.too_many_hosts",
            Conflict::ChannelClosed(_) => "conflict.channel_closed",
            Conflict::StaleButton => "conflict.stale_button",
            Conflict::UnclearReply => "conflict.unclear_reply",
            Conflict::NotInAChannel => "conflict.not_in_a_channel",
        }
    }
}

/// Too many connections; limits of a statement, of a wait for a lock, and of an idle transaction.
const BUSY: [&str; 4] = ["53300", "57014", "55P03", "25P03"];

/// Returns whether the database is not there, stops or starts, has no connection left, or has reached
/// one of our time limits (PostgreSQL's appendix A, class 57P and `BUSY`). The same request may then be
/// repeated.
pub(crate) fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed => true,
        sqlx::Error::Database(answer) => {
            answer.code().is_some_and(|code| code.starts_with("57P") || BUSY.contains(&&*code))
        }
        _ => false,
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_away(&error) { Error::Unavailable(error) } else { Error::Internal(error) }
    }
}

impl From<Forbidden> for Error {
    fn from(forbidden: Forbidden) -> Self {
        Error::Forbidden(Denied::Policy(forbidden))
    }
}

impl From<MayNot> for Error {
    fn from(no: MayNot) -> Self {
        Error::Forbidden(Denied::Decision(no))
    }
}

impl From<IllegalBatchEvent> for Error {
    fn from(illegal: IllegalBatchEvent) -> Self {
        Error::Conflict(Conflict::State(illegal.state))
    }
}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Illegal(illegal) => illegal.into(),
            ApplyError::Database(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_is_no_fault_of_ours() {
        let away = sqlx::Error::Io(std::io::Error::other("refused"));
        assert_eq!(Error::from(away).code(), "unavailable");
        assert_eq!(Error::from(sqlx::Error::PoolTimedOut).code(), "unavailable");
        assert_eq!(Error::from(sqlx::Error::RowNotFound).code(), "internal");
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn so_is_a_server_that_stops_or_is_full(pool: sqlx::PgPool) {
        for (state, code) in [
            ("57P01", "unavailable"),
            ("53300", "unavailable"),
            ("55P03", "unavailable"),
            ("23505", "internal"),
        ] {
            let raise = format!("do $$ begin raise sqlstate '{state}'; end $$");
            let raised = sqlx::raw_sql(sqlx::AssertSqlSafe(raise)).execute(&pool).await;
            assert_eq!(Error::from(raised.unwrap_err()).code(), code, "{state}");
        }
    }

    #[test]
    fn an_error_without_a_position_shows_no_input() {
        let error = Error::from(NotFound::Batch(BatchId(7)));
        let reply = error.reply(Some("status 7"));
        assert_eq!((reply.input, reply.column), (None, None));
        assert_eq!(reply.message, "there is no batch #7; `/metal list` shows the latest");
    }
}
