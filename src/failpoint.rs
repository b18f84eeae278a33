//! Fail-points: points at which a test ends the process, to prove that nothing is lost there.
//!
//! Only a build with the cargo feature `failpoints` has them; in any other build [`reach`] is
//! empty. With `METALBOT_FAILPOINT=job.after_act` the process ends when that point is reached
//! first, and with `job.after_act*3` when it is reached for the third time: at once, as after `kill
//! -9`, with nothing closed and nothing written. With `stand:job.after_intent` it stands still there, as
//! after `kill -STOP`, until it is told to go on.
//!
//! Invariant: there is a point before and after each durable step of a job, and between each effect
//! of a relay on another system and our record of it.

/// Point at which a test can end the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// A delivery's effects are written, and not committed.
    InboxBeforeCommit,
    /// A delivery's effects are committed, and no loop was notified.
    InboxAfterCommit,
    /// All hosts of a batch were checked, and nothing that follows is committed.
    CheckerBeforeCommit,
    /// A round of the rollout is written, and not committed.
    RolloutBeforeCommit,
    /// A batch is final, and its notice and tickets are not written.
    RolloutWhileFolding,
    /// A batch is final and committed.
    RolloutAfterFold,
    /// Jobs are leased, and no task works on them.
    LeaseTaken,
    JobBeforeIntent,
    /// An intent is durable, and its job has no answer yet.
    JournalIntentWritten,
    /// A job may act, and has not.
    JobAfterIntent,
    /// The BMC has acted, and nothing is written.
    JobAfterAct,
    JournalBeforeOutcome,
    /// An outcome is durable, and its job has no answer yet.
    JournalOutcomeWritten,
    /// Between two steps, or after the last.
    JobAfterOutcome,
    /// A host is about to be asked what became of an act.
    LookBefore,
    /// It has answered, and nothing is written.
    LookAfter,
    CardBeforePost,
    /// A card is in chat, and we have not recorded where.
    CardAfterPost,
    CardAfterUpdate,
    NoticeBeforePost,
    /// A notice is in chat, and is not yet marked as sent in the outbox.
    NoticeAfterPost,
    TicketBeforeCreate,
    /// A ticket is in Jira, and its key is not stored.
    TicketAfterCreate,
    /// Rows of the audit are added to the hash chain, and not committed.
    SealBeforeCommit,
}

impl Point {
    pub const ALL: [Point; 24] = [
        Point::InboxBeforeCommit,
        Point::InboxAfterCommit,
        Point::CheckerBeforeCommit,
        Point::RolloutBeforeCommit,
        Point::RolloutWhileFolding,
        Point::RolloutAfterFold,
        Point::LeaseTaken,
        Point::JobBeforeIntent,
        Point::JournalIntentWritten,
        Point::JobAfterIntent,
        Point::JobAfterAct,
        Point::JournalBeforeOutcome,
        Point::JournalOutcomeWritten,
        Point::JobAfterOutcome,
        Point::LookBefore,
        Point::LookAfter,
        Point::CardBeforePost,
        Point::CardAfterPost,
        Point::CardAfterUpdate,
        Point::NoticeBeforePost,
        Point::NoticeAfterPost,
        Point::TicketBeforeCreate,
        Point::TicketAfterCreate,
        Point::SealBeforeCommit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Point::InboxBeforeCommit => "inbox.before_commit",
            Point::InboxAfterCommit => "inbox.after_commit",
            Point::CheckerBeforeCommit => "checker.before_commit",
            Point::RolloutBeforeCommit => "rollout.before_commit",
            Point::RolloutWhileFolding => "rollout.while_folding",
            Point::RolloutAfterFold => "rollout.after_fold",
            Point::LeaseTaken => "lease.taken",
            Point::JobBeforeIntent => "job.before_intent",
            Point::JournalIntentWritten => "journal.intent_written",
            Point::JobAfterIntent => "job.after_intent",
            Point::JobAfterAct => "job.after_act",
            Point::JournalBeforeOutcome => "journal.before_outcome",
            Point::JournalOutcomeWritten => "journal.outcome_written",
            Point::JobAfterOutcome => "job.after_outcome",
            Point::LookBefore => "look.before",
            Point::LookAfter => "look.after",
            Point::CardBeforePost => "card.before_post",
            Point::CardAfterPost => "card.after_post",
            Point::CardAfterUpdate => "card.after_update",
            Point::NoticeBeforePost => "notice.before_post",
            Point::NoticeAfterPost => "notice.after_post",
            Point::TicketBeforeCreate => "ticket.before_create",
            Point::TicketAfterCreate => "ticket.after_create",
            Point::SealBeforeCommit => "seal.before_commit",
        }
    }
}

/// Does nothing in a build without fail-points.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_: Point) {}

/// Ends the process, or stops it for a while, if a test has chosen this point.
#[cfg(feature = "failpoints")]
pub fn reach(point: Point) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: LazyLock<Option<(Point, bool, AtomicU32)>> = LazyLock::new(|| {
        let text = std::env::var("METALBOT_FAILPOINT").ok()?;
        let (name, times) = text.split_once('*').unwrap_or((&text, "1"));
        let (name, stands) = match name.strip_prefix("stand:") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let point = Point::ALL.into_iter().find(|point| point.as_str() == name);
        match (point, times.parse()) {
            (Some(point), Ok(times)) => Some((point, stands, AtomicU32::new(times))),
            _ => panic!("METALBOT_FAILPOINT={text} names no fail-point"),
        }
    });
    if let Some((armed, stands, left)) = &*ARMED
        && *armed == point
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        if *stands {
            eprintln!("stands still at {}", point.as_str());
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).expect("it may stop itself");
            return;
        }
        eprintln!("dies at {}", point.as_str());
        std::process::abort();
    }
}
