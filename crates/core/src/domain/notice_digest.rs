//! Many notices of one ordering key in one, and when that is done.
//!
//! Invariants: a digest names every batch, host, person and ticket that its notices named, in the
//! order in which they first came up; what does not fit into one digest is left for the next.

use serde::{Deserialize, Serialize};

use super::host::HostName;
use super::ids::BatchId;
use super::notice::{Failure, Notice};

/// Most lines of one digest: a message must stay readable, and platforms limit its length.
pub const MAX_LINES: usize = 40;

/// Notices of a digest that say the same of different batches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DigestLine {
    /// As of the notices.
    pub kind: String,
    /// What they have in common besides, such as a state or a kind of failure.
    pub detail: Option<String>,
    pub batches: Vec<BatchId>,
    pub hosts: Vec<HostName>,
    /// People who acted or are meant.
    pub people: Vec<String>,
    /// Whatever else is named: errors, reasons, tickets.
    pub items: Vec<String>,
}

/// What to do with the notices of one ordering key that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RateDecision {
    /// There is room: each goes out as a message of its own.
    Each,
    /// More wait than there is room for: they become one message.
    Fold,
    /// Enough was sent under this key: wait until there is room again.
    Hold,
}

/// `recent` messages went out within the window, `waiting` notices are to go, `most` messages may
/// go out within the window.
pub fn pace(recent: u32, waiting: u32, most: u32) -> RateDecision {
    if recent.saturating_add(waiting) <= most {
        RateDecision::Each
    } else if recent < most {
        RateDecision::Fold
    } else {
        RateDecision::Hold
    }
}

/// Folds notices, oldest first. Returns the digest and how many of them are in it: at least one.
pub fn digest(notices: &[Notice]) -> (Notice, usize) {
    let mut lines: Vec<DigestLine> = Vec::new();
    let mut taken = 0;
    for notice in notices {
        let said = said(notice);
        let new = said.iter().filter(|line| !lines.iter().any(|old| same(old, line))).count();
        if taken > 0 && lines.len() + new > MAX_LINES {
            break;
        }
        for line in said {
            match lines.iter_mut().find(|old| same(old, &line)) {
                Some(old) => merge(old, line),
                None => lines.push(line),
            }
        }
        taken += 1;
    }
    let count = u32::try_from(taken).unwrap_or(u32::MAX);
    (Notice::Digest { count, lines }, taken)
}

fn same(one: &DigestLine, other: &DigestLine) -> bool {
    one.kind == other.kind && one.detail == other.detail
}

fn merge(into: &mut DigestLine, line: DigestLine) {
    add(&mut into.batches, line.batches);
    add(&mut into.hosts, line.hosts);
    add(&mut into.people, line.people);
    add(&mut into.items, line.items);
}

fn add<T: PartialEq>(into: &mut Vec<T>, new: Vec<T>) {
    for one in new {
        if !into.contains(&one) {
            into.push(one);
        }
    }
}

