//! Turns the facts of a failure into the words of a ticket, by the templates of
//! `templates/tickets/`. They are compiled in; a site folder may override each of them.
//!
//! Invariant: in a `.md` template every value is escaped as it is written, without the template
//! asking for it; only `mention`, `link` and `mono` give markup, and they escape what they are
//! given. A template that does not render is found when it is loaded, not when a host fails.

use std::path::Path;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Output, State, UndefinedBehavior, Value};
use serde::Serialize;

use super::jira;

const COMPILED_IN: [(&str, &str); 3] = [
    ("summary.txt", include_str!("../../templates/tickets/summary.txt")),
    ("body.md", include_str!("../../templates/tickets/body.md")),
    ("advice.md", include_str!("../../templates/tickets/advice.md")),
];

/// What a failure ticket says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TicketContext {
    /// Name of the action, such as `reboot`.
    pub action: String,
    /// Batch as people write it: `#42`.
    pub batch: String,
    /// Page of the batch; empty where there is none.
    pub batch_url: String,
    /// Name of the submitter for people.
    pub submitter: String,
    /// Their Jira account; without one they are named, not mentioned.
    pub submitter_account: Option<String>,
    pub approvers: Vec<TicketPerson>,
    /// Reason given with the command; may be empty.
    pub reason: String,
    /// Short stable name of the failure, such as `bmc_unreachable`. The advice goes by it.
    pub error_kind: String,
    /// Last error in words.
    pub error: String,
    /// Step of the action that failed.
    pub step: String,
    /// Hosts in folded form: `web[01-12,15]`.
    pub hosts_folded: String,
    /// How many hosts; `hosts` may hold fewer.
    pub host_count: usize,
    pub hosts: Vec<TicketHost>,
    /// One more thing to check, beside the advice of the template.
    pub advice: Option<String>,
}

/// A person to be mentioned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TicketPerson {
    pub name: String,
    /// Jira account.
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
    pub error: String,
    pub attempts: u32,
}

/// Words of a ticket: a plain summary and a body in Markdown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rendered {
    pub summary: String,
    pub body: String,
}

