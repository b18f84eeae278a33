//! Folds several notices of one ordering key into one, and decides when to do so.
//!
//! Invariants: a digest names every batch, host, person and ticket that its notices named, in the
//! order of their first appearance; what does not fit into one digest is left for the next.

use serde::{Deserialize, Serialize};

use super::event::{Event, EventBody, PauseCause};
use super::host::HostName;
use super::ids::BatchId;
use super::notice::Notice;
use super::view::Failure;

/// Largest number of lines of one digest: a message must stay readable, and platforms limit its
/// length.
pub const MAX_LINES: usize = 40;

/// Line of a digest: notices that say the same about different batches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DigestLine {
    /// Kind of the notices.
    pub kind: String,
    /// Further property that the notices share, such as a state or a kind of failure.
    pub detail: Option<String>,
    pub batches: Vec<BatchId>,
    pub hosts: Vec<HostName>,
    /// Logins of people who acted, or whom the notice is about.
    pub people: Vec<String>,
    /// Other items that the notices name: errors, reasons, tickets.
    pub items: Vec<String>,
}

/// Decision about the waiting notices of one ordering key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RateDecision {
    /// All fit within the limit: each is sent as a message of its own.
    Each,
    /// More wait than the limit allows: they are folded into one message.
    Fold,
    /// The limit is used up: wait until older messages leave the window.
    Hold,
}

/// Decides by the limit: `recent` messages were sent within the window, `waiting` notices are to be
/// sent, and `most` messages may be sent within the window.
pub fn pace(recent: u32, waiting: u32, most: u32) -> RateDecision {
    if recent.saturating_add(waiting) <= most {
        RateDecision::Each
    } else if recent < most {
        RateDecision::Fold
    } else {
        RateDecision::Hold
    }
}

