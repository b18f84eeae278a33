//! Renders notices by the templates of `templates/chat/`, compiled in or overridden by a site
//! folder.
//!
//! Invariant: every value that a template writes is escaped for Markdown as it is written, without
//! the template asking for it, so that a reason or an error can never become markup.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Serde};
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, UndefinedBehavior, Value};
use rust_embed::RustEmbed;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::chat;
use metalbot_core::domain::host::{HostName, fold};
use metalbot_core::domain::notice::Notice;
use metalbot_core::domain::reply::Reply;
use metalbot_core::domain::time_zone::Zone;
use metalbot_core::domain::view::BatchView;

#[derive(RustEmbed)]
#[folder = "templates/chat"]
struct CompiledIn;

/// Error of a template that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the chat template {file} does not work: {detail}")]
pub struct ChatTemplateError {
    pub file: String,
    pub detail: String,
}

/// The loaded templates.
#[derive(Debug)]
pub struct ChatTemplates {
    env: Environment<'static>,
}

impl ChatTemplates {
    /// Loads the compiled-in templates, each overridden by the file of its name in the site folder.
    /// Times are shown in this zone.
    pub fn load(site: Option<&Path>, zone: &Zone) -> Result<Self, ChatTemplateError> {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|error| ChatTemplateError {
            file: "every file".into(),
            detail: explain(&error),
        })?);
        env.set_auto_escape_callback(|_| AutoEscape::Custom("markdown".into()));
        env.set_formatter(write_escaped);
        for name in ["safe", "escape", "e", "tojson"] {
            env.remove_filter(name);
        }
        env.add_filter("code", |text: String| Value::from_safe_string(code(&text)));
        env.add_filter("hosts", |hosts: Vec<String>| {
            Value::from_safe_string(code(&folded(&hosts)))
        });
        env.add_filter("batches", |ids: Vec<i64>| batches(&ids));
        env.add_filter("words", |text: String| text.replace('_', " "));
        let here = zone.clone();
        env.add_filter("clock", move |time: String| clock(&time, &here));
        let here = zone.clone();
        env.add_filter("clock_to_second", move |time: String| clock_to_second(&time, &here));
        env.add_filter("duration", |seconds: u64| duration(seconds));
        env.add_filter("count", |number: u64, noun: String, _: Rest<Value>| match number {
            1 => format!("1 {noun}"),
            _ => format!("{number} {noun}s"),
        });
        env.add_function("pointer", |column: usize| " ".repeat(column.saturating_sub(1)) + "^");
        env.add_function("link", |text: String, url: String| {
            Value::from_safe_string(format!("[{}]({})", escape(&text), url_only(&url)))
        });
        env.add_function("mention", |name: String| {
            let text = format!("[**@{}**]({}{})", escape(&name), chat::MENTION, url_only(&name));
            Value::from_safe_string(text)
        });
        env.add_filter("block", |text: String| Value::from_safe_string(block(&text)));
        for name in CompiledIn::iter() {
            let file = name.to_string();
            let failed = |detail: String| ChatTemplateError { file: file.clone(), detail };
            let text = match site.map(|site| site.join(&file)).filter(|path| path.exists()) {
                Some(path) => std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?,
                None => CompiledIn::get(&name)
                    .and_then(|found| String::from_utf8(found.data.into_owned()).ok())
                    .ok_or_else(|| failed("it is not UTF-8".into()))?,
            };
            env.add_template_owned(file.clone(), text).map_err(|e| failed(explain(&e)))?;
        }
        Ok(ChatTemplates { env })
    }

    /// Renders a notice as Markdown.
    pub fn notice(&self, notice: &Notice) -> Result<String, ChatTemplateError> {
        let context = match notice {
            Notice::Event { event, mention } => {
                let mut context = json(event);
                context["mention_submitter"] = (*mention).into();
                context
            }
            Notice::Reply(reply) => return self.reply(reply),
            Notice::Digest { count, lines } => {
                serde_json::json!({ "kind": "digest", "count": count, "lines": lines })
            }
            Notice::CardDelayed { batch, action, hosts, why } => serde_json::json!({
                "kind": "card_delayed", "batch": batch, "action": action, "hosts": hosts, "why": why,
            }),
        };
        self.of_kind(&context)
    }

    /// Renders an answer to a person as Markdown.
    pub fn reply(&self, reply: &Reply) -> Result<String, ChatTemplateError> {
        self.of_kind(&json(reply))
    }

    /// Renders the fields by the template of their kind.
    fn of_kind(&self, context: &serde_json::Value) -> Result<String, ChatTemplateError> {
        let kind = context.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default();
        self.render(&format!("{kind}.md"), Value::from(Serde(context)))
    }

    /// Renders a batch's card as Markdown.
    pub fn card(&self, batch: &BatchView) -> Result<String, ChatTemplateError> {
        let batch = serde_json::to_value(batch).unwrap_or_default();
        let context = serde_json::json!({ "batch": batch });
        self.render("card.md", Value::from(Serde(&context)))
    }

    /// Returns whether there is a template of this name, such as `approved.md`.
    pub fn has(&self, name: &str) -> bool {
        self.env.get_template(name).is_ok()
    }

    fn render(&self, name: &str, context: Value) -> Result<String, ChatTemplateError> {
        let text =
            self.env.get_template(name).and_then(|template| template.render(context)).map_err(
                |error| ChatTemplateError { file: name.to_owned(), detail: explain(&error) },
            )?;
        Ok(text.trim().to_owned())
    }
}