/// A template that cannot be used. Its message names the file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RenderError {
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
    /// where there is one, and renders an example to prove that they work.
    pub fn load(site: Option<&Path>) -> Result<TicketTemplates, RenderError> {
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
        // The built-in ones escape for HTML or JSON, or not at all.
        for name in ["safe", "escape", "e", "tojson"] {
            env.remove_filter(name);
        }
        for (name, compiled_in) in COMPILED_IN {
            let text = match site.map(|folder| folder.join(name)).filter(|path| path.exists()) {
                Some(path) => {
                    std::fs::read_to_string(&path).map_err(|e| RenderError::Unreadable {
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
        Ok(templates)
    }

    /// The ticket for a failure.
    pub fn failure(&self, context: &TicketContext) -> Result<Rendered, RenderError> {
        let render = |name| {
            let template = self.env.get_template(name).map_err(|e| broken(name, &e))?;
            let text =
                template.render(Value::from(Serde(context))).map_err(|e| broken(name, &e))?;
            Ok::<_, RenderError>(text.trim().to_owned())
        };
        Ok(Rendered { summary: render("summary.txt")?, body: render("body.md")? })
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

fn broken(file: &str, error: &minijinja::Error) -> RenderError {
    // The alternate form adds the line; causes follow.
    let mut detail = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        detail = format!("{detail}: {inner}");
        source = inner.source();
    }
    RenderError::Broken { file: error.name().unwrap_or(file).to_owned(), detail }
}

fn example() -> TicketContext {
    TicketContext {
        action: "reboot".into(),
        batch: "#42".into(),
        batch_url: "https://metalbot.example/batches/42".into(),
        submitter: "Alice".into(),
        submitter_account: Some("alice".into()),
        approvers: vec![TicketPerson { name: "Bob".into(), account: None }],
        reason: "kernel CVE-2026-1".into(),
        error_kind: "bmc_unreachable".into(),
        error: "the BMC at 10.0.0.7 does not answer".into(),
        step: "power".into(),
        hosts_folded: "web[01-02]".into(),
        host_count: 2,
        hosts: ["web01", "web02"]
            .map(|name| TicketHost {
                name: name.into(),
                datacenter: "fra1".into(),
                rack: "r12".into(),
                sku: "r640".into(),
                bmc: "10.0.0.7".into(),
                error: "the BMC at 10.0.0.7 does not answer".into(),
                attempts: 3,
            })
            .into(),
        advice: None,
    }
}

#[cfg(test)]
mod tests {
    use pulldown_cmark::{Options, Parser, html};

    use super::*;

    fn built_in() -> TicketTemplates {
        TicketTemplates::load(None).unwrap()
    }

    #[test]
    fn a_ticket_says_what_a_technician_needs() {
        let ticket = built_in().failure(&example()).unwrap();
        insta::assert_snapshot!(ticket.summary, @"reboot failed on 2 hosts (bmc_unreachable): web[01-02] [batch #42]");
        insta::assert_snapshot!(ticket.body, @r"
        ### What was asked
        - **reboot** in batch [\#42](<https://metalbot.example/batches/42>)
        - Asked by [Alice](<mention:alice>)
        - Approved by Bob
        - Reason: kernel CVE\-2026\-1

        ### What failed
        - Failure: `bmc_unreachable` in step `power`
        - Last error: the BMC at 10\.0\.0\.7 does not answer
        - 2 hosts: web\[01\-02\]

        ### Hosts

        | Host | Datacenter | Rack | SKU | BMC | Attempts | Last error |
        |---|---|---|---|---|---|---|
        | web01 | fra1 | r12 | r640 | 10\.0\.0\.7 | 3 | the BMC at 10\.0\.0\.7 does not answer |
        | web02 | fra1 | r12 | r640 | 10\.0\.0\.7 | 3 | the BMC at 10\.0\.0\.7 does not answer |

        ### What to check
        - Is the management port's link up, and is its cable in the right switch port and VLAN?
        - Does `ping` reach the BMC address of the table from the management network? Is the address still the BMC's?
        - Does the BMC answer after a cold reset from its console, or after the power cords were out for 30 seconds?

        ----
        Filed by Metalbot. When the hosts are mended, `/metal retry 42` runs them again.
        ");
    }

    #[test]
    fn every_kind_of_error_has_its_own_advice() {
        let templates = built_in();
        let mut seen = std::collections::BTreeSet::new();
        for kind in [
            "bmc_unreachable",
            "bmc_credentials",
            "bmc_privilege",
            "bmc_cipher",
            "bmc_busy",
            "bmc_protocol",
            "bmc_refused",
            "power_state",
            "outcome_unknown",
            "misconfigured",
            "other",
        ] {
            let context = TicketContext { error_kind: kind.into(), ..example() };
            let text = templates.failure(&context).unwrap().body;
            let (_, advice) = text.split_once("### What to check\n- ").unwrap();
            assert!(seen.insert(advice.to_owned()), "{kind}");
        }
    }

    #[test]
    fn no_field_can_bring_markup() {
        let evil = "x|y [~mallory] {html}<b>{html} [a|https://evil.example]\nh1. big\n* !i.png!";
        let text = || evil.to_owned();
        let host = TicketHost {
            name: text(),
            datacenter: text(),
            rack: text(),
            sku: text(),
            bmc: text(),
            error: text(),
            attempts: 1,
        };
        let person = TicketPerson { name: text(), account: Some(text()) };
        let context = TicketContext {
            action: text(),
            batch: text(),
            batch_url: text(),
            submitter: text(),
            submitter_account: Some(text()),
            approvers: vec![person.clone(), TicketPerson { account: None, ..person }],
            reason: text(),
            error_kind: text(),
            error: text(),
            step: text(),
            hosts_folded: text(),
            host_count: 1,
            hosts: vec![host],
            advice: Some(text()),
        };
        let ticket = built_in().failure(&context).unwrap();
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
        let mut page = String::new();
        html::push_html(&mut page, Parser::new_ext(&ticket.body, options));
        for active in ["<b>", "<h1", "<img", "href=\"https:"] {
            assert!(!page.contains(active), "{active}: {page}");
        }
        assert_eq!(page.matches("<a ").count(), 2, "submitter and approver: {page}");
        let row = ticket.body.lines().filter(|l| l.starts_with("| ")).nth(1).unwrap();
        assert_eq!(row.matches('|').count(), 8);
    }

    #[test]
    fn unknown_people_are_named_and_empty_cells_stay_cells() {
        let mut context = example();
        context.submitter_account = None;
        context.hosts[0].rack = String::new();
        let text = built_in().failure(&context).unwrap().body;
        assert!(text.contains("- Asked by Alice\n"), "{text}");
        assert!(text.contains("| fra1 |  | r640 |"), "{text}");
    }

    #[test]
    fn a_long_list_of_hosts_is_cut_in_the_table() {
        let mut context = example();
        context.hosts = vec![context.hosts[0].clone(); 500];
        context.host_count = 500;
        let text = built_in().failure(&context).unwrap().body;
        assert_eq!(text.lines().filter(|l| l.starts_with("| ")).count(), 61);
        assert!(text.contains("440 more are named above."));
    }

    #[test]
    fn a_site_overrides_one_file_and_its_mistakes_are_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("advice.md");
        std::fs::write(&file, "\n- Call {{ submitter }}: {{ hosts_folded }}").unwrap();
        let ticket =
            TicketTemplates::load(Some(folder.path())).unwrap().failure(&example()).unwrap();
        assert!(ticket.body.contains("- Call Alice: web\\[01\\-02\\]"));
        for wrong in [
            "{{ nosuch }}",
            "{% if %}",
            "{{ reason|safe }}",
            "{{ reason|tojson }}",
            "{{ mention() }}",
        ] {
            std::fs::write(&file, wrong).unwrap();
            let error = TicketTemplates::load(Some(folder.path())).unwrap_err();
            assert!(error.to_string().contains("advice.md"), "{wrong}: {error}");
        }
    }
}