/// What one notice says, as lines that others may join.
fn said(notice: &Notice) -> Vec<DigestLine> {
    let line = |kind: &str, batch: &BatchId| DigestLine {
        kind: kind.to_owned(),
        detail: None,
        batches: vec![*batch],
        hosts: Vec::new(),
        people: Vec::new(),
        items: Vec::new(),
    };
    let by = |kind: &str, batch: &BatchId, by: &String| DigestLine {
        people: vec![by.clone()],
        ..line(kind, batch)
    };
    let failures = |batch: &BatchId, failures: &[Failure]| -> Vec<DigestLine> {
        let failed = failures.iter().map(|failure| DigestLine {
            // The errors of one kind differ in addresses: the first stands for them.
            detail: Some(failure.kind.clone()),
            hosts: failure.hosts.clone(),
            ..line(if failure.quarantined { "quarantined" } else { "failing" }, batch)
        });
        failed.collect()
    };
    let ticket = |kind: &str, batch: &BatchId, key: &String, hosts: &[HostName]| DigestLine {
        hosts: hosts.to_vec(),
        items: vec![key.clone()],
        ..line(kind, batch)
    };
    let one = match notice {
        Notice::Failing { batch, failures: failed, .. } => return failures(batch, failed),
        Notice::LeftOut { batch, failures: failed, .. } => {
            let mut lines = failures(batch, failed);
            lines.iter_mut().for_each(|line| line.kind = "left_out".into());
            return lines;
        }
        Notice::Completed { batch, submitter, state, failures: failed, .. } => {
            let ended =
                DigestLine { detail: Some(state.to_string()), ..by("completed", batch, submitter) };
            return std::iter::once(ended).chain(failures(batch, failed)).collect();
        }
        Notice::WaveEnded { batch, wave, .. } => {
            DigestLine { detail: Some(wave.to_string()), ..line("wave_ended", batch) }
        }
        Notice::ApprovalWanted { batch, submitter, hosts, groups, reminder, .. } => DigestLine {
            hosts: hosts.clone(),
            detail: Some(if *reminder { "reminder" } else { "asked" }.to_owned()),
            items: groups.clone(),
            ..by("approval_wanted", batch, submitter)
        },
        Notice::Approved { batch, by: who, complete, .. } => DigestLine {
            detail: complete.then(|| "complete".to_owned()),
            ..by("approved", batch, who)
        },
        Notice::Withdrawn { batch, by: who } => by("withdrawn", batch, who),
        Notice::Rejected { batch, by: who, reason } => {
            DigestLine { items: reason.iter().cloned().collect(), ..by("rejected", batch, who) }
        }
        Notice::Expired { batch, submitter, .. } => by("expired", batch, submitter),
        Notice::CardWaits { batch, why, .. } => {
            DigestLine { items: vec![why.clone()], ..line("card_waits", batch) }
        }
        Notice::Changed { batch, by: who, dropped, .. } => {
            DigestLine { hosts: dropped.clone(), ..by("changed", batch, who) }
        }
        Notice::Scheduled { batch, hosts, starts_at, .. } => DigestLine {
            hosts: hosts.clone(),
            items: vec![starts_at.to_string()],
            ..line("scheduled", batch)
        },
        Notice::Missed { batch, submitter, .. } => by("missed", batch, submitter),
        Notice::Paused { batch, by: who, .. } => {
            DigestLine { people: who.iter().cloned().collect(), ..line("paused", batch) }
        }
        Notice::Resumed { batch, by: who } => by("resumed", batch, who),
        Notice::Cancelled { batch, by: who, .. } => by("cancelled", batch, who),
        Notice::Released { batch, by: who, hosts } => {
            DigestLine { hosts: hosts.clone(), ..by("released", batch, who) }
        }
        Notice::TicketFiled { batch, key, hosts, .. } => ticket("ticket_filed", batch, key, hosts),
        Notice::TicketAgain { batch, key, hosts, .. } => ticket("ticket_again", batch, key, hosts),
        Notice::TicketDone { batch, key, answering, silent, .. } => {
            let hosts: Vec<_> = answering.iter().chain(silent).cloned().collect();
            ticket("ticket_done", batch, key, &hosts)
        }
        Notice::TicketDeclined { batch, key, hosts, .. } => {
            ticket("ticket_declined", batch, key, hosts)
        }
        Notice::TicketTrouble { batch, problem, .. } => {
            DigestLine { items: vec![problem.clone()], ..line("ticket_trouble", batch) }
        }
        Notice::Digest { lines, .. } => return lines.clone(),
        // Answers to one person are never folded: they have no ordering key.
        Notice::Error { .. }
        | Notice::Unbound { .. }
        | Notice::Help { .. }
        | Notice::Status { .. }
        | Notice::HostStatus { .. }
        | Notice::List { .. }
        | Notice::Hosts { .. }
        | Notice::Whoami { .. }
        | Notice::Notify { .. }
        | Notice::DryRun { .. }
        | Notice::Refused { .. }
        | Notice::NotDone { .. } => return Vec::new(),
    };
    vec![one]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::batch::BatchState;

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn ended(batch: i64, kind: &str) -> Notice {
        Notice::Completed {
            batch: BatchId(batch),
            submitter: "alice".into(),
            named: true,
            state: BatchState::Failed,
            succeeded: 0,
            seconds: 1,
            failures: vec![Failure {
                kind: kind.into(),
                error: format!("the BMC at 127.0.0.{batch} does not answer"),
                hosts: vec![host(&format!("web{batch}"))],
                quarantined: false,
            }],
        }
    }

    #[test]
    fn messages_flow_until_there_are_too_many() {
        for (recent, waiting, expected) in [
            (0, 0, RateDecision::Each),
            (0, 20, RateDecision::Each),
            (19, 1, RateDecision::Each),
            (0, 21, RateDecision::Fold),
            (19, 2, RateDecision::Fold),
            (20, 1, RateDecision::Hold),
            (25, u32::MAX, RateDecision::Hold),
        ] {
            assert_eq!(pace(recent, waiting, 20), expected, "{recent} {waiting}");
        }
    }

    #[test]
    fn five_hundred_ends_are_two_lines_that_name_everything() {
        let notices: Vec<Notice> = (1..=500).map(|n| ended(n, "bmc_unreachable")).collect();
        let (Notice::Digest { count, lines }, taken) = digest(&notices) else { panic!() };
        assert_eq!((count, taken), (500, 500));
        assert_eq!(lines.len(), 2);
        let all: Vec<BatchId> = (1..=500).map(BatchId).collect();
        assert_eq!(lines[0].kind, "completed");
        assert_eq!(lines[0].people, ["alice"]);
        assert_eq!((&lines[0].batches, &lines[1].batches), (&all, &all));
        assert_eq!(lines[1].detail.as_deref(), Some("bmc_unreachable"));
        assert_eq!(lines[1].hosts.len(), 500);
    }

    #[test]
    fn what_does_not_fit_waits_for_the_next() {
        let notices: Vec<Notice> = (1..=100).map(|n| ended(n, &format!("kind{n}"))).collect();
        let mut rest = &notices[..];
        let mut seen = Vec::new();
        while !rest.is_empty() {
            let (Notice::Digest { lines, .. }, taken) = digest(rest) else { panic!() };
            assert!(taken > 0 && lines.len() <= MAX_LINES);
            seen.extend(lines.into_iter().filter(|line| line.kind == "failing"));
            rest = &rest[taken..];
        }
        let kinds: Vec<String> = seen.into_iter().filter_map(|line| line.detail).collect();
        let expected: Vec<String> = (1..=100).map(|n| format!("kind{n}")).collect();
        assert_eq!(kinds, expected);
    }

    #[test]
    fn the_order_of_first_appearance_is_kept() {
        let by = |who: &str| who.to_owned();
        let notices = [
            Notice::Paused {
                batch: BatchId(2),
                pause_number: 1,
                by: Some(by("bob")),
                wave: None,
                failed: 0,
                failed_previously: 0,
                allowed: 0,
            },
            Notice::Resumed { batch: BatchId(2), by: by("bob") },
            Notice::Paused {
                batch: BatchId(2),
                pause_number: 2,
                by: Some(by("eve")),
                wave: None,
                failed: 0,
                failed_previously: 0,
                allowed: 0,
            },
        ];
        let (Notice::Digest { lines, .. }, 3) = digest(&notices) else { panic!() };
        let kinds: Vec<&str> = lines.iter().map(|line| &line.kind[..]).collect();
        assert_eq!(kinds, ["paused", "resumed"]);
        assert_eq!(lines[0].people, ["bob", "eve"]);
        assert_eq!(lines[0].batches, [BatchId(2)]);
    }
}
