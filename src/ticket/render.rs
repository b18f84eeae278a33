//! Renders the text of a ticket from the facts of its failures, by the templates of
//! `templates/tickets/`. They are compiled in; a site folder may override each of them.
//!
//! Invariant: in a `.md` template every value is escaped as it is written, without the template
//! asking for it; only `mention`, `link`, `mono` and `block` give markup, and they escape what they
//! are given. A template that does not render is found when it is loaded, not when a host fails.

use std::path::Path;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Output, State, UndefinedBehavior, Value};
use serde::Serialize;

use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_jira as jira;

const COMPILED_IN: [(&str, &str); 5] = [
    ("summary.txt", include_str!("../../templates/tickets/summary.txt")),
    ("body.md", include_str!("../../templates/tickets/body.md")),
    ("advice.md", include_str!("../../templates/tickets/advice.md")),
    ("again.md", include_str!("../../templates/tickets/again.md")),
    ("resolved.md", include_str!("../../templates/tickets/resolved.md")),
];

/// Context of a ticket's templates.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TicketContext {
    /// Batches that failed for it, the newest first; there may have been more before.
    pub batches: Vec<TicketBatch>,
    pub more_batches: usize,
    /// People whom only earlier batches concern.
    pub more_people: Vec<TicketPerson>,
    /// Kind of the failures. The advice goes by its name.
    pub error_kind: ErrorKind,
    /// Message of the last error.
    pub error: String,
    /// Title of the step that failed, or the check.
    pub source: String,
    /// Common property of all hosts, such as `rack fra1/r11`.
    pub shared: Option<String>,
    /// Hosts in folded form: `web[01-12,15]`.
    pub hosts_folded: String,
    /// Hosts that have succeeded since, folded; empty when none has.
    pub resolved_folded: String,
    /// Number of hosts; `hosts` may hold fewer.
    pub host_count: usize,
    pub hosts: Vec<TicketHost>,
    /// Entries of the BMCs' event logs, of a few hosts.
    pub events: Vec<TicketEvents>,
    /// Fields that Jira refused, with its reasons.
    pub rejected_fields: Option<String>,
    /// Number of the batch to retry.
    pub retry: String,
}

/// A batch that failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TicketBatch {
    /// As people write it: `#42`.
    pub id: String,
    /// Its page, which leads to its thread.
    pub url: String,
    /// Channel of its thread: `console #metal`.
    pub place: String,
    /// Name of the action, such as `reboot`.
    pub action: String,
    pub submitter: TicketPerson,
    pub approvers: Vec<TicketPerson>,
    /// Reason given with the command; may be empty.
    pub reason: String,
}

/// A person concerned.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct TicketPerson {
    pub name: String,
    /// Jira account; without one they are named, not mentioned.
    pub account: Option<String>,
}

/// One row of the table of hosts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TicketHost {
    pub name: String,
    pub datacenter: String,
    pub rack: String,
    pub sku: String,
    /// Address of the BMC.
    pub bmc: String,
    /// Firmware of the BMC, with vendor and model; empty when it never said.
    pub firmware: String,
    pub error: String,
    pub attempts: u32,
    /// Time of the attempts: `23 Nov 14:02 to 14:05 UTC`; empty when nothing was tried.
    pub tried: String,
}

/// Last lines of a BMC's own log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TicketEvents {
    pub host: String,
    /// Oldest first, one in a line.
    pub lines: String,
}

/// Context of the template of `Comment::Again`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AgainContext {
    pub batch: String,
    pub batch_url: String,
    pub action: String,
    pub submitter: TicketPerson,
    pub hosts_folded: String,
    pub error: String,
}

/// Context of the template of `Comment::Resolved`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ResolvedContext {
    pub batches: Vec<BatchLink>,
    pub hosts_folded: String,
}

/// A batch to be linked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BatchLink {
    pub id: String,
    pub url: String,
}

/// Text of a ticket: a plain summary and a body in Markdown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TicketText {
    pub summary: String,
    pub body: String,
}

/// A template that cannot be used. Its message names the file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TicketTemplateError {
    #[error("cannot read the ticket template {file}: {detail}")]
    Unreadable { file: String, detail: String },
    #[error("the ticket template {file} does not work: {detail}")]
    Broken { file: String, detail: String },
}

