//! Checks of a configuration together with the people and hosts that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::http::public_url_problem;
use super::{Config, ConfigError, CredentialConfig};
use crate::identity::authz::Policy;
use crate::identity::directory::Directory;
use crate::telemetry;
use metalbot_core::domain::approval::{ApprovalRule, ApproverRef};

impl Config {
    /// For [`crate::identity::authz::authorise`].
    pub fn policy(&self) -> Policy {
        Policy { allow: self.allow.clone(), admins: self.admin.groups.clone() }
    }

    /// Credentials of BMCs by name, as [`crate::bmc::ipmi::IpmiBmc::new`] takes them.
    pub fn bmc_credentials(&self) -> BTreeMap<String, metalbot_ipmi::Credentials> {
        let opens = |section: &CredentialConfig| metalbot_ipmi::Credentials {
            user: section.user.clone(),
            password: section.password().clone(),
            privilege: section.privilege,
        };
        self.credentials.iter().map(|(name, section)| (name.clone(), opens(section))).collect()
    }

    /// Address of console and API for links, without a slash at the end.
    pub fn public_url(&self) -> String {
        match &self.http.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.http.listen),
        }
    }

    /// Session cookies are for HTTPS only where people come by HTTPS, and where nothing is said of how
    /// they come unless only this machine can connect. TLS usually ends before Metalbot.
    pub fn secure_cookies(&self) -> bool {
        let by_https = match &self.http.public_url {
            Some(url) => url.starts_with("https://"),
            None => !self.http.listen.ip().is_loopback(),
        };
        self.console.secure_cookies.unwrap_or(by_https)
    }

    /// Finds what would not work: rules for groups that nobody is in, quorums that nobody can
    /// reach, hosts without an owner in the directory, credentials that are not configured.
    /// `credentials` and `owners` are what the inventory's hosts name.
    pub fn check(
        &self,
        directory: &Directory,
        credentials: &BTreeSet<String>,
        owners: &BTreeSet<String>,
    ) -> Result<(), ConfigError> {
        let groups = directory.groups();
        let mut problems = Vec::new();
        let mut known = |key: String, group: &str| {
            if !groups.contains(group) {
                problems.push(format!("{key}: nobody of the directory is in group {group:?}"));
            }
        };
        for (index, rule) in self.allow.iter().enumerate() {
            known(format!("allow.{index}.group"), &rule.group);
            for owner in rule.owners.iter().filter(|owner| *owner != "*") {
                known(format!("allow.{index}.owners"), owner);
            }
        }
        for group in &self.admin.groups {
            known("admin.groups".into(), group);
        }
        for (index, rule) in self.approval.iter().enumerate() {
            if let Some(owner) = &rule.owner {
                known(format!("approval.{index}.owner"), owner);
            }
            for from in &rule.from {
                if let ApproverRef::Group(group) = from {
                    known(format!("approval.{index}.from"), group);
                }
            }
        }
        for (index, mention) in self.chat.approver_mention.iter().enumerate() {
            known(format!("chat.approver_mention.{index}.group"), &mention.group);
        }
        for owner in owners {
            known("inventory: owner of hosts".into(), owner);
        }
        for (index, rule) in self.approval.iter().enumerate() {
            problems.extend(unreachable(index, rule, directory, owners));
        }
        for name in credentials.iter().filter(|name| !self.credentials.contains_key(*name)) {
            problems.push(format!("inventory: there is no section [credentials.{name}]"));
        }
        self.problems(problems)
    }

    /// Finds what may be meant and is more likely a mistake. `datacenters` are those of the
    /// inventory's hosts.
    pub fn warnings(&self, datacenters: &BTreeSet<&str>) -> Vec<String> {
        let named = self.executor.datacenters.iter().flatten();
        let unknown = named.filter(|name| !datacenters.contains(name.as_str()));
        let mut warnings: Vec<String> = unknown
            .map(|name| format!("executor.datacenters: no host of the inventory is in {name:?}"))
            .collect();
        if datacenters.is_empty() {
            warnings.push("inventory.file: it has no host".into());
        }
        if self.allow.is_empty() {
            warnings.push("allow: nobody may ask for anything: no [[allow]] says who may".into());
        }
        if !self.http.listen.ip().is_loopback() && self.http.public_url.is_none() {
            warnings.push(format!(
                "http.public_url: links in chat and tickets lead to {}; write the address that people \
                 use",
                self.public_url()
            ));
        }
        warnings.extend(self.audit.warnings());
        warnings.extend(self.jira.iter().flat_map(|jira| jira.warnings()));
        warnings.extend(self.slack.iter().flat_map(|slack| slack.warnings()));
        warnings
    }

    /// Values that have the right type and still cannot work.
    pub(super) fn check_values(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let counts = [
            ("database.max_connections", u64::from(self.database.max_connections)),
            ("console.session_hours", u64::from(self.console.session_hours)),
            ("ipmi.max_in_flight", self.ipmi.max_in_flight as u64),
            ("ipmi.max_in_flight_per_datacenter", self.ipmi.max_in_flight_per_datacenter as u64),
            ("executor.max_in_flight", u64::from(self.executor.max_in_flight)),
            ("http.max_connections", u64::from(self.http.max_connections)),
            ("http.max_connections_per_address", u64::from(self.http.max_connections_per_address)),
            ("limits.max_hosts", u64::from(self.limits.max_hosts)),
            ("limits.max_text", self.limits.max_text as u64),
        ];
        let caps = [
            ("caps.datacenter", self.caps.datacenter),
            ("caps.rack", self.caps.rack),
            ("caps.owner", self.caps.owner),
        ];
        let caps = caps.into_iter().filter_map(|(key, cap)| Some((key, u64::from(cap?))));
        for (key, _) in counts.into_iter().chain(caps).filter(|(_, count)| *count == 0) {
            problems.push(format!("{key}: must be at least 1"));
        }
        // A lease is renewed a few times before it ends; shorter ones would end under load.
        let seconds = Duration::from_secs;
        let durations = [
            ("database.statement_timeout", self.database.statement_timeout, seconds(1)),
            ("database.retention", self.database.retention, seconds(86_400)),
            ("executor.lease_duration", self.executor.lease_duration, seconds(2)),
            ("ipmi.timeout", self.ipmi.timeout, Duration::from_millis(10)),
        ];
        for (key, _, least) in durations.into_iter().filter(|(_, value, least)| value < least) {
            problems.push(format!("{key}: must be at least {}", humantime::format_duration(least)));
        }
        if let Some(why) = self.http.public_url.as_deref().and_then(public_url_problem) {
            problems.push(format!("http.public_url: {why}"));
        }
        let api_url = self.slack.as_ref().map(|slack| &slack.api_url);
        if api_url.is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            problems.push("slack.api_url: must begin with http:// or https://".into());
        }
        if self.executor.datacenters.as_ref().is_some_and(Vec::is_empty) {
            problems.push(
                "executor.datacenters: name at least one, or leave the key out if all are reached"
                    .into(),
            );
        }
        problems.extend(self.audit.problems());
        problems.extend(self.jira.iter().flat_map(|jira| jira.problems()));
        if let Err(error) = telemetry::check_filter(&self.log.filter) {
            problems.push(format!("log.filter: {error}"));
        }
        problems.extend(self.check_channels());
        for (index, mention) in self.chat.approver_mention.iter().enumerate() {
            let channels = &self.console.channels;
            match &mention.channel {
                None if mention.mention.is_none() => {
                    problems.push(format!(
                        "chat.approver_mention.{index}: give mention, channel or both"
                    ));
                }
                Some(name)
                    if mention.platform == "console"
                        && !channels.iter().any(|channel| channel.name == *name) =>
                {
                    problems.push(format!(
                        "chat.approver_mention.{index}.channel: there is no {name:?}"
                    ));
                }
                _ => {}
            }
        }
        problems.extend(self.ticket_problems());
        for name in &self.chat.reject_reactions {
            if self.chat.approve_reactions.contains(name) {
                problems.push(format!("chat.reject_reactions: {name} also approves"));
            }
        }
        problems
    }

    fn check_channels(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.console.enabled && self.console.channels.is_empty() {
            problems.push("console.channels: name at least one".into());
        }
        let mut seen = BTreeSet::new();
        for channel in &self.console.channels {
            let name = &channel.name;
            let fits =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
            if name.is_empty() || !name.bytes().all(fits) {
                problems.push(format!(
                    "console.channels: {name:?}: use small letters, digits, '-' and '_'"
                ));
            } else if !seen.insert(name) {
                problems.push(format!("console.channels: there are two named {name:?}"));
            }
        }
        problems
    }

    pub(super) fn problems(&self, problems: Vec<String>) -> Result<(), ConfigError> {
        match problems.is_empty() {
            true => Ok(()),
            false => Err(ConfigError::Problems { file: self.file.clone(), problems }),
        }
    }
}

