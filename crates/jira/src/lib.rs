//! A client for one Jira site, Data Center (REST version 2) or Cloud (REST version 3). The
//! calls are the same for both; each dialect has its own form of them.
//!
//! Invariant: creating an issue and commenting are not idempotent, so every error says by its
//! variant whether it may have happened.
//!
//! Sources: Jira Data Center REST API reference and Jira Cloud platform REST API version 3, groups
//! `issue`, `issue search`, `issue watchers`, `users`.

mod adf;
mod body;
mod check;
mod cloud;
mod data_center;
mod error;
mod read;
mod wiki;
mod wire;

use std::time::Duration;

use reqwest::{ClientBuilder, Method};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use body::{Body, MAX_TEXT, code_block, escape, link, mention, mono};
pub use check::{MAX_SUMMARY, check_label, check_project};
pub use error::JiraError;
pub use read::{Category, IssueState};
pub use wire::MAX_BODY;

use check::{check_key, cut_summary, is_key};
use error::Effect;
use secrecy::SecretString;
use wire::Wire;

/// Kind of Jira.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// REST version 2, wiki text, people by user name.
    #[default]
    DataCenter,
    /// REST version 3, Atlassian Document Format, people by account id.
    Cloud,
}

/// Credentials for a site.
#[derive(Clone, Debug)]
pub enum Auth {
    /// A personal access token of Data Center.
    Bearer(SecretString),
    /// User name and password on Data Center; email and API token on Cloud.
    Basic { user: String, password: SecretString },
}

/// Settings of one site.
#[derive(Clone, Debug)]
pub struct SiteSettings {
    /// Name by which routes call it.
    pub name: String,
    /// Base address, with a path prefix where Jira has one: `https://host/jira/`.
    pub url: String,
    pub dialect: Dialect,
    pub auth: Auth,
    /// Longest time one call may take, connecting included.
    pub timeout: Duration,
    /// Name of the proxy by which the client reaches the site, for errors.
    pub proxy: Option<String>,
}

/// A ticket to be filed.
#[derive(Clone, PartialEq, Debug)]
pub struct NewIssue {
    /// Project key, such as `OPS`.
    pub project: String,
    /// Name, such as `Incident`.
    pub issue_type: String,
    /// Plain text in one line; cut to [`MAX_SUMMARY`].
    pub summary: String,
    /// Cut to [`MAX_TEXT`] of what the dialect makes of it.
    pub body: Body,
    /// One of them should be a label that no other ticket has, for [`Site::find_by_label`].
    pub labels: Vec<String>,
    /// By name.
    pub components: Vec<String>,
    /// By name.
    pub priority: Option<String>,
    /// User name or account id.
    pub assignee: Option<String>,
    /// More fields by id, such as `customfield_10010`, as Jira's REST takes them.
    pub fields: Map<String, Value>,
}

/// Change that [`Site::update`] makes; the rest stays as it is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct IssueChange {
    pub summary: Option<String>,
    pub body: Option<Body>,
    /// Labels beside those that the ticket has.
    pub add_labels: Vec<String>,
}

/// A ticket that exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issue {
    /// Such as `OPS-12`.
    pub key: String,
    /// Page for people.
    pub url: String,
}

/// A connection to one Jira site. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Site {
    name: String,
    dialect: Dialect,
    wire: Wire,
}

#[derive(Deserialize)]
struct Created {
    key: String,
}

#[derive(Deserialize)]
struct Transitions {
    transitions: Vec<Transition>,
}

#[derive(Deserialize)]
struct Transition {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct User {
    /// Absent where privacy settings hide it.
    #[serde(default = "yes")]
    active: bool,
}

fn yes() -> bool {
    true
}

impl Site {
    /// Checks the settings and prepares the client; sends nothing. `client` says by which way calls
    /// leave and whom they trust. The process must have installed a rustls crypto provider before.
    pub fn new(settings: SiteSettings, client: ClientBuilder) -> Result<Site, JiraError> {
        if settings.dialect == Dialect::Cloud && matches!(settings.auth, Auth::Bearer(_)) {
            return Err(JiraError::wrong(
                "Jira Cloud takes an API token only with its user's email",
            ));
        }
        let wire = Wire::new(&settings, client)?;
        Ok(Site { name: settings.name, dialect: settings.dialect, wire })
    }

