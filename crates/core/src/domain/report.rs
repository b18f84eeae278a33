//! What a machine tells of an attempt while it works on itself: that it goes on, that it is done, that it
//! has failed.
//!
//! A report has a key, unique in its attempt: the same report sent twice is one. A machine that sends its
//! report again since it has not heard the answer changes nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use time::OffsetDateTime;

/// Longest body of a report, in bytes of its JSON.
pub const MAX_BODY: usize = 64 * 1024;
/// Most reports of one attempt.
pub const MAX_REPORTS: u32 = 10_000;
/// Of these, how many are kept for what is not progress: a machine that tells much of that must still
/// be heard when it is done.
pub const RESERVED_REPORTS: u32 = 100;
/// Longest key, in bytes.
const MAX_KEY: usize = 100;
/// Longest name of a kind, in bytes.
const MAX_KIND: usize = 40;
/// Longest phase and longest error that are shown, in characters.
const MAX_PHASE: usize = 60;
const MAX_ERROR: usize = 200;

/// Kind of a report: a word such as `installed`. Two have a meaning everywhere: see
/// [`ReportKind::is_progress`] and [`ReportKind::FAILED`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReportKind(String);

/// Text that is no kind of a report.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is no kind of a report: write a word of up to {MAX_KIND} letters a-z, digits, '-' and '_'"
)]
pub struct NotAReportKind(pub String);

impl ReportKind {
    /// The machine has failed, and does nothing more.
    pub const FAILED: &'static str = "failed";
    /// The machine goes on.
    pub const PROGRESS: &'static str = "progress";

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it only tells how far the machine is, which wakes no job.
    pub fn is_progress(&self) -> bool {
        self.0 == ReportKind::PROGRESS
    }
}

impl fmt::Display for ReportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ReportKind {
    type Err = NotAReportKind;

    fn from_str(text: &str) -> Result<Self, NotAReportKind> {
        let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        match (1..=MAX_KIND).contains(&text.len()) && text.chars().all(is_letter) {
            true => Ok(ReportKind(text.to_owned())),
            false => Err(NotAReportKind(text.chars().take(MAX_KIND).collect())),
        }
    }
}

impl Serialize for ReportKind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ReportKind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a machine says once.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Chosen by the machine, unique in its attempt.
    pub key: String,
    pub kind: ReportKind,
    /// Anything; see [`MachineProgress`] and [`ReceivedReport::failure`] for what is read from it.
    #[serde(default)]
    pub body: Value,
    /// When it happened, by the machine's clock.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub at: Option<OffsetDateTime>,
}

/// What is wrong with a report.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReportError {
    #[error("the key must have 1 to {MAX_KEY} bytes and no control characters")]
    Key,
    #[error("the body has {0} bytes, and may have {MAX_BODY}")]
    TooLong(usize),
    #[error("a text in the body has a NUL character, which cannot be stored")]
    Nul,
    #[error("progress needs a body such as {{\"percent\": 40, \"phase\": \"writing the image\"}}")]
    Progress,
}

impl Report {
    /// Checks what the types do not.
    pub fn check(&self) -> Result<(), ReportError> {
        if !(1..=MAX_KEY).contains(&self.key.len()) || self.key.contains(char::is_control) {
            return Err(ReportError::Key);
        }
        let body = self.body.to_string();
        if body.len() > MAX_BODY {
            return Err(ReportError::TooLong(body.len()));
        }
        if has_nul(&self.body) {
            return Err(ReportError::Nul);
        }
        if self.kind.is_progress() && self.progress().is_none() {
            return Err(ReportError::Progress);
        }
        Ok(())
    }