/// The loaded templates.
#[derive(Debug)]
pub struct TicketTemplates {
    env: Environment<'static>,
}

impl TicketTemplates {
    /// Loads the compiled-in templates, each overridden by the file of its name in the site folder
    /// where there is one, and renders examples to prove that they work.
    pub fn load(site: Option<&Path>) -> Result<TicketTemplates, TicketTemplateError> {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_auto_escape_callback(|name| match name.ends_with(".md") {
            true => AutoEscape::Custom("markdown".into()),
            false => AutoEscape::None,
        });
        env.set_formatter(write_value);
        env.add_function("mention", |account: &str, name: &str| {
            Value::from_safe_string(jira::mention(account, name))
        });
        env.add_function("link", |text: &str, url: &str| {
            Value::from_safe_string(jira::link(text, url))
        });
        env.add_function("mono", |text: &str| Value::from_safe_string(jira::mono(text)));
        env.add_function("block", |text: &str| Value::from_safe_string(jira::code_block(text)));
        // The built-in ones escape for HTML or JSON, or not at all.
        for name in ["safe", "escape", "e", "tojson"] {
            env.remove_filter(name);
        }
        for (name, compiled_in) in COMPILED_IN {
            let text = match site.map(|folder| folder.join(name)).filter(|path| path.exists()) {
                Some(path) => {
                    std::fs::read_to_string(&path).map_err(|e| TicketTemplateError::Unreadable {
                        file: path.display().to_string(),
                        detail: e.to_string(),
                    })?
                }
                None => compiled_in.to_owned(),
            };
            env.add_template_owned(name, text).map_err(|e| broken(name, &e))?;
        }
        let templates = TicketTemplates { env };
        templates.failure(&example())?;
        templates.again(&example_again())?;
        templates.resolved(&example_resolved())?;
        Ok(templates)
    }

    /// The ticket for a failure.
    pub fn failure(&self, context: &TicketContext) -> Result<TicketText, TicketTemplateError> {
        Ok(TicketText {
            summary: self.render("summary.txt", context)?,
            body: self.render("body.md", context)?,
        })
    }

    /// The comment that hosts have failed again.
    pub fn again(&self, context: &AgainContext) -> Result<String, TicketTemplateError> {
        self.render("again.md", context)
    }

    /// The comment that all hosts have succeeded.
    pub fn resolved(&self, context: &ResolvedContext) -> Result<String, TicketTemplateError> {
        self.render("resolved.md", context)
    }

    fn render(&self, name: &str, context: &impl Serialize) -> Result<String, TicketTemplateError> {
        let template = self.env.get_template(name).map_err(|e| broken(name, &e))?;
        let text = template.render(Value::from(Serde(context))).map_err(|e| broken(name, &e))?;
        Ok(text.trim().to_owned())
    }
}

fn write_value(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), minijinja::Error> {
    if value.is_none() {
        return Ok(());
    }
    let text = value.to_string();
    let written = match state.auto_escape() {
        AutoEscape::None => out.write_str(&text),
        _ if value.is_safe() => out.write_str(&text),
        _ => out.write_str(&jira::escape(&text)),
    };
    written.map_err(minijinja::Error::from)
}

fn broken(file: &str, error: &minijinja::Error) -> TicketTemplateError {
    // The alternate form adds the line; causes follow.
    let mut detail = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        detail = format!("{detail}: {inner}");
        source = inner.source();
    }
    TicketTemplateError::Broken { file: error.name().unwrap_or(file).to_owned(), detail }
}

fn alice() -> TicketPerson {
    TicketPerson { name: "Alice".into(), account: Some("alice".into()) }
}