    /// Name by which routes call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Files a ticket. After [`JiraError::Unknown`] it may exist: ask [`Site::find_by_label`].
    pub async fn create(&self, new: &NewIssue) -> Result<Issue, JiraError> {
        check_project(&new.project)?;
        new.labels.iter().try_for_each(|label| check_label(label))?;
        let mut labels: Vec<&String> = Vec::new();
        for label in &new.labels {
            if !labels.contains(&label) {
                labels.push(label);
            }
        }
        let mut fields = new.fields.clone();
        let mut set = |field: &str, value: Value| fields.insert(field.into(), value);
        set("project", json!({ "key": new.project }));
        set("issuetype", json!({ "name": new.issue_type }));
        set("summary", cut_summary(&new.summary).into());
        set("description", self.text(&new.body));
        set("labels", json!(labels));
        if !new.components.is_empty() {
            let names = new.components.iter().map(|name| json!({ "name": name }));
            set("components", names.collect());
        }
        if let Some(priority) = &new.priority {
            set("priority", json!({ "name": priority }));
        }
        if let Some(account) = &new.assignee {
            set("assignee", json!({ self.account_key(): account }));
        }
        let body = json!({ "fields": fields });
        let path = self.path("issue");
        let answer = self.wire.write(Method::POST, &path, &body, Effect::Once).await?;
        match serde_json::from_slice::<Created>(&answer) {
            Ok(created) if is_key(&created.key) => Ok(self.issue(created.key)),
            _ => Err(JiraError::Unknown {
                detail: "Jira answered without a readable issue key".into(),
            }),
        }
    }

    /// The oldest ticket that bears the label. Cloud's search lags behind by seconds to minutes:
    /// there, `None` shortly after a write is no proof.
    pub async fn find_by_label(&self, label: &str) -> Result<Option<Issue>, JiraError> {
        check_label(label)?;
        let found = match self.dialect {
            Dialect::DataCenter => data_center::find_by_label(&self.wire, label).await?,
            Dialect::Cloud => cloud::find_by_label(&self.wire, label).await?,
        };
        Ok(found.map(|key| self.issue(key)))
    }

    /// Adds a comment. Repeated, it is there twice.
    pub async fn comment(&self, key: &str, text: &Body) -> Result<(), JiraError> {
        check_key(key)?;
        let path = self.path(&format!("issue/{key}/comment"));
        let body = json!({ "body": self.text(text) });
        self.wire.write(Method::POST, &path, &body, Effect::Once).await.map(drop)
    }

    /// Changes fields of a ticket. Doing it twice is the same as once.
    pub async fn update(&self, key: &str, change: &IssueChange) -> Result<(), JiraError> {
        check_key(key)?;
        change.add_labels.iter().try_for_each(|label| check_label(label))?;
        let mut body = json!({});
        if let Some(summary) = &change.summary {
            body["fields"]["summary"] = cut_summary(summary).into();
        }
        if let Some(text) = &change.body {
            body["fields"]["description"] = self.text(text);
        }
        if !change.add_labels.is_empty() {
            let add = change.add_labels.iter().map(|label| json!({ "add": label }));
            body["update"]["labels"] = add.collect();
        }
        let path = self.path(&format!("issue/{key}"));
        self.wire.write(Method::PUT, &path, &body, Effect::Repeatable).await.map(drop)
    }

    /// Takes the ticket through the transition of that name, in whatever case; `false` when the
    /// workflow does not offer it in the ticket's state. After [`JiraError::Unknown`] ask
    /// [`Site::states`].
    pub async fn transition(&self, key: &str, name: &str) -> Result<bool, JiraError> {
        check_key(key)?;
        let path = self.path(&format!("issue/{key}/transitions"));
        let offered: Transitions = self.wire.get(&path, &[]).await?;
        let wanted = name.trim().to_lowercase();
        let found = offered.transitions.iter().find(|one| one.name.trim().to_lowercase() == wanted);
        let Some(found) = found else { return Ok(false) };
        let body = json!({ "transition": { "id": found.id } });
        self.wire.write(Method::POST, &path, &body, Effect::Once).await?;
        Ok(true)
    }