/// The owners for whose hosts fewer people may approve than the rule asks for.
fn unreachable(
    index: usize,
    rule: &ApprovalRule,
    directory: &Directory,
    owners: &BTreeSet<String>,
) -> Option<String> {
    let mut applies: BTreeSet<&str> = owners.iter().map(String::as_str).collect();
    if let Some(owner) = &rule.owner {
        applies = BTreeSet::from([owner.as_str()]);
    } else if !rule.from.contains(&ApproverRef::Owner) {
        // The same people whoever owns the hosts, and to be checked even without hosts.
        applies = BTreeSet::from(["any owner"]);
    }
    applies.into_iter().find_map(|owner| {
        let approvers: BTreeSet<String> =
            rule.groups(owner).iter().flat_map(|group| directory.members(group)).collect();
        let (have, need) = (approvers.len(), rule.quorum as usize);
        (have < need).then(|| {
            format!(
                "approval.{index}: needs {need} for hosts of {owner}, but only {have} may approve"
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const PEOPLE: &str = r#"
        person = [
            { login = "alice", name = "A", groups = ["sre"] },
            { login = "bob", name = "B", groups = ["web"] },
            { login = "ben", name = "B", groups = ["web"] },
            { login = "dave", name = "D", groups = ["db"] },
            { login = "old", name = "O", groups = ["db", "past"], disabled = true },
        ]
    "#;

    fn check(rules: &str, credentials: &[&str], owners: &[&str]) -> String {
        let text = format!(
            "directory.file = \"p\"\ninventory.file = \"i\"\n{rules}\n\
             [credentials.lab]\nuser = \"u\"\npassword = \"p\"\n"
        );
        let config = Config::parse(&text, Path::new("/m.toml")).unwrap();
        let directory = Directory::parse(PEOPLE, Path::new("/p.toml")).unwrap();
        let set = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        match config.check(&directory, &set(credentials), &set(owners)) {
            Ok(()) => "fine".into(),
            Err(error) => error.to_string().trim_start_matches("/m.toml: ").to_owned(),
        }
    }

    #[test]
    fn what_is_more_likely_a_mistake_is_warned_of() {
        const SLACK: &str = "[slack]\nbot_token = \"xoxp-1\"\napp_token = \"xapp-1\"\n";
        const JIRA: &str = "[jira]\nurl = \"http://jira\"\nproject = \"OPS\"\ntoken = \"t\"\n";
        let warnings = |rules: &str| {
            let files = "directory.file = \"p\"\ninventory.file = \"i\"\n";
            let files = format!("{files}audit.key = {:?}\n", "k".repeat(32));
            let text = format!("{files}allow = [{{ group = \"sre\" }}]\n{rules}");
            let config = Config::parse(&text, Path::new("/m.toml")).unwrap();
            config.warnings(&BTreeSet::from(["fra1", "ams1"]))
        };
        assert!(warnings("").is_empty());
        assert!(warnings("executor.datacenters = [\"ams1\"]").is_empty());
        assert!(warnings(&JIRA.replace("http://jira", "http://127.0.0.1:8080/jira")).is_empty());
        assert!(warnings(&SLACK.replace("xoxp", "xoxb")).is_empty());
        for (rules, expected) in [
            (
                "executor.datacenters = [\"ams1\", \"FRA1\"]",
                "executor.datacenters: no host of the inventory is in \"FRA1\"",
            ),
            (
                "http.listen = \"0.0.0.0:80\"",
                "http.public_url: links in chat and tickets lead to http://0.0.0.0:80; write the \
                 address that people use",
            ),
            (JIRA, "jira.url: the token is sent without encryption; write https://"),
            (SLACK, "slack.bot_token: a bot's token begins with xoxb-, and this one does not"),
        ] {
            assert_eq!(warnings(rules), [expected]);
        }
        let nothing = "directory.file = \"p\"\ninventory.file = \"i\"\n";
        let nothing = Config::parse(nothing, Path::new("/m.toml")).unwrap();
        let [no_host, nobody, no_key] = &nothing.warnings(&BTreeSet::new())[..] else {
            panic!("three")
        };
        assert!(no_host.contains("no host") && nobody.contains("nobody may ask"), "{nobody}");
        assert!(no_key.starts_with("audit.key: without a key"), "{no_key}");
    }

    #[test]
    fn what_belongs_together_is_checked_together() {
        let nobody = |key: &str, group: &str| {
            format!("{key}: nobody of the directory is in group {group:?}")
        };
        let short = |index: u32, need: u32, owner: &str, have: u32| {
            format!(
                "approval.{index}: needs {need} for hosts of {owner}, but only {have} may approve"
            )
        };
        let table: Vec<(&str, &[&str], &[&str], String)> = vec![
            ("", &["lab"], &["web", "db"], "fine".into()),
            (
                "",
                &["lab", "attic"],
                &[],
                "inventory: there is no section [credentials.attic]".into(),
            ),
            ("", &[], &["mail"], nobody("inventory: owner of hosts", "mail")),
            ("[[allow]]\ngroup = \"sre\"\nowners = [\"*\", \"web\"]", &[], &[], "fine".into()),
            ("[[allow]]\ngroup = \"ssre\"", &[], &[], nobody("allow.0.group", "ssre")),
            ("[[allow]]\ngroup = \"past\"", &[], &[], nobody("allow.0.group", "past")),
            (
                "[[allow]]\ngroup = \"sre\"\nowners = [\"wbe\"]",
                &[],
                &[],
                nobody("allow.0.owners", "wbe"),
            ),
            ("admin.groups = [\"root\"]", &[], &[], nobody("admin.groups", "root")),
            ("[[approval]]\nowner = \"web\"\nquorum = 2", &[], &[], "fine".into()),
            ("[[approval]]\nowner = \"web\"\nquorum = 3", &[], &[], short(0, 3, "web", 2)),
            ("[[approval]]\nquorum = 2", &[], &["web"], "fine".into()),
            ("[[approval]]\nquorum = 2", &[], &["web", "db"], short(0, 2, "db", 1)),
            (
                "[[approval]]\nquorum = 2\nfrom = [\"owner\", \"group:sre\"]",
                &[],
                &["web", "db"],
                "fine".into(),
            ),
            (
                "[[approval]]\nquorum = 2\nfrom = [\"group:sre\"]",
                &[],
                &[],
                short(0, 2, "any owner", 1),
            ),
            ("[[approval]]\nquorum = 0\nfrom = []", &[], &["db"], "fine".into()),
        ];
        for (rules, credentials, owners, expected) in table {
            assert_eq!(check(rules, credentials, owners), expected, "{rules}");
        }
    }
}