    /// How far the machine is, if it is that what it tells.
    pub fn progress(&self) -> Option<MachineProgress> {
        if !self.kind.is_progress() {
            return None;
        }
        let percent = match self.body.get("percent") {
            None | Some(Value::Null) => None,
            Some(number) => Some(number.as_u64().and_then(|n| u8::try_from(n).ok())?),
        };
        let phase = match self.body.get("phase") {
            None | Some(Value::Null) => None,
            Some(text) => Some(one_line(text.as_str()?, MAX_PHASE)),
        };
        let known = percent.is_some() || phase.is_some();
        (known && percent.is_none_or(|percent| percent <= 100))
            .then_some(MachineProgress { percent, phase })
    }
}

/// How far a machine is with what it does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineProgress {
    /// 0 to 100.
    pub percent: Option<u8>,
    /// What it does, in a line: `writing the image`.
    pub phase: Option<String>,
}

/// A report as a step reads it.
#[derive(Clone, PartialEq, Debug)]
pub struct ReceivedReport {
    pub kind: ReportKind,
    pub body: Value,
}

impl ReceivedReport {
    /// Why the machine has failed, in its words.
    pub fn failure(&self) -> String {
        let said = self.body.get("error").and_then(Value::as_str);
        let said = said.map(|said| one_line(said, MAX_ERROR));
        said.filter(|said| !said.is_empty()).unwrap_or_else(|| "it did not say why".into())
    }
}

/// A machine's own text, fit to be shown in a line of up to this many characters.
fn one_line(text: &str, at_most: usize) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(at_most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> Result<Report, String> {
        let report: Report = serde_json::from_str(text).map_err(|error| error.to_string())?;
        report.check().map_err(|error| error.to_string())?;
        Ok(report)
    }

    #[test]
    fn what_a_machine_may_say() {
        let done = report(r#"{"key": "1", "kind": "installed"}"#).unwrap();
        assert_eq!((done.body, done.at), (Value::Null, None));
        let progress = r#"{"key": "2", "kind": "progress", "at": "2026-12-01T10:00:00Z",
            "body": {"percent": 40, "phase": "  writing\nthe image "}}"#;
        let progress = report(progress).unwrap().progress().unwrap();
        assert_eq!(progress.phase.as_deref(), Some("writing the image"));
        assert_eq!(progress.percent, Some(40));
    }

    #[test]
    fn what_it_may_not() {
        let long = format!(r#"{{"key": "1", "kind": "log", "body": "{}"}}"#, "x".repeat(MAX_BODY));
        for (text, error) in [
            (r#"{"kind": "done"}"#, "missing field `key`"),
            (r#"{"key": "", "kind": "done"}"#, "the key must have 1 to 100 bytes"),
            (r#"{"key": "a\tb", "kind": "done"}"#, "no control characters"),
            (r#"{"key": "1", "kind": "Done!"}"#, "\"Done!\" is no kind of a report"),
            (r#"{"key": "1", "kind": "done", "host": "web01"}"#, "unknown field `host`"),
            (r#"{"key": "1", "kind": "log", "body": {"a": "\u0000"}}"#, "a NUL character"),
            (r#"{"key": "1", "kind": "progress"}"#, "progress needs a body"),
            (r#"{"key": "1", "kind": "progress", "body": {"percent": 140}}"#, "progress needs"),
            (r#"{"key": "1", "kind": "progress", "body": {"phase": 3}}"#, "progress needs"),
            (&long, "the body has 65538 bytes, and may have 65536"),
        ] {
            let said = report(text).expect_err(text);
            assert!(said.contains(error), "{text}: {said}");
        }
    }

    #[test]
    fn why_a_machine_failed_is_a_line_of_its_own_words() {
        let failed = |body| ReceivedReport { kind: "failed".parse().unwrap(), body }.failure();
        assert_eq!(failed(serde_json::json!({ "error": "no disk\n found" })), "no disk found");
        assert_eq!(failed(Value::Null), "it did not say why");
        let long = failed(serde_json::json!({ "error": "x".repeat(300) }));
        assert_eq!(long.chars().count(), MAX_ERROR + 1);
    }
}
