//! `[tickets]` and `[[tickets.route]]`: what the rules of triage mean together with `[jira]`.

use super::Config;
use super::jira::DEFAULT_SITE;
use metalbot_core::domain::triage::{Routes, TicketTarget};
use metalbot_jira::{check_label, check_project};

impl Config {
    /// Jira project of the failures; `None` when no tickets are filed.
    pub fn routes(&self) -> Option<Routes> {
        let jira = self.jira.as_ref()?;
        let default = TicketTarget {
            site: DEFAULT_SITE.into(),
            project: jira.project.clone(),
            issue_type: jira.issue_type.clone(),
            components: Vec::new(),
            labels: jira.labels.clone(),
            priority: None,
            assignee: None,
            fields: Default::default(),
        };
        Some(Routes { rules: self.tickets.route.clone(), default })
    }

    /// Keys that are right by themselves but do not work together.
    pub(super) fn ticket_problems(&self) -> Vec<String> {
        let mut problems = self.operator_problems();
        let Some(jira) = &self.jira else {
            if !self.tickets.route.is_empty() {
                problems.push("tickets.route: there is no section [jira] to route to".into());
            }
            return problems;
        };
        if self.tickets.create_confirm_timeout <= jira.longest_timeout() {
            let why = "a create may be under way for as long as a site's timeout";
            problems.push(format!("tickets.create_confirm_timeout: too short; {why}"));
        }
        let sites: Vec<&str> =
            std::iter::once(DEFAULT_SITE).chain(jira.site.keys().map(String::as_str)).collect();
        for (index, rule) in self.tickets.route.iter().enumerate() {
            let key = |name: &str| format!("tickets.route.{index}.{name}");
            if let Some(site) = &rule.site {
                if !sites.contains(&site.as_str()) {
                    let known = sites.join(", ");
                    problems
                        .push(format!("{}: {site:?} is no site; there is {known}", key("site")));
                } else if site != DEFAULT_SITE && rule.project.is_none() {
                    let why = "missing; the default project is one of another site";
                    problems.push(format!("{}: {why}", key("project")));
                }
            }
            if let Some(Err(error)) = rule.project.as_deref().map(check_project) {
                problems.push(format!("{}: {error}", key("project")));
            }
            for label in &rule.labels {
                if let Err(error) = check_label(label) {
                    problems.push(format!("{}: {error}", key("labels")));
                }
            }
            for own in ["project", "issuetype", "summary", "description", "labels"] {
                if rule.fields.contains_key(own) {
                    problems
                        .push(format!("{}: {own} has a key of its own or is ours", key("fields")));
                }
            }
        }
        for (index, earlier) in Routes::unreachable(&self.tickets.route) {
            problems.push(format!(
                "tickets.route.{index}: never reached: tickets.route.{earlier} takes all that it would"
            ));
        }
        problems
    }

    fn operator_problems(&self) -> Vec<String> {
        let Some(place) = &self.tickets.operators else { return Vec::new() };
        let known = match place.split_once('/') {
            Some(("console", name)) => {
                self.console.channels.iter().any(|channel| channel.name == name)
            }
            Some((platform, channel)) => !platform.is_empty() && !channel.is_empty(),
            None => false,
        };
        match known {
            true => Vec::new(),
            false => vec![format!(
                "tickets.operators: {place:?} is no channel; write platform/channel, such as console/metal"
            )],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LEAST: &str = "directory.file = \"p\"\ninventory.file = \"h\"\n";
    const JIRA: &str = "[jira]\nurl = \"http://j\"\nproject = \"OPS\"\ntoken = \"t\"
        [jira.site.hw]\nurl = \"http://h\"\ntoken = \"t\"\n";

    fn with(rest: &str) -> Result<Config, String> {
        let text = format!("{LEAST}{rest}");
        Config::parse(&text, Path::new("m.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_route_is_the_project_of_jira() {
        assert!(with("").unwrap().routes().is_none());
        let routes = with(JIRA).unwrap().routes().unwrap();
        assert_eq!((&routes.default.site[..], &routes.default.project[..]), ("default", "OPS"));
        assert_eq!(routes.default.labels, ["metalbot"]);
    }

    #[test]
    fn routes_that_cannot_work_are_refused() {
        for (rest, expected) in [
            (
                "[[tickets.route]]\nsite = \"nowhere\"",
                "tickets.route.0.site: \"nowhere\" is no site; there is default, hw",
            ),
            ("[[tickets.route]]\nsite = \"hw\"", "tickets.route.0.project: missing"),
            ("[[tickets.route]]\nproject = \"ops\"", "tickets.route.0.project: "),
            ("[[tickets.route]]\nlabels = [\"a b\"]", "tickets.route.0.labels: "),
            ("[[tickets.route]]\nfields = { summary = \"x\" }", "tickets.route.0.fields: summary"),
            (
                "[[tickets.route]]\nproject = \"A\"\n[[tickets.route]]\nkind = \"bmc_busy\"",
                "tickets.route.1: never reached: tickets.route.0",
            ),
            ("[[tickets.route]]\ncolour = \"red\"", "tickets.route.0.colour: unknown key"),
            ("[[tickets.route]]\nkind = []", "tickets.route.0.kind: it matches nothing"),
            (
                "[[tickets.route]]\nkind = \"bmc_buzy\"",
                "tickets.route.0.kind: \"bmc_buzy\" is no kind of error",
            ),
            ("[tickets]\nafter_reopen = \"maybe\"", "tickets.after_reopen: expected one of"),
            ("[tickets]\noperators = \"console/nowhere\"", "tickets.operators: "),
            ("[tickets]\noperators = \"metal\"", "tickets.operators: "),
            (
                "[tickets]\ncreate_confirm_timeout = \"5s\"",
                "tickets.create_confirm_timeout: too short",
            ),
        ] {
            let error = with(&format!("{JIRA}{rest}")).expect_err(expected);
            assert!(error.contains(&format!("m.toml: {expected}")), "{error}\n{expected}");
        }
        let error = with("[[tickets.route]]\nkind = \"bmc_busy\"").unwrap_err();
        assert!(error.contains("tickets.route: there is no section [jira]"), "{error}");
        assert!(
            with(&format!(
                "{JIRA}[[tickets.route]]\nkind = \"bmc_busy\"\nsite = \"hw\"\nproject = \"HW\""
            ))
            .is_ok()
        );
        assert!(with(&format!("{JIRA}[tickets]\noperators = \"slack/C1\"")).is_ok());
    }
}