fn example() -> TicketContext {
    TicketContext {
        batches: vec![TicketBatch {
            id: "#42".into(),
            url: "https://metalbot.example/batches/42".into(),
            place: "console #metal".into(),
            action: "reboot".into(),
            submitter: alice(),
            approvers: vec![TicketPerson { name: "Bob".into(), account: None }],
            reason: "kernel CVE-2026-1".into(),
        }],
        more_batches: 0,
        more_people: Vec::new(),
        error_kind: ErrorKind::BmcUnreachable,
        error: "the BMC at 10.0.0.7 does not answer".into(),
        source: "cut the power".into(),
        shared: Some("rack fra1/r12".into()),
        hosts_folded: "web[01-02]".into(),
        resolved_folded: String::new(),
        host_count: 2,
        hosts: ["web01", "web02"]
            .map(|name| TicketHost {
                name: name.into(),
                datacenter: "fra1".into(),
                rack: "r12".into(),
                sku: "r640".into(),
                bmc: "10.0.0.7".into(),
                firmware: String::new(),
                error: "the BMC at 10.0.0.7 does not answer".into(),
                attempts: 3,
                tried: "23 Nov 14:02 to 14:05 UTC".into(),
            })
            .into(),
        events: vec![TicketEvents {
            host: "web01".into(),
            lines: "14:01 PSU 1: power supply input lost\n14:02 PSU 2: failure".into(),
        }],
        rejected_fields: Some("priority: it is gone".into()),
        retry: "42".into(),
    }
}

fn example_again() -> AgainContext {
    AgainContext {
        batch: "#43".into(),
        batch_url: "https://metalbot.example/batches/43".into(),
        action: "reboot".into(),
        submitter: alice(),
        hosts_folded: "web03".into(),
        error: "the BMC at 10.0.0.7 does not answer".into(),
    }
}