/// Converts a value to fields for a template; the value holds only what JSON can hold.
fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn write_escaped(
    out: &mut Output<'_>,
    _: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), minijinja::Error> {
    if value.is_none() {
        return Ok(());
    }
    let text = value.to_string();
    let written =
        if value.is_safe() { out.write_str(&text) } else { out.write_str(&escape(&text)) };
    written.map_err(minijinja::Error::from)
}

/// Escapes a text as one line of Markdown that shows exactly the text (CommonMark 0.31, section
/// 2.4).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for (position, c) in text.chars().enumerate() {
        let starts_a_block = position == 0 && matches!(c, '-' | '+' | '=');
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '&' | '#' | '|' | '~' | '!' => {
                out.push('\\');
                out.push(c);
            }
            '.' | ')' if text[..].chars().take(position).all(|c| c.is_ascii_digit()) => {
                out.push('\\');
                out.push(c);
            }
            _ if starts_a_block => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Renders a text as a code span, even if it contains backticks.
fn code(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// Renders a text as a block of code.
fn block(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0).max(2);
    let fence = "`".repeat(longest + 1);
    format!("{fence}\n{text}\n{fence}")
}

fn url_only(url: &str) -> String {
    url.chars()
        .filter(|c| c.is_ascii_graphic() && !matches!(c, '(' | ')' | '<' | '>' | '\\'))
        .collect()
}

/// Folds host names (`web[01-12]`); texts that are no host names are left out.
fn folded(hosts: &[String]) -> String {
    let names: Vec<HostName> = hosts.iter().filter_map(|host| host.parse().ok()).collect();
    fold(&names)
}

/// Folds numbers of batches: `#1 to #3, #7`.
fn batches(ids: &[i64]) -> String {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let runs = ids.chunk_by(|one, next| one + 1 == *next).map(|run| match run {
        [one] => format!("#{one}"),
        [one, other] => format!("#{one}, #{other}"),
        [first, .., last] => format!("#{first} to #{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// Shows an RFC 3339 time as `23 Nov 14:32 UTC`, with the day, because a message may be read on
/// another day.
fn clock(time: &str, zone: &Zone) -> Result<String, minijinja::Error> {
    let minute = format_description!("[day padding:none] [month repr:short] [hour]:[minute]");
    shown(time, zone, minute)
}

/// Shows an RFC 3339 time as `23 Nov 14:32:05 UTC`, for times less than a few minutes away.
fn clock_to_second(time: &str, zone: &Zone) -> Result<String, minijinja::Error> {
    let second =
        format_description!("[day padding:none] [month repr:short] [hour]:[minute]:[second]");
    shown(time, zone, second)
}

/// Shows a time with the zone's abbreviation at that time.
fn shown(
    time: &str,
    zone: &Zone,
    format: &[BorrowedFormatItem<'_>],
) -> Result<String, minijinja::Error> {
    let time = OffsetDateTime::parse(time, &Rfc3339).map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "not a time").with_source(error)
    })?;
    let here = zone.local(time).format(format).map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "not a time").with_source(error)
    })?;
    Ok(format!("{here} {}", zone.abbreviation(time)))
}

fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s}s"),
        (h, m, _) => format!("{h}h {m}m"),
    }
}

fn explain(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use pulldown_cmark::{Event, Parser, Tag};

    use super::*;

    #[test]
    fn what_people_typed_cannot_become_markup() {
        let hostile = "<!channel> **b** [x](http://e) `c` # h\n- i &amp; 1. <b>";
        for text in [hostile, "- a", "1. a", "+ a", "# a", "> a", "===", "~~a~~", "![i](u)"] {
            let mut shown = String::new();
            for event in Parser::new(&escape(text)) {
                match event {
                    Event::Text(part) => shown += &part,
                    Event::Start(Tag::Paragraph) | Event::End(_) => {}
                    other => panic!("{text:?} became {other:?}"),
                }
            }
            assert_eq!(shown.trim(), text.replace('\n', " ").trim());
        }
    }

    #[test]
    fn code_spans_hold_backticks() {
        for text in ["a", "a`b", "``", "`a", "a``b`"] {
            let markdown = code(text);
            let events: Vec<Event<'_>> = Parser::new(&markdown).collect();
            assert_eq!(events[1], Event::Code(text.into()), "{text:?}");
        }
    }

    #[test]
    fn batches_are_folded() {
        assert_eq!(batches(&[7, 3, 1, 2, 2, 9, 10]), "#1 to #3, #7, #9, #10");
    }

    #[test]
    fn times_name_their_zone() {
        let berlin: Zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap().into();
        for (time, zone, text) in [
            ("2026-11-24T01:30:05Z", &berlin, "24 Nov 02:30 CET"),
            ("2026-10-25T00:30:05Z", &berlin, "25 Oct 02:30 CEST"),
            ("2026-10-25T01:30:05Z", &berlin, "25 Oct 02:30 CET"),
            ("2026-11-24T01:30:05Z", &Zone::default(), "24 Nov 01:30 UTC"),
        ] {
            assert_eq!(clock(time, zone).unwrap(), text);
        }
        let second = clock_to_second("2026-11-24T01:30:05Z", &berlin).unwrap();
        assert_eq!(second, "24 Nov 02:30:05 CET");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(61), "1m 1s");
        assert_eq!(duration(7260), "2h 1m");
    }
}
