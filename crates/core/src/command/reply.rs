//! Reads plain messages in a batch's thread. People also talk there, so only these exact forms, in
//! any case, are commands: `approve`, `approved`, `lgtm`, `+1`, `cancel`, `stop`, `status`,
//! `retry`, and `reject` with or without a reason (`reject because ...`, `reject: ...`, `reject
//! ...`).
//!
//! Only `reject` takes free text, because a rejection by mistake does no harm to a host.

use super::{MAX_REASON, lex};

/// Request that a message in a batch's thread makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ThreadReply {
    Approve,
    Reject { reason: Option<String> },
    Cancel,
    Status,
    Retry,
}

impl ThreadReply {
    /// True if the request can only stop or prevent work. Such a request is accepted however old
    /// its message is.
    pub fn only_holds_back(&self) -> bool {
        match self {
            ThreadReply::Reject { .. } | ThreadReply::Cancel => true,
            ThreadReply::Approve | ThreadReply::Status | ThreadReply::Retry => false,
        }
    }
}

/// Reads a message in a thread; `None` for a message that is no request.
pub fn thread_reply(text: &str) -> Option<ThreadReply> {
    let text = text.trim();
    match text.to_lowercase().as_str() {
        "approve" | "approved" | "lgtm" | "+1" => return Some(ThreadReply::Approve),
        "cancel" | "stop" => return Some(ThreadReply::Cancel),
        "status" => return Some(ThreadReply::Status),
        "retry" => return Some(ThreadReply::Retry),
        _ => {}
    }
    let rest = strip_word(text, "reject")?;
    Some(ThreadReply::Reject { reason: rejection(rest) })
}

/// Reason of a rejection, cut to [`MAX_REASON`], because a rejection must not fail when its reason
/// is too long.
pub fn rejection(text: &str) -> Option<String> {
    reason(text).map(|reason| reason.chars().take(MAX_REASON).collect())
}

/// Reads the reason after `reject`, as one line.
pub(super) fn reason(rest: &str) -> Option<String> {
    let rest = rest.trim().trim_start_matches([':', ',']).trim();
    let rest = strip_word(rest, "because").unwrap_or(rest);
    let rest = rest.strip_prefix("reason=").unwrap_or(rest);
    let clean: String = rest
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .filter(|c| !lex::turns_text(*c))
        .collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut inside = clean.chars();
    let quoted = matches!(
        (inside.next(), inside.next_back()),
        (Some('"'), Some('"')) | (Some('\''), Some('\'')) | (Some('“'), Some('”'))
    );
    let reason = if quoted { inside.as_str() } else { &clean }.trim();
    (!reason.is_empty()).then(|| reason.to_owned())
}

/// Text after `word`; `None` if the text does not begin with `word` as a whole word.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let start = text.get(..word.len())?;
    let rest = &text[word.len()..];
    let ends = rest.chars().next().is_none_or(|c| c.is_whitespace() || c == ':' || c == ',');
    (start.eq_ignore_ascii_case(word) && ends).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_words_decide() {
        for (text, reply) in [
            ("approve", ThreadReply::Approve),
            (" LGTM\n", ThreadReply::Approve),
            ("Approved", ThreadReply::Approve),
            ("+1", ThreadReply::Approve),
            ("cancel", ThreadReply::Cancel),
            ("STOP", ThreadReply::Cancel),
            ("Status", ThreadReply::Status),
            ("retry", ThreadReply::Retry),
        ] {
            assert_eq!(thread_reply(text), Some(reply), "{text:?}");
        }
        for talk in [
            "",
            "approve this later?",
            "approve!",
            "approve?",
            "approve 42",
            "not approved",
            "lgtm but wait",
            "+10",
            "-1",
            "cancel that thought",
            "stop it",
            "rejected",
            "rejection",
            "rejec",
            "reason: reject",
            "ärger",
            "\u{202e}approve",
        ] {
            assert_eq!(thread_reply(talk), None, "{talk:?}");
        }
    }

    #[test]
    fn rejections_carry_their_reason() {
        for (text, expected) in [
            ("reject", None),
            ("reject because", None),
            ("Reject: ", None),
            ("reject because it's Friday", Some("it's Friday")),
            ("REJECT BECAUSE no", Some("no")),
            ("reject: not now", Some("not now")),
            ("reject, because of the\n release", Some("of the release")),
            ("reject \"no\"", Some("no")),
            ("reject becauseless", Some("becauseless")),
            ("reject a\u{202e}b\u{7}c", Some("ab c")),
            ("reject \"", Some("\"")),
        ] {
            let reason = expected.map(str::to_owned);
            assert_eq!(thread_reply(text), Some(ThreadReply::Reject { reason }), "{text:?}");
        }
        let long = format!("reject {}", "ä".repeat(600));
        let reason = Some("ä".repeat(500));
        assert_eq!(thread_reply(&long), Some(ThreadReply::Reject { reason }));
    }
}