fn example_resolved() -> ResolvedContext {
    let batch = BatchLink { id: "#44".into(), url: "https://metalbot.example/batches/44".into() };
    ResolvedContext { batches: vec![batch], hosts_folded: "web[01-03]".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in() -> TicketTemplates {
        TicketTemplates::load(None).unwrap()
    }

    #[test]
    fn a_ticket_says_what_a_technician_needs() {
        let ticket = built_in().failure(&example()).unwrap();
        insta::assert_snapshot!(ticket.summary, @"reboot failed on 2 hosts (bmc_unreachable): web[01-02] [batch #42]");
        insta::assert_snapshot!(ticket.body, @r#"
        ### What was asked
        - **reboot** in batch [\#42](<https://metalbot.example/batches/42>) (thread in console \#metal), asked by [Alice](<mention:alice>), approved by Bob, reason: kernel CVE\-2026\-1

        ### What failed
        - Failure: `bmc_unreachable` in `cut the power`
        - Last error: the BMC at 10\.0\.0\.7 does not answer
        - 2 hosts: web\[01\-02\]
        - In common: rack fra1\/r12

        ### Hosts

        | Host | Datacenter | Rack | SKU | BMC | Attempts | Last error |
        |---|---|---|---|---|---|---|
        | web01 | fra1 | r12 | r640 | 10\.0\.0\.7 | 3, 23 Nov 14\:02 to 14\:05 UTC | the BMC at 10\.0\.0\.7 does not answer |
        | web02 | fra1 | r12 | r640 | 10\.0\.0\.7 | 3, 23 Nov 14\:02 to 14\:05 UTC | the BMC at 10\.0\.0\.7 does not answer |

        ### What the BMCs logged

        web01:

        ```
        14:01 PSU 1: power supply input lost
        14:02 PSU 2: failure
        ```

        ### What to check
        - Is the management port's link up, and is its cable in the right switch port and VLAN?
        - Does `ping` reach the BMC address of the table from the management network? Is the address still the BMC's?
        - Does the BMC answer after a cold reset from its console, or after the power cords were out for 30 seconds?

        ### What Jira did not take
        priority\: it is gone

        ----
        Filed by Metalbot. When the hosts are repaired, `/metal retry 42` runs them again.
        "#);
    }

    #[test]
    fn comments() {
        let templates = built_in();
        insta::assert_snapshot!(templates.again(&example_again()).unwrap(), @r#"
        Failed again in batch [\#43](<https://metalbot.example/batches/43>) (reboot), asked by [Alice](<mention:alice>): web03

        Last error: the BMC at 10\.0\.0\.7 does not answer
        "#);
        insta::assert_snapshot!(templates.resolved(&example_resolved()).unwrap(), @r#"
        Every host of this ticket has succeeded since it failed ([\#44](<https://metalbot.example/batches/44>)): web\[01\-03\]
        "#);
    }

    #[test]
    fn every_kind_of_error_has_its_own_advice() {
        let templates = built_in();
        let mut seen = std::collections::BTreeSet::new();
        for kind in ErrorKind::ALL {
            let context = TicketContext { error_kind: *kind, ..example() };
            let text = templates.failure(&context).unwrap().body;
            let (_, rest) = text.split_once("### What to check\n- ").unwrap();
            let (advice, _) = rest.split_once("\n\n").unwrap();
            assert!(advice.len() > 40 && seen.insert(advice.to_owned()), "{kind}: {advice}");
        }
    }

    #[test]
    fn no_field_can_bring_markup() {
        let evil = "x|y [~mallory] <b>{html} [a](https://evil.example)\n# big\n* ![i](p) [m](mention:m)\n```\n";
        let text = || evil.to_owned();
        let host = TicketHost {
            name: text(),
            datacenter: text(),
            rack: text(),
            sku: text(),
            bmc: text(),
            firmware: text(),
            error: text(),
            attempts: 1,
            tried: text(),
        };
        let person = || TicketPerson { name: text(), account: None };
        let batch = TicketBatch {
            id: text(),
            url: text(),
            place: text(),
            action: text(),
            submitter: person(),
            approvers: vec![person(), TicketPerson { account: Some(text()), ..person() }],
            reason: text(),
        };
        let context = TicketContext {
            batches: vec![batch],
            more_batches: 1,
            more_people: vec![person()],
            error_kind: ErrorKind::Unspecified,
            error: text(),
            source: text(),
            shared: Some(text()),
            hosts_folded: text(),
            resolved_folded: text(),
            host_count: 1,
            hosts: vec![host],
            events: vec![TicketEvents { host: text(), lines: text() }],
            rejected_fields: Some(text()),
            retry: text(),
        };
        let ticket = built_in().failure(&context).unwrap();
        let parser =
            pulldown_cmark::Parser::new_ext(&ticket.body, pulldown_cmark::Options::ENABLE_TABLES);
        use pulldown_cmark::{Event, Tag};
        let mut mentions = 0;
        for event in parser {
            match event {
                Event::Start(Tag::Link { dest_url, .. }) => {
                    // The one account that was given, whole, is nobody's: it cannot be widened.
                    assert!(dest_url.starts_with("mention:x%7Cy%20"), "{dest_url}");
                    mentions += 1;
                }
                Event::Start(Tag::Image { .. }) | Event::Html(_) | Event::InlineHtml(_) => {
                    panic!("{event:?} in {}", ticket.body)
                }
                Event::Start(Tag::Heading { level, .. }) => assert_eq!(level as u8, 3),
                _ => {}
            }
        }
        assert_eq!(mentions, 1);
    }

    #[test]
    fn a_long_list_of_hosts_is_cut_in_the_table() {
        let mut context = example();
        context.hosts = vec![context.hosts[0].clone(); 500];
        context.host_count = 500;
        let text = built_in().failure(&context).unwrap().body;
        assert_eq!(text.lines().filter(|l| l.starts_with("| web")).count(), 60);
        assert!(text.contains("440 more are named above."));
    }

    #[test]
    fn a_site_overrides_one_file_and_its_mistakes_are_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("advice.md");
        std::fs::write(&file, "\n- Call {{ source }}: {{ hosts_folded }}").unwrap();
        let ticket =
            TicketTemplates::load(Some(folder.path())).unwrap().failure(&example()).unwrap();
        assert!(ticket.body.contains("- Call cut the power: web\\[01\\-02\\]"), "{}", ticket.body);
        for wrong in [
            "{{ nosuch }}",
            "{% if %}",
            "{{ error|safe }}",
            "{{ error|tojson }}",
            "{{ mention() }}",
        ] {
            std::fs::write(&file, wrong).unwrap();
            let error = TicketTemplates::load(Some(folder.path())).unwrap_err();
            assert!(error.to_string().contains("advice.md"), "{wrong}: {error}");
        }
    }
}
