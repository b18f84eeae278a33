//! Reads the request in a delivery from chat, once. All later questions (does it only hold
//! something back, does it need a card) are answered from the request, not from the delivery.

use metalbot_core::command::{self, Command, CommandError, ThreadReply};
use metalbot_core::domain::approval::Verdict;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::InboundBody;
use metalbot_core::domain::workflow::Digest;
use time::OffsetDateTime;

use super::decide::DecidingReaction;
use super::{App, Reactions};

/// A request from chat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ChatRequest {
    /// A command that was typed.
    Command(Command),
    /// Text behind the slash command that is no command.
    Invalid { input: String, error: CommandError },
    /// A reply in a thread that asks for something.
    Reply { text: String, reply: ThreadReply },
    /// An emoji that decides, put on a message or taken from it.
    Reaction { message: String, reaction: DecidingReaction, added: bool },
    /// A button on a message.
    Press { message: String, button: PressedButton },
    /// A button whose value this version does not know.
    UnknownButton,
}

/// A button of a batch. Its value is `verb batch [seen]`, where `seen` is the plan's digest or the
/// pause's number that the person saw when they pressed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PressedButton {
    pub batch: BatchId,
    pub action: ButtonAction,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ButtonAction {
    Decide { verdict: Verdict, seen: Digest, reason: Option<String> },
    Resume { pause_number: i32 },
    Cancel,
    Pause,
    Retry,
}

/// Reads a delivery; `None` if it is not for Metalbot. `now` is the database's time, by which
/// relative times are meant.
pub(super) fn interpret(app: &App, body: &InboundBody, now: OffsetDateTime) -> Option<ChatRequest> {
    Some(match body {
        InboundBody::Command { text } => {
            let inventory = app.inventory.current();
            match command::understand(text, &app.catalog, inventory.as_ref(), &app.limits, now) {
                Ok(command) => ChatRequest::Command(command),
                Err(error) => ChatRequest::Invalid { input: text.clone(), error },
            }
        }
        InboundBody::ThreadReply { text, .. } => {
            ChatRequest::Reply { reply: command::thread_reply(text)?, text: text.clone() }
        }
        InboundBody::Reaction { message, name, added, at } => {
            let verdict = app.reactions.verdict(name)?;
            let reaction = DecidingReaction { name: name.clone(), verdict, at: *at };
            ChatRequest::Reaction { message: message.clone(), reaction, added: *added }
        }
        InboundBody::Button { message, value, answer } => match button(value, answer.as_deref()) {
            Some(button) => ChatRequest::Press { message: message.clone(), button },
            None => ChatRequest::UnknownButton,
        },
    })
}

fn button(value: &str, answer: Option<&str>) -> Option<PressedButton> {
    let mut words = value.split(' ');
    let verb = words.next()?;
    let batch = words.next()?.parse().ok()?;
    let seen = words.next();
    let action = match verb {
        "approve" => ButtonAction::Decide {
            verdict: Verdict::Approve,
            seen: Digest::parse(seen?)?,
            reason: None,
        },
        "reject" => ButtonAction::Decide {
            verdict: Verdict::Reject,
            seen: Digest::parse(seen?)?,
            reason: answer.and_then(command::rejection),
        },
        "resume" => ButtonAction::Resume { pause_number: seen?.parse().ok()? },
        "cancel" => ButtonAction::Cancel,
        "pause" => ButtonAction::Pause,
        "retry" => ButtonAction::Retry,
        _ => return None,
    };
    Some(PressedButton { batch, action })
}

impl ChatRequest {
    /// Returns whether the request can only prevent work, such as a rejection; those are never too
    /// late.
    pub(super) fn only_holds_back(&self) -> bool {
        match self {
            ChatRequest::Command(command) => command.only_holds_back(),
            ChatRequest::Reply { reply, .. } => reply.only_holds_back(),
            ChatRequest::Reaction { reaction, added, .. } => {
                !added || reaction.verdict == Verdict::Reject
            }
            ChatRequest::Press { button, .. } => match &button.action {
                ButtonAction::Decide { verdict, .. } => *verdict == Verdict::Reject,
                ButtonAction::Cancel | ButtonAction::Pause => true,
                ButtonAction::Resume { .. } | ButtonAction::Retry => false,
            },
            // Nothing is done for these at any time; the person learns what is wrong with them.
            ChatRequest::Invalid { .. } | ChatRequest::UnknownButton => true,
        }
    }

    /// Returns whether the request need not wait for earlier ones of its sender: it holds something
    /// back. Mistakes wait for their turn.
    pub(super) fn may_overtake(&self) -> bool {
        let is_mistake = matches!(self, ChatRequest::Invalid { .. } | ChatRequest::UnknownButton);
        self.only_holds_back() && !is_mistake
    }

    /// Returns whether the request makes a batch, whose card somebody must be able to see.
    pub(super) fn needs_card(&self) -> bool {
        match self {
            ChatRequest::Command(command) => {
                matches!(command, Command::Submit(_) | Command::Retry(_))
            }
            ChatRequest::Reply { reply, .. } => *reply == ThreadReply::Retry,
            ChatRequest::Press { button, .. } => button.action == ButtonAction::Retry,
            ChatRequest::Reaction { .. }
            | ChatRequest::Invalid { .. }
            | ChatRequest::UnknownButton => false,
        }
    }

    /// Typed text, for an error that points into it.
    pub(super) fn input(&self) -> Option<&str> {
        match self {
            ChatRequest::Invalid { input, .. } => Some(input),
            _ => None,
        }
    }
}

impl Reactions {
    /// Decision that an emoji stands for, if any.
    fn verdict(&self, name: &str) -> Option<Verdict> {
        let among = |names: &[String]| names.iter().any(|one| one == name);
        match (among(&self.approve), among(&self.reject)) {
            (true, _) => Some(Verdict::Approve),
            (false, true) => Some(Verdict::Reject),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buttons_are_read_with_what_was_seen() {
        let digest = "ab".repeat(32);
        let seen = Digest::parse(&digest).unwrap();
        let decide = |verdict, reason: Option<&str>| ButtonAction::Decide {
            verdict,
            seen,
            reason: reason.map(str::to_owned),
        };
        for (value, answer, action) in [
            (format!("approve 7 {digest}"), Some("ignored"), decide(Verdict::Approve, None)),
            (
                format!("reject 7 {digest}"),
                Some("too late"),
                decide(Verdict::Reject, Some("too late")),
            ),
            ("resume 7 2".into(), None, ButtonAction::Resume { pause_number: 2 }),
            ("cancel 7".into(), None, ButtonAction::Cancel),
            ("retry 7".into(), None, ButtonAction::Retry),
        ] {
            assert_eq!(
                button(&value, answer),
                Some(PressedButton { batch: BatchId(7), action }),
                "{value}"
            );
        }
        for wrong in
            ["", "approve", "approve 7", "approve 7 xyz", "resume 7", "explode 7", "cancel x"]
        {
            assert_eq!(button(wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn what_only_holds_back_is_told_by_what_was_read() {
        let reply = |text: &str| {
            let reply = command::thread_reply(text).unwrap();
            ChatRequest::Reply { text: text.into(), reply }
        };
        for held in ["reject: no", "reject", "Reject because of the audit", "stop", "cancel"] {
            assert!(reply(held).only_holds_back(), "{held}");
        }
        for not in ["lgtm", "approve", "retry", "status"] {
            assert!(!reply(not).only_holds_back(), "{not}");
        }
    }
}
