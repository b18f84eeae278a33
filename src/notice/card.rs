//! The batch's message: its tone, its progress bar, and the buttons that still make sense.

use crate::chat::{Button, ButtonStyle, Card, Progress, Tone};
use crate::domain::batch::BatchState;
use crate::domain::notice::BatchView;

/// The live part of a batch's message.
pub fn card(batch: &BatchView) -> Card {
    Card { tone: tone(batch), progress: progress(batch), buttons: buttons(batch) }
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
    let button =
        |label: &str, value: String, style| Button { label: label.into(), value, style, ask: None };
    let decide = |verb: &str| format!("{verb} {id} {}", batch.digest);
    let plain = |label: &str, verb: &str| button(label, format!("{verb} {id}"), ButtonStyle::Plain);
    match batch.state {
        BatchState::AwaitingApproval => vec![
            button("Approve", decide("approve"), ButtonStyle::Primary),
            Button {
                ask: Some("Why is it rejected?".into()),
                ..button("Reject", decide("reject"), ButtonStyle::Danger)
            },
            plain("Cancel", "cancel"),
        ],
        BatchState::Checking | BatchState::Scheduled => vec![plain("Cancel", "cancel")],
        BatchState::Running => vec![plain("Pause", "pause"), plain("Cancel", "cancel")],
        BatchState::Paused => vec![
            button("Resume", format!("resume {id}"), ButtonStyle::Primary),
            plain("Cancel", "cancel"),
        ],
        BatchState::PartlyFailed | BatchState::Failed if batch.counts.failed > 0 => {
            vec![plain("Retry failed", "retry")]
        }
        _ => Vec::new(),
    }
}