/// Folds notices, oldest first. Returns the digest and the number of notices in it: at least one.
pub fn digest(notices: &[Notice]) -> (Notice, usize) {
    let mut lines: Vec<DigestLine> = Vec::new();
    let mut taken = 0;
    for notice in notices {
        let new_lines = lines_of(notice);
        let new = new_lines.iter().filter(|line| !lines.iter().any(|old| same(old, line))).count();
        if taken > 0 && lines.len() + new > MAX_LINES {
            break;
        }
        for line in new_lines {
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

/// Content of one notice, as lines that other notices may join. Replies to one person are never
/// folded: they have no ordering key.
fn lines_of(notice: &Notice) -> Vec<DigestLine> {
    match notice {
        Notice::Event { event, .. } => lines_of_event(event),
        Notice::Digest { lines, .. } => lines.clone(),
        Notice::CardDelayed { batch, why, .. } => {
            vec![DigestLine { items: vec![why.clone()], ..line("card_delayed", *batch) }]
        }
        Notice::Reply(_) => Vec::new(),
    }
}

fn lines_of_event(event: &Event) -> Vec<DigestLine> {
    let batch = event.batch;
    let by = |kind: &str, person: &String| DigestLine {
        people: vec![person.clone()],
        ..line(kind, batch)
    };
    let ticket = |kind: &str, key: &String, hosts: &[HostName]| DigestLine {
        hosts: hosts.to_vec(),
        items: vec![key.clone()],
        ..line(kind, batch)
    };
    let one = match &event.body {
        EventBody::JobsFailed { failures, .. } => return failure_lines(batch, failures),
        EventBody::ChecksFailed { failures, .. } => {
            let mut lines = failure_lines(batch, failures);
            lines.iter_mut().for_each(|line| line.kind = "checks_failed".into());
            return lines;
        }
        EventBody::Ended { submitter, state, failures, .. } => {
            let ended = DigestLine { detail: Some(state.to_string()), ..by("ended", submitter) };
            return std::iter::once(ended).chain(failure_lines(batch, failures)).collect();
        }
        EventBody::WaveEnded { wave, .. } => {
            DigestLine { detail: Some(wave.to_string()), ..line("wave_ended", batch) }
        }
        EventBody::ApprovalWanted { submitter, hosts, groups, reminder, .. } => DigestLine {
            hosts: hosts.clone(),
            detail: Some(if *reminder { "reminder" } else { "asked" }.to_owned()),
            items: groups.clone(),
            ..by("approval_wanted", submitter)
        },
        EventBody::Approved { by: person, complete, .. } => {
            DigestLine { detail: complete.then(|| "complete".to_owned()), ..by("approved", person) }
        }
        EventBody::ApprovalWithdrawn { by: person, .. } => by("approval_withdrawn", person),
        EventBody::ApprovalLost { submitter, .. } => by("approval_lost", submitter),
        EventBody::Rejected { by: person, reason } => {
            DigestLine { items: reason.iter().cloned().collect(), ..by("rejected", person) }
        }
        EventBody::Expired { submitter, .. } => by("expired", submitter),
        EventBody::HostsDropped { by: person, dropped, .. } => {
            DigestLine { hosts: dropped.clone(), ..by("hosts_dropped", person) }
        }
        EventBody::Scheduled { hosts, starts_at, .. } => DigestLine {
            hosts: hosts.clone(),
            items: vec![starts_at.to_string()],
            ..line("scheduled", batch)
        },
        EventBody::StartMissed { submitter, .. } => by("start_missed", submitter),
        EventBody::Paused { cause, .. } => match cause {
            PauseCause::Person { by: person } => by("paused", person),
            PauseCause::FailureBudget { .. }
            | PauseCause::WaveEnded { .. }
            | PauseCause::ApprovalLost(_) => line("paused", batch),
        },
        EventBody::Resumed { by: person } => by("resumed", person),
        EventBody::Cancelled { by: person, .. } => by("cancelled", person),
        EventBody::Released { by: person, hosts } => {
            DigestLine { hosts: hosts.clone(), ..by("released", person) }
        }
        EventBody::TicketFiled { key, hosts, .. } => ticket("ticket_filed", key, hosts),
        EventBody::TicketUpdated { key, hosts, .. } => ticket("ticket_updated", key, hosts),
        EventBody::TicketResolved { key, answering, silent, .. } => {
            let hosts: Vec<_> = answering.iter().chain(silent).cloned().collect();
            ticket("ticket_resolved", key, &hosts)
        }
        EventBody::TicketDeclined { key, hosts, .. } => ticket("ticket_declined", key, hosts),
        EventBody::TicketBlocked { problem, .. } => {
            DigestLine { items: vec![problem.clone()], ..line("ticket_blocked", batch) }
        }
    };
    vec![one]
}

fn line(kind: &str, batch: BatchId) -> DigestLine {
    DigestLine {
        kind: kind.to_owned(),
        detail: None,
        batches: vec![batch],
        hosts: Vec::new(),
        people: Vec::new(),
        items: Vec::new(),
    }
}

fn failure_lines(batch: BatchId, failures: &[Failure]) -> Vec<DigestLine> {
    let failed = failures.iter().map(|failure| DigestLine {
        // Errors of one kind differ in addresses: the first represents them all.
        detail: Some(failure.kind.to_string()),
        hosts: failure.hosts.clone(),
        ..line(if failure.quarantined { "quarantined" } else { "jobs_failed" }, batch)
    });
    failed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::batch::BatchState;

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn ended(batch: i64, kind: &str) -> Notice {
        let body = EventBody::Ended {
            submitter: "alice".into(),
            state: BatchState::Failed,
            succeeded: 0,
            seconds: 1,
            failures: vec![Failure {
                kind: kind.parse().unwrap(),
                error: format!("the BMC at 127.0.0.{batch} does not answer"),
                hosts: vec![host(&format!("web{batch}"))],
                quarantined: false,
            }],
        };
        Notice::Event { event: Event::new(BatchId(batch), body), mention: true }
    }

    fn wave_ended(wave: u32) -> Notice {
        let body = EventBody::WaveEnded {
            submitter: "alice".into(),
            wave,
            waves: 100,
            succeeded: 1,
            failed: 0,
            total: 1,
            begins_at: None,
            manual: false,
        };
        Notice::event(Event::new(BatchId(1), body))
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
        assert_eq!(lines[0].kind, "ended");
        assert_eq!(lines[0].people, ["alice"]);
        assert_eq!((&lines[0].batches, &lines[1].batches), (&all, &all));
        assert_eq!(lines[1].detail.as_deref(), Some("bmc_unreachable"));
        assert_eq!(lines[1].hosts.len(), 500);
    }

    #[test]
    fn what_does_not_fit_waits_for_the_next() {
        let notices: Vec<Notice> = (1..=100).map(wave_ended).collect();
        let mut rest = &notices[..];
        let mut seen = Vec::new();
        while !rest.is_empty() {
            let (Notice::Digest { lines, .. }, taken) = digest(rest) else { panic!() };
            assert!(taken > 0 && lines.len() <= MAX_LINES);
            seen.extend(lines);
            rest = &rest[taken..];
        }
        let waves: Vec<String> = seen.into_iter().filter_map(|line| line.detail).collect();
        let expected: Vec<String> = (1..=100).map(|n: u32| n.to_string()).collect();
        assert_eq!(waves, expected);
    }

    #[test]
    fn the_order_of_first_appearance_is_kept() {
        let event = |body| Notice::event(Event::new(BatchId(2), body));
        let paused = |pause_number, by: &str| {
            let cause = PauseCause::Person { by: by.into() };
            event(EventBody::Paused { pause_number, cause })
        };
        let resumed = event(EventBody::Resumed { by: "bob".into() });
        let notices = [paused(1, "bob"), resumed, paused(2, "eve")];
        let (Notice::Digest { lines, .. }, 3) = digest(&notices) else { panic!() };
        let kinds: Vec<&str> = lines.iter().map(|line| &line.kind[..]).collect();
        assert_eq!(kinds, ["paused", "resumed"]);
        assert_eq!(lines[0].people, ["bob", "eve"]);
        assert_eq!(lines[0].batches, [BatchId(2)]);
    }
}