    /// Makes the account a watcher. Doing it twice is the same as once.
    pub async fn add_watcher(&self, key: &str, account: &str) -> Result<(), JiraError> {
        check_key(key)?;
        let path = self.path(&format!("issue/{key}/watchers"));
        let account = Value::from(account);
        self.wire.write(Method::POST, &path, &account, Effect::Repeatable).await.map(drop)
    }

    /// Returns whether the account exists and is active, so that a mention of it reaches somebody.
    pub async fn knows_account(&self, account: &str) -> Result<bool, JiraError> {
        let (fits, key) = match self.dialect {
            Dialect::DataCenter => (wiki::is_account(account), "username"),
            Dialect::Cloud => (adf::is_account(account), "accountId"),
        };
        if !fits {
            return Ok(false);
        }
        match self.wire.get::<User>(&self.path("user"), &[(key, account)]).await {
            Ok(user) => Ok(user.active),
            Err(JiraError::Rejected { status: Some(404), .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// States of the tickets, in pages. A ticket that is not among them is not there any more, or
    /// not for us.
    pub async fn states(&self, keys: &[String]) -> Result<Vec<IssueState>, JiraError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        match self.dialect {
            Dialect::DataCenter => data_center::states(&self.wire, keys).await,
            Dialect::Cloud => cloud::states(&self.wire, keys).await,
        }
    }

    fn path(&self, resource: &str) -> String {
        match self.dialect {
            Dialect::DataCenter => format!("rest/api/2/{resource}"),
            Dialect::Cloud => format!("rest/api/3/{resource}"),
        }
    }

    fn text(&self, body: &Body) -> Value {
        match self.dialect {
            Dialect::DataCenter => wiki::text(body.blocks()).into(),
            Dialect::Cloud => adf::document(body.blocks()),
        }
    }

    fn account_key(&self) -> &'static str {
        match self.dialect {
            Dialect::DataCenter => "name",
            Dialect::Cloud => "accountId",
        }
    }

    fn issue(&self, key: String) -> Issue {
        Issue { url: self.wire.url(&format!("browse/{key}")).into(), key }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::check::base_url;
    use super::*;
    use metalbot_sim::jira::{JiraFault, SimJira, SimJiraSite};

    const TOKEN: &str = "s3cret-token";

    async fn start() -> SimJira {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        SimJira::start(listener, TOKEN).unwrap()
    }

    fn settings(url: &str) -> SiteSettings {
        SiteSettings {
            name: "default".into(),
            url: url.into(),
            dialect: Dialect::DataCenter,
            auth: Auth::Bearer(SecretString::from(TOKEN)),
            timeout: Duration::from_millis(800),
            proxy: None,
        }
    }

    fn client(settings: SiteSettings) -> Site {
        // A second call finds the provider of the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Site::new(settings, reqwest::Client::builder().no_proxy()).unwrap()
    }

    fn new_issue() -> NewIssue {
        NewIssue {
            project: "OPS".into(),
            issue_type: "Incident".into(),
            summary: "reboot failed".into(),
            body: Body::markdown("### What\n- it"),
            labels: ["metalbot", "fra1", "metalbot", "metalbot-0a1b"].map(String::from).into(),
            components: Vec::new(),
            priority: None,
            assignee: None,
            fields: Map::new(),
        }
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> JiraFault {
        let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        JiraFault::Answer { status, headers, body: body.into() }
    }

    #[tokio::test]
    async fn a_ticket_is_filed_found_commented_and_watched() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        assert_eq!(jira.find_by_label("metalbot-0a1b").await, Ok(None));
        let issue = jira.create(&new_issue()).await.unwrap();
        assert_eq!(issue.key, "OPS-1");
        assert_eq!(issue.url, format!("{}browse/OPS-1", sim.url()));
        jira.create(&new_issue()).await.unwrap();
        assert_eq!(jira.find_by_label("metalbot-0a1b").await, Ok(Some(issue)));
        assert_eq!(jira.find_by_label("other").await, Ok(None));
        jira.comment("OPS-1", &Body::markdown("it is [A](<mention:alice>)")).await.unwrap();
        jira.add_watcher("OPS-1", "alice").await.unwrap();
        jira.add_watcher("OPS-1", "alice").await.unwrap();
        let ticket = &sim.issues()[0];
        assert_eq!(ticket.labels, ["metalbot", "fra1", "metalbot-0a1b"]);
        assert_eq!(ticket.comments, ["it is [~alice]"]);
        assert_eq!(ticket.watchers.len(), 1);
        let requests = sim.requests();
        assert_eq!((requests["create"], requests["search"], requests["watch"]), (2, 3, 2));
        sim.stop().await;
    }

    #[tokio::test]
    async fn pages_show_tickets_and_no_foreign_tags() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        let mut new = new_issue();
        new.summary = "<script>x</script>".into();
        let issue = jira.create(&new).await.unwrap();
        jira.comment("OPS-1", &Body::markdown("<i>**seen**</i>")).await.unwrap();
        let get = async |url: String| reqwest::get(url).await.unwrap().text().await.unwrap();
        let page = get(issue.url).await;
        assert!(page.contains("<h3>What</h3>") && page.contains("<strong>seen</strong>"), "{page}");
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
        let list = get(sim.url()).await;
        assert!(list.contains("<a href=\"/browse/OPS-1\">OPS-1</a>"), "{list}");
    }

    #[tokio::test]
    async fn long_texts_are_cut_to_what_jira_takes() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        let mut new = new_issue();
        new.summary = format!("a\nb {}", "🦀".repeat(300));
        new.body = Body::markdown("line \\[\\\n".repeat(5000));
        jira.create(&new).await.unwrap();
        new.summary = " \n".into();
        new.body = Body::markdown("\\[".repeat(9000));
        jira.create(&new).await.unwrap();
        let tickets = sim.issues();
        assert!(tickets[0].summary.starts_with("a b 🦀") && tickets[0].summary.ends_with('…'));
        let note = "\n\n&#40;The rest was too long for Jira.&#41;";
        assert!(tickets.iter().all(|ticket| ticket.description.ends_with(note)));
        assert!(tickets[0].description.encode_utf16().count() > MAX_TEXT - 20);
        assert_eq!(tickets[1].summary, "(no summary)");
        assert!(tickets[1].description.contains("&#91;…\n\n"));
    }

    #[tokio::test]
    async fn what_was_not_taken_is_transient() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        sim.set_down(true);
        let error = jira.create(&new_issue()).await.unwrap_err();
        assert!(matches!(error, JiraError::Transient { retry_after: None, .. }), "{error:?}");
        sim.set_down(false);
        sim.fault_next(answer(429, &[("retry-after", "7")], ""));
        let error = jira.create(&new_issue()).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        for status in [500, 502, 504] {
            sim.fault_next(answer(status, &[], "<html>proxy</html>"));
            let error = jira.find_by_label("x").await.unwrap_err();
            assert!(matches!(error, JiraError::Transient { .. }), "{error:?}");
        }
        sim.fault_next(answer(200, &[], "<html>log in</html>"));
        let error = jira.find_by_label("x").await.unwrap_err();
        assert!(matches!(error, JiraError::Transient { .. }), "{error:?}");
        assert!(sim.issues().is_empty());
        let url = sim.url();
        sim.stop().await;
        let error = client(settings(&url)).create(&new_issue()).await.unwrap_err();
        assert!(matches!(error, JiraError::Transient { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_refusal_shows_jiras_reasons() {
        let sim = start().await;
        let wrong = NewIssue { issue_type: "Nonsense".into(), ..new_issue() };
        let jira = client(settings(&sim.url()));
        let error = jira.create(&wrong).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "Jira refused it: 400 Bad Request: issuetype: The issue type selected is invalid."
        );
        let stranger = SiteSettings {
            auth: Auth::Bearer(SecretString::from("wrong")),
            ..settings(&sim.url())
        };
        let error = client(stranger).create(&new_issue()).await.unwrap_err();
        assert!(
            matches!(&error, JiraError::Rejected { status: Some(401), .. })
                && error.is_about_access()
        );
        let error = jira.comment("OPS-9", &Body::markdown("x")).await.unwrap_err();
        assert!(error.to_string().contains("Issue Does Not Exist"), "{error}");
        sim.fault_next(answer(302, &[("location", "http://127.0.0.1:1/")], ""));
        let error = jira.create(&new_issue()).await.unwrap_err();
        assert!(error.is_about_access() && error.to_string().contains("redirects"), "{error}");
    }

    #[tokio::test]
    async fn an_unknown_watcher_is_a_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site =
            SimJiraSite { people: Some(vec!["alice".into()]), ..SimJiraSite::with_token(TOKEN) };
        let sim = SimJira::start_site(listener, site).unwrap();
        let jira = client(settings(&sim.url()));
        jira.create(&new_issue()).await.unwrap();
        assert_eq!(jira.add_watcher("OPS-1", "alice").await, Ok(()));
        let error = jira.add_watcher("OPS-1", "nobody").await.unwrap_err();
        assert!(error.to_string().contains("\"nobody\" does not exist"), "{error}");
    }

    #[tokio::test]
    async fn a_lost_reply_is_unknown_and_settled_by_the_label() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        sim.lose_next_reply(1);
        let error = jira.create(&new_issue()).await.unwrap_err();
        assert!(matches!(error, JiraError::Unknown { .. }), "{error:?}");
        let found = jira.find_by_label("metalbot-0a1b").await.unwrap().unwrap();
        assert_eq!(found.key, "OPS-1");
        let started = Instant::now();
        sim.fault_next(JiraFault::HangReply);
        let error = jira.create(&new_issue()).await.unwrap_err();
        assert!(matches!(&error, JiraError::Unknown { detail } if detail.contains("timed out")));
        assert!(started.elapsed() < Duration::from_secs(3));
        assert_eq!(sim.issues().len(), 2);
        sim.fault_next(JiraFault::HangReply);
        let error = jira.find_by_label("x").await.unwrap_err();
        assert!(matches!(error, JiraError::Transient { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_write_with_a_bad_answer_is_unknown() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        for fault in [
            answer(500, &[], ""),
            answer(502, &[], "<html>"),
            answer(504, &[], ""),
            answer(201, &[], "<html>"),
            answer(201, &[], r#"{"key":"../../x"}"#),
            answer(201, &[], vec![b' '; MAX_BODY + 1]),
        ] {
            sim.fault_next(fault.clone());
            let error = jira.create(&new_issue()).await.unwrap_err();
            assert!(matches!(error, JiraError::Unknown { .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn no_error_holds_the_token_or_a_flood() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        let long = format!("{}{TOKEN} {TOKEN}\u{1b}[31m", "a ".repeat(495));
        sim.fault_next(answer(400, &[], json!({ "errorMessages": [long] }).to_string()));
        let error = jira.create(&new_issue()).await.unwrap_err().to_string();
        assert!(
            !error.contains("s3cr") && !error.contains('\u{1b}') && error.len() < 1100,
            "{error}"
        );
        assert!(!format!("{jira:?}").contains(TOKEN));
    }

    #[tokio::test]
    async fn a_search_that_ignores_the_query_proves_nothing() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        let body = r#"{"issues":[{"key":"OPS-7","fields":{"labels":["other"]}}]}"#;
        sim.fault_next(answer(200, &[], body));
        assert!(matches!(jira.find_by_label("x").await, Err(JiraError::Transient { .. })));
    }

    #[tokio::test]
    async fn what_could_leave_its_place_is_not_sent() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        for label in ["", "a b", "x\" OR \"1", "é", "a/b"] {
            assert!(matches!(jira.find_by_label(label).await, Err(JiraError::Rejected { .. })));
        }
        for key in ["", "OPS", "../x", "OPS-1/../..", "ops-1", "OPS-1?x"] {
            assert!(matches!(
                jira.comment(key, &Body::markdown("x")).await,
                Err(JiraError::Rejected { .. })
            ));
        }
        assert!(sim.requests().is_empty());
    }

    #[test]
    fn base_addresses() {
        let jira = client(settings("https://host.example/jira"));
        assert_eq!(
            jira.wire.url("rest/api/2/issue").as_str(),
            "https://host.example/jira/rest/api/2/issue"
        );
        assert_eq!(jira.issue("OPS-1".into()).url, "https://host.example/jira/browse/OPS-1");
        for wrong in ["", "host", "ftp://h/", "https://u:p@h/", "https://h/?a", "https://h/#a"] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
    }
}
