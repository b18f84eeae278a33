//! Errors between us and Jira, and the meaning of an answer's status.
//!
//! Invariant: every error says by its variant whether a write may have happened. Messages are for
//! operators; none holds the token.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use super::check::{cut, one_line};

/// Longest detail that an error keeps, in UTF-16 units.
const MAX_DETAIL: usize = 1000;

/// Error of a call; the variant is its class.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JiraError {
    /// Nothing was written; the same call may be repeated, after the given time where Jira said so.
    #[error("Jira cannot take it now: {detail}")]
    Transient { retry_after: Option<Duration>, detail: String },
    /// Jira understood and refuses, or we would not ask; repeating cannot help.
    #[error("{}", refusal(*.status, .messages, .field_errors))]
    Rejected {
        /// Status of the answer; 401 also where Jira answered as it does to an anonymous caller.
        /// `None` when nothing was sent.
        status: Option<u16>,
        messages: Vec<String>,
        /// Messages about single fields, by the field's id, such as `priority`.
        field_errors: BTreeMap<String, String>,
    },
    /// A write may or may not have happened: look before repeating.
    #[error("it is unknown whether Jira did it: {detail}")]
    Unknown { detail: String },
}

impl JiraError {
    /// Wait that Jira asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            JiraError::Transient { retry_after, .. } => *retry_after,
            JiraError::Rejected { .. } | JiraError::Unknown { .. } => None,
        }
    }

    /// Returns whether the site refuses us whatever we ask: a token that ended, a person that has to
    /// solve a CAPTCHA, an address that leads elsewhere. The request itself may be right, and succeeds
    /// when an operator has corrected this.
    pub fn is_about_access(&self) -> bool {
        let JiraError::Rejected { status: Some(status), .. } = self else { return false };
        matches!(status, 300..=399 | 401 | 403 | 407)
    }

    /// Error of a request that is not even sent.
    pub(super) fn wrong(message: impl Into<String>) -> Self {
        let messages = vec![message.into()];
        JiraError::Rejected { status: None, messages, field_errors: BTreeMap::new() }
    }

    fn rejected(status: u16, messages: Vec<String>) -> Self {
        JiraError::Rejected { status: Some(status), messages, field_errors: BTreeMap::new() }
    }

    fn transient(detail: impl Into<String>) -> Self {
        JiraError::Transient { retry_after: None, detail: detail.into() }
    }

    /// Applies `change` to all the texts, which are foreign: Jira's own or a proxy's.
    pub(super) fn rewrite(self, change: impl Fn(&str) -> String) -> Self {
        // Cut only afterwards: half a token would not be found.
        let tidy = |text: String| cut(&one_line(&change(&text)), MAX_DETAIL);
        match self {
            JiraError::Transient { retry_after, detail } => {
                JiraError::Transient { retry_after, detail: tidy(detail) }
            }
            JiraError::Unknown { detail } => JiraError::Unknown { detail: tidy(detail) },
            JiraError::Rejected { status, messages, field_errors } => JiraError::Rejected {
                status,
                messages: messages.into_iter().take(20).map(tidy).collect(),
                field_errors: field_errors
                    .into_iter()
                    .take(50)
                    .map(|(field, text)| (tidy(field), tidy(text)))
                    .collect(),
            },
        }
    }
}

fn refusal(
    status: Option<u16>,
    messages: &[String],
    field_errors: &BTreeMap<String, String>,
) -> String {
    let fields = field_errors.iter().map(|(field, text)| format!("{field}: {text}"));
    let reasons: Vec<String> = messages.iter().cloned().chain(fields).collect();
    let reasons = reasons.join("; ");
    match status {
        None => format!("Jira was not asked: {reasons}"),
        Some(status) if reasons.is_empty() => format!("Jira refused it: {}", Status(status)),
        Some(status) => format!("Jira refused it: {}: {reasons}", Status(status)),
    }
}

/// `400 Bad Request`
struct Status(u16);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = StatusCode::from_u16(self.0).ok().and_then(|status| status.canonical_reason());
        match name {
            Some(name) => write!(f, "{} {name}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Effect of a call that is repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Repeatable,
    Once,
}

/// Answer of the site.
pub(super) struct Answer {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    /// Set when Jira took us for an anonymous caller. Cloud does so with status 200 and empty results.
    pub anonymous: bool,
    /// Body, or the reason why it cannot be used: it broke off, was too long, or is a page.
    pub body: Result<Vec<u8>, &'static str>,
}

/// Error of a request without an answer, which went by `proxy` if there is one.
pub(super) fn unsent(error: &reqwest::Error, proxy: Option<&str>, effect: Effect) -> JiraError {
    let detail = match proxy {
        Some(proxy) => format!("through the proxy {proxy}: {}", cause(error)),
        None => cause(error),
    };
    if error.is_builder() {
        JiraError::wrong(detail)
    } else if error.is_connect() || effect == Effect::Repeatable {
        JiraError::transient(detail)
    } else {
        JiraError::Unknown { detail }
    }
}

/// Returns the body of an answer, or the error that it means.
pub(super) fn judge(answer: Answer, effect: Effect) -> Result<Vec<u8>, JiraError> {
    let Answer { status, retry_after, anonymous, body } = answer;
    // A write that was done is done, whoever we were.
    let done = status.is_success() && effect == Effect::Once;
    if anonymous && !done && !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
        let hint = "Jira did not accept the token and answered as to an anonymous caller";
        return Err(JiraError::rejected(StatusCode::UNAUTHORIZED.as_u16(), vec![hint.into()]));
    }
    if status.is_success() {
        return body.map_err(|why| match effect {
            Effect::Repeatable => JiraError::transient(format!("{status}: {why}")),
            Effect::Once => JiraError::Unknown { detail: format!("{status}: {why}") },
        });
    }
    let (messages, field_errors) = body.as_deref().map(explain).unwrap_or_default();
    let rejected = JiraError::Rejected { status: Some(status.as_u16()), messages, field_errors };
    // 408, 429 and 503 say that the request was not taken on. Behind any other 5xx, a gateway's
    // timeout above all, the write may have happened.
    let not_taken = matches!(status.as_u16(), 408 | 429 | 503);
    if not_taken || (status.is_server_error() && effect == Effect::Repeatable) {
        Err(JiraError::Transient { retry_after, detail: said(&rejected) })
    } else if status.is_server_error() {
        Err(JiraError::Unknown { detail: said(&rejected) })
    } else if status.is_redirection() {
        let hint = "the address redirects, as to a login page: configure the real one, and see \
                    whether the token is still good";
        Err(JiraError::rejected(status.as_u16(), vec![hint.into()]))
    } else {
        Err(rejected)
    }
}

fn said(error: &JiraError) -> String {
    let text = error.to_string();
    text.strip_prefix("Jira refused it: ").unwrap_or(&text).to_owned()
}

/// Jira's `errorMessages` and `errors`, or nothing when the body is not Jira's own.
fn explain(body: impl AsRef<[u8]>) -> (Vec<String>, BTreeMap<String, String>) {
    let Ok(body) = serde_json::from_slice::<Value>(body.as_ref()) else {
        return Default::default();
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let messages = body["errorMessages"].as_array().into_iter().flatten();
    let messages = messages.chain(body.get("message")).map(text).collect();
    let errors = body["errors"].as_object().into_iter().flatten();
    (messages, errors.map(|(field, message)| (field.clone(), text(message))).collect())
}

/// The error with its causes, without the address.
fn cause(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() {
        "timed out".to_owned()
    } else if error.is_connect() {
        "cannot connect".to_owned()
    } else {
        "the connection broke".to_owned()
    };
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
