//! The batch's message: its colour, its progress bar, and the buttons that its state allows.

use crate::chat::{Button, ButtonStyle, Card, Progress, Tone};
use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::event::{Event, EventBody, PauseCause};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::view::BatchView;

/// Builds the live part of a batch's message.
pub fn card(batch: &BatchView) -> Card {
    Card { tone: tone(batch), progress: progress(batch), buttons: buttons(batch) }
}

/// Builds the buttons for an event in a thread; `None` if it needs none.
pub fn offer(event: &Event) -> Option<Card> {
    let batch = event.batch;
    let (tone, buttons) = match &event.body {
        // Those who approve have the card's button, which is for the plan that the card shows.
        EventBody::Paused { cause: PauseCause::ApprovalLost(_), .. } => {
            (Tone::Warning, vec![cancel(batch)])
        }
        EventBody::Paused { pause_number, .. } => {
            (Tone::Warning, vec![resume(batch, *pause_number), cancel(batch)])
        }
        EventBody::TicketResolved { retry: true, .. } => {
            let retry = format!("retry {}", batch.0);
            (Tone::Waiting, vec![button("Retry failed", retry, ButtonStyle::Primary)])
        }
        EventBody::Scheduled { countdown: true, .. } => (Tone::Warning, vec![stop(batch)]),
        _ => return None,
    };
    Some(Card { tone, progress: None, buttons })
}

fn button(label: &str, value: String, style: ButtonStyle) -> Button {
    Button { label: label.into(), value, style, ask: None }
}

fn resume(batch: BatchId, pause_number: i32) -> Button {
    button("Resume", format!("resume {} {pause_number}", batch.0), ButtonStyle::Primary)
}

/// Cancels a batch that has not begun, so no host's work has to be finished first.
fn stop(batch: BatchId) -> Button {
    button("Stop", format!("cancel {}", batch.0), ButtonStyle::Danger)
}

fn cancel(batch: BatchId) -> Button {
    button("Cancel", format!("cancel {}", batch.0), ButtonStyle::Plain)
}

fn tone(batch: &BatchView) -> Tone {
    match batch.state {
        BatchState::Checking | BatchState::AwaitingApproval => Tone::Waiting,
        BatchState::Scheduled | BatchState::Running => Tone::Working,
        BatchState::Succeeded => Tone::Good,
        BatchState::Paused | BatchState::PartlyFailed => Tone::Warning,
        BatchState::Failed => Tone::Bad,
        BatchState::Refused
        | BatchState::Rejected
        | BatchState::Expired
        | BatchState::Cancelled => Tone::Neutral,
    }
}

fn progress(batch: &BatchView) -> Option<Progress> {
    let counts = batch.counts;
    let progress = Progress {
        total: counts.total(),
        succeeded: counts.succeeded,
        failed: counts.failed + counts.quarantined,
        running: counts.running,
        cancelled: counts.cancelled,
    };
    batch.started_at.is_some().then_some(progress)
}

fn buttons(batch: &BatchView) -> Vec<Button> {
    let id = batch.id.0;
    let decide = |verb: &str| format!("{verb} {id} {}", batch.digest);
    let plain = |label: &str, verb: &str| button(label, format!("{verb} {id}"), ButtonStyle::Plain);
    match batch.state {
        BatchState::AwaitingApproval => vec![
            button("Approve", decide("approve"), ButtonStyle::Primary),
            Button {
                ask: Some("Why is it rejected?".into()),
                ..button("Reject", decide("reject"), ButtonStyle::Danger)
            },
            cancel(batch.id),
        ],
        BatchState::Scheduled if batch.countdown_secs > 0 => vec![stop(batch.id)],
        BatchState::Checking | BatchState::Scheduled => vec![cancel(batch.id)],
        BatchState::Running => vec![plain("Pause", "pause"), cancel(batch.id)],
        BatchState::Paused if batch.lacks_approval => {
            vec![button("Approve", decide("approve"), ButtonStyle::Primary), cancel(batch.id)]
        }
        BatchState::Paused => vec![resume(batch.id, batch.pause_count), cancel(batch.id)],
        BatchState::PartlyFailed | BatchState::Failed if batch.counts.failed > 0 => {
            vec![plain("Retry failed", "retry")]
        }
        _ => Vec::new(),
    }
}
