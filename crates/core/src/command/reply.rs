//! Reads plain messages in a batch's thread. People also talk there, so a word that decides stands
//! alone: with at most its punctuation, a "please" and one friendly emoji ([`WORDS`]). `reject` takes a
//! reason (`reject because ...`, `reject: ...`, `reject ...`).
//!
//! Only `reject` takes free text, because a rejection by mistake does no harm to a host. What begins
//! like a decision and is none is [`ThreadReply::Unclear`]: whoever wrote it must not believe that it
//! counts.

use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};

use super::{MAX_REASON, lex};

/// Words that ask for something, as regular expressions over a whole message, and what they ask for.
/// `END` is what may stand behind each.
const WORDS: [(&str, ThreadReply); 6] = [
    (r"(approved?|lgtm|\+1|:\+1:|:thumbsup:|:white_check_mark:|👍|✅)", ThreadReply::Approve),
    (r"(rejected|:-1:|:thumbsdown:|👎)", ThreadReply::Reject { reason: None }),
    (r"(cancel|stop)", ThreadReply::Cancel),
    (r"status", ThreadReply::Status),
    (r"retry", ThreadReply::Retry),
    // Nothing else that begins so is talk.
    (
        r"(approve[ds]?|approving|lgtm|reject\w*|cancel\w*|stop|retry)\b.{0,40}",
        ThreadReply::Unclear,
    ),
];

/// Punctuation, a "please", and one emoji that contradicts nothing, in any skin.
const END: &str = r"[\s.!,]*(please|pls)?[\s.!]*(👍|✅|🎉|🚀|👌|🙏|💯|🙌|❤️|:(\+1|thumbsup|white_check_mark|tada|rocket|ok_hand|pray|100|raised_hands|heart):(:skin-tone-[2-6]:)?)?[\x{1F3FB}-\x{1F3FF}\x{FE0F}]?[\s.!]*";

static PATTERNS: LazyLock<[(Regex, ThreadReply); 6]> = LazyLock::new(|| {
    WORDS.map(|(words, reply)| {
        let unclear = reply == ThreadReply::Unclear;
        // The skin of the word itself, where it is an emoji.
        let skin = r"([\x{1F3FB}-\x{1F3FF}\x{FE0F}]|:skin-tone-[2-6]:)?";
        let whole = if unclear { format!("^{words}$") } else { format!("^{words}{skin}{END}$") };
        let pattern = RegexBuilder::new(&whole).case_insensitive(true).build();
        (pattern.expect("the patterns are tested"), reply)
    })
});

/// Request that a message in a batch's thread makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ThreadReply {
    Approve,
    Reject {
        reason: Option<String>,
    },
    Cancel,
    Status,
    Retry,
    /// It begins like a decision and is none.
    Unclear,
}

impl ThreadReply {
    /// True if the request can only stop or prevent work. Such a request is accepted however old
    /// its message is.
    pub fn only_holds_back(&self) -> bool {
        match self {
            ThreadReply::Reject { .. } | ThreadReply::Cancel => true,
            ThreadReply::Approve
            | ThreadReply::Status
            | ThreadReply::Retry
            | ThreadReply::Unclear => false,
        }
    }
}

/// Reads a message in a thread; `None` for a message that is no request.
pub fn thread_reply(text: &str) -> Option<ThreadReply> {
    let text = text.trim();
    if let Some(rest) = strip_word(text, "reject") {
        return Some(ThreadReply::Reject { reason: rejection(rest) });
    }
    let found = PATTERNS.iter().find(|(pattern, _)| pattern.is_match(text));
    found.map(|(_, reply)| reply.clone())
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
    fn what_is_clearly_meant_counts() {
        for (texts, reply) in [
            (
                "approve| LGTM\n|Approved|+1|Approve!|approve.|approve please|lgtm 👍|lgtm! 🎉|:+1:|👍|👍🏽|\
                 :+1::skin-tone-3:|:thumbsup:|✅|approved :tada:|approve, please!|APPROVE !!|👍🏿 please",
                ThreadReply::Approve,
            ),
            ("rejected|Rejected.|:-1:|👎🏻", ThreadReply::Reject { reason: None }),
            ("cancel|STOP|stop!|Cancel please|stop!!!", ThreadReply::Cancel),
            ("Status|status.", ThreadReply::Status),
            ("retry|Retry 🙏", ThreadReply::Retry),
        ] {
            for text in texts.split('|') {
                assert_eq!(thread_reply(text), Some(reply.clone()), "{text:?}");
            }
        }
    }

    #[test]
    fn what_only_begins_like_a_decision_is_none_and_said_to_be() {
        for text in [
            "approve this later?",
            "approve?",
            "approve 42",
            "approve 👎",
            "approving",
            "lgtm but wait",
            "lgtm 👍👎",
            "cancel that thought",
            "cancelled?",
            "stop it",
            "rejection",
            "retry later",
        ] {
            assert_eq!(thread_reply(text), Some(ThreadReply::Unclear), "{text:?}");
        }
        let long = format!("approve{}", " and so on".repeat(20));
        for talk in [
            "",
            "not approved",
            "+10",
            "-1",
            "rejec",
            "reason: reject",
            "ärger",
            "\u{202e}approve",
            "stopwatch",
            "👍 but not yet",
            "I would approve",
            &long,
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
