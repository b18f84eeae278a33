//! A small client for Jira Data Center's REST API, version 2.
//!
//! Invariants: creating an issue is not idempotent, so every error says by its variant whether the
//! issue may exist; no call waits longer than its timeout or reads more than [`MAX_BODY`]; the
//! token is in no error, log line or URL; redirects are not followed, so it goes to one host only.
//!
//! Source: Jira Data Center REST API reference, resources `issue`, `search`, `watchers`.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::domain::secret::Secret;

/// Longest summary that Jira takes, in UTF-16 units as its Java counts them.
pub const MAX_SUMMARY: usize = 255;
/// Longest description or comment that Jira takes by default, in UTF-16 units.
pub const MAX_TEXT: usize = 32_767;
/// Most bytes read of one answer.
pub const MAX_BODY: usize = 1 << 20;
/// Longest wait that a `Retry-After` header can ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Which Jira, as whom, and what every ticket has in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Base address, with a path prefix where Jira has one: `https://host/jira/`.
    pub url: String,
    /// Personal access token.
    pub token: Secret,
    /// Project key, such as `OPS`.
    pub project: String,
    /// Issue type by name, such as `Incident`.
    pub issue_type: String,
    /// Labels of every ticket.
    pub labels: Vec<String>,
    /// Longest time one call may take, connecting included.
    pub timeout: Duration,
}

/// A ticket to be filed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewIssue {
    /// Plain text in one line; cut to [`MAX_SUMMARY`].
    pub summary: String,
    /// Wiki text; cut to [`MAX_TEXT`] at a line.
    pub description: String,
    /// Labels beside those of [`Settings`].
    pub labels: Vec<String>,
    /// Label that no other ticket has, by which [`Jira::find_by_label`] settles a doubt.
    pub fingerprint_label: String,
}

/// A ticket that exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issue {
    /// Such as `OPS-12`.
    pub key: String,
    /// Page for people.
    pub url: String,
}

/// Why a call failed. Messages are for operators and never hold the token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JiraError {
    /// Nothing was written; the same call may be repeated, after the given time where Jira said so.
    #[error("Jira cannot take it now: {detail}")]
    Transient { retry_after: Option<Duration>, detail: String },
    /// Jira understood and refuses, or we would not ask; repeating cannot help.
    #[error("Jira refused it: {detail}")]
    Rejected { detail: String },
    /// It may or may not have been written: look before repeating.
    #[error("it is unknown whether Jira did it: {detail}")]
    Unknown { detail: String },
}

impl JiraError {
    /// How long Jira asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            JiraError::Transient { retry_after, .. } => *retry_after,
            JiraError::Rejected { .. } | JiraError::Unknown { .. } => None,
        }
    }

    fn rejected(detail: impl Into<String>) -> Self {
        JiraError::Rejected { detail: detail.into() }
    }
}

/// A connection to one Jira project. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Jira {
    http: Client,
    base: Url,
    settings: Settings,
}

/// Whether a call leaves the world the same when it is repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Repeatable,
    Once,
}

/// A complete answer.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    /// `None` when the body broke off or was longer than [`MAX_BODY`].
    body: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct Created {
    key: String,
}

#[derive(Deserialize)]
struct Found {
    issues: Vec<FoundIssue>,
}

#[derive(Deserialize)]
struct FoundIssue {
    key: String,
    fields: FoundFields,
}

#[derive(Deserialize)]
struct FoundFields {
    labels: Vec<String>,
}

impl Jira {
    /// Checks the settings and prepares the client; sends nothing. The process must have installed
    /// a rustls crypto provider before.
    pub fn new(settings: Settings) -> Result<Jira, JiraError> {
        let base = base_url(&settings.url)?;
        if !is_project(&settings.project) {
            return Err(JiraError::rejected(format!(
                "project {:?} is not a project key such as OPS",
                settings.project
            )));
        }
        if settings.issue_type.trim().is_empty() {
            return Err(JiraError::rejected("the issue type is empty"));
        }
        settings.labels.iter().try_for_each(|label| check_label(label))?;
        if settings.timeout.is_zero() {
            return Err(JiraError::rejected("the timeout is zero"));
        }
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", settings.token.expose()))
            .map_err(|_| JiraError::rejected("the token holds characters no header can carry"))?;
        bearer.set_sensitive(true);
        let mut client = Client::builder()
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .user_agent(concat!("metalbot/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .timeout(settings.timeout)
            // Shorter than the whole, so that a silent address is known as never reached.
            .connect_timeout(settings.timeout / 2);
        if is_loopback(&base) {
            client = client.no_proxy();
        }
        let http = client.build().map_err(|e| JiraError::rejected(cause(&e)))?;
        Ok(Jira { http, base, settings })
    }

    /// Files a ticket. After [`JiraError::Unknown`] it may exist: ask [`Jira::find_by_label`].
    pub async fn create(&self, new: &NewIssue) -> Result<Issue, JiraError> {
        check_label(&new.fingerprint_label)?;
        new.labels.iter().try_for_each(|label| check_label(label))?;
        let mut labels: Vec<&String> = Vec::new();
        for label in self.settings.labels.iter().chain(&new.labels).chain([&new.fingerprint_label])
        {
            if !labels.contains(&label) {
                labels.push(label);
            }
        }
        let body = json!({ "fields": {
            "project": { "key": self.settings.project },
            "issuetype": { "name": self.settings.issue_type },
            "summary": cut_summary(&new.summary),
            "description": cut_text(&new.description),
            "labels": labels,
        }});
        let request = self.http.post(self.url("rest/api/2/issue")).json(&body);
        let answer = self.call(request, Effect::Once).await?;
        let created =
            answer.body.as_deref().and_then(|b| serde_json::from_slice::<Created>(b).ok());
        match created {
            Some(created) if is_key(&created.key) => Ok(self.issue(created.key)),
            _ => Err(JiraError::Unknown {
                detail: format!("Jira answered {} without a readable issue key", answer.status),
            }),
        }
    }

    /// The oldest ticket of our project that bears the label.
    pub async fn find_by_label(&self, label: &str) -> Result<Option<Issue>, JiraError> {
        check_label(label)?;
        let jql = format!("project = \"{}\" AND labels = \"{label}\"", self.settings.project);
        let query = [("jql", jql.as_str()), ("fields", "labels"), ("maxResults", "50")];
        let request = self.http.get(self.url("rest/api/2/search")).query(&query);
        let answer = self.call(request, Effect::Repeatable).await?;
        let found = answer.body.as_deref().and_then(|b| serde_json::from_slice::<Found>(b).ok());
        let Some(found) = found else {
            let detail = format!("the answer {} to a search is not readable", answer.status);
            return Err(JiraError::Transient { retry_after: None, detail });
        };
        let all = found.issues.len();
        let oldest = found
            .issues
            .into_iter()
            .filter(|i| is_key(&i.key) && i.fields.labels.iter().any(|l| l == label))
            .min_by_key(|i| issue_number(&i.key));
        // Some servers answer a query that they do not understand with every issue: that is no
        // proof of absence.
        if oldest.is_none() && all > 0 {
            return Err(JiraError::rejected("the search found issues without the label"));
        }
        Ok(oldest.map(|i| self.issue(i.key)))
    }

    /// Adds a comment of wiki text, cut to [`MAX_TEXT`].
    pub async fn comment(&self, key: &str, text: &str) -> Result<(), JiraError> {
        check_key(key)?;
        let url = self.url(&format!("rest/api/2/issue/{key}/comment"));
        let request = self.http.post(url).json(&json!({ "body": cut_text(text) }));
        self.call(request, Effect::Once).await.map(drop)
    }

    /// Makes the account a watcher. Doing it twice is the same as once.
    pub async fn add_watcher(&self, key: &str, account: &str) -> Result<(), JiraError> {
        check_key(key)?;
        let url = self.url(&format!("rest/api/2/issue/{key}/watchers"));
        self.call(self.http.post(url).json(account), Effect::Repeatable).await.map(drop)
    }

    fn url(&self, path: &str) -> Url {
        self.base.join(path).expect("a relative path of plain ASCII joins any base address")
    }

    fn issue(&self, key: String) -> Issue {
        Issue { url: self.url(&format!("browse/{key}")).into(), key }
    }

    /// Sends one request and returns its answer when the status is a success.
    async fn call(&self, request: RequestBuilder, effect: Effect) -> Result<Answer, JiraError> {
        let result = match request.send().await {
            Ok(response) => judge(read(response).await, effect),
            Err(error) => Err(unsent(&error, effect)),
        };
        result.map_err(|error| self.redact(error))
    }

    /// Jira's texts are foreign: one that repeats our token must not pass it on.
    fn redact(&self, mut error: JiraError) -> JiraError {
        let (JiraError::Transient { detail, .. }
        | JiraError::Rejected { detail }
        | JiraError::Unknown { detail }) = &mut error;
        let token = self.settings.token.expose();
        if !token.is_empty() && detail.contains(token) {
            *detail = detail.replace(token, "(token)");
        }
        // Cut only now: half a token would not be found.
        *detail = cut(&one_line(detail), 1000);
        error
    }
}

/// What a request without an answer means.
fn unsent(error: &reqwest::Error, effect: Effect) -> JiraError {
    let detail = cause(error);
    if error.is_builder() {
        JiraError::Rejected { detail }
    } else if error.is_connect() || effect == Effect::Repeatable {
        JiraError::Transient { retry_after: None, detail }
    } else {
        JiraError::Unknown { detail }
    }
}

/// What an answer means by its status.
fn judge(answer: Answer, effect: Effect) -> Result<Answer, JiraError> {
    let status = answer.status;
    if status.is_success() {
        return Ok(answer);
    }
    let said = answer.body.as_deref().map(explain).unwrap_or_default();
    let detail = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    let retry_after = answer.retry_after;
    // 408, 429 and 503 say that the request was not taken on. Behind any other 5xx, a gateway's
    // timeout above all, the write may have happened.
    let not_taken = matches!(status.as_u16(), 408 | 429 | 503);
    if not_taken || (status.is_server_error() && effect == Effect::Repeatable) {
        Err(JiraError::Transient { retry_after, detail })
    } else if status.is_server_error() {
        Err(JiraError::Unknown { detail })
    } else if status.is_redirection() {
        Err(JiraError::rejected(format!("{detail}: the address redirects; configure the real one")))
    } else {
        Err(JiraError::Rejected { detail })
    }
}

#[expect(clippy::disallowed_methods, reason = "Retry-After may be a date of the wall clock")]
async fn read(mut response: Response) -> Answer {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| parse_retry_after(v, OffsetDateTime::now_utc()));
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_BODY => {
                body.extend_from_slice(&chunk)
            }
            Ok(None) => return Answer { status, retry_after, body: Some(body) },
            Ok(Some(_)) | Err(_) => return Answer { status, retry_after, body: None },
        }
    }
}

/// Seconds or an HTTP date, RFC 9110 section 10.2.3.
fn parse_retry_after(text: &str, now: OffsetDateTime) -> Option<Duration> {
    let wait = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = OffsetDateTime::parse(text.trim(), &Rfc2822).ok()?;
            Duration::try_from(until - now).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Jira's `errorMessages` and `errors`, or nothing when the body is not Jira's own.
fn explain(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return String::new() };
    let messages = body["errorMessages"].as_array().into_iter().flatten();
    let mut parts: Vec<String> = messages.filter_map(Value::as_str).map(String::from).collect();
    for (field, message) in body["errors"].as_object().into_iter().flatten() {
        let message = message.as_str().map_or_else(|| message.to_string(), String::from);
        parts.push(format!("{field}: {message}"));
    }
    if let Some(message) = body["message"].as_str() {
        parts.push(message.into());
    }
    parts.join("; ")
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

fn base_url(text: &str) -> Result<Url, JiraError> {
    let wrong = |why: &str| JiraError::rejected(format!("the address of Jira {why}"));
    let mut base = Url::parse(text).map_err(|e| wrong(&format!("is not a URL: {e}")))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(wrong("must begin with https:// or http://"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(wrong("must not hold a user name or password"));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(wrong("must not hold ? or #"));
    }
    if !base.path().ends_with('/') {
        let path = format!("{}/", base.path());
        base.set_path(&path);
    }
    Ok(base)
}

fn is_loopback(base: &Url) -> bool {
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A label of our own alphabet: it cannot leave a quoted JQL string, and Jira takes it as it is.
pub fn check_label(label: &str) -> Result<(), JiraError> {
    let ours = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !label.is_empty() && label.len() <= 255 && label.chars().all(ours) {
        Ok(())
    } else {
        Err(JiraError::rejected(format!(
            "label {:?} may hold only letters, digits and - _ . (at most 255)",
            cut(label, 60)
        )))
    }
}

fn is_project(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_uppercase())
        && key.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

fn is_key(key: &str) -> bool {
    key.rsplit_once('-').is_some_and(|(project, number)| {
        is_project(project)
            && (1..=18).contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

fn check_key(key: &str) -> Result<(), JiraError> {
    if is_key(key) {
        Ok(())
    } else {
        Err(JiraError::rejected(format!("{:?} is not an issue key such as OPS-1", cut(key, 60))))
    }
}

fn issue_number(key: &str) -> u64 {
    key.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
}

fn one_line(text: &str) -> String {
    let spaced = text.replace(|c: char| c.is_control(), " ");
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most `limit` UTF-16 units; the last one is an ellipsis when something was cut off.
fn cut(text: &str, limit: usize) -> String {
    if text.encode_utf16().count() <= limit {
        return text.into();
    }
    let mut units = 1;
    let fits = |c: &char| {
        units += c.len_utf16();
        units <= limit
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// A summary is one line that is never empty: Jira refuses both others.
fn cut_summary(text: &str) -> String {
    let line = cut(&one_line(text), MAX_SUMMARY);
    if line.is_empty() { "(no summary)".into() } else { line }
}

/// Cuts at a line where there is one near, so that no marker or character reference is split.
fn cut_text(text: &str) -> String {
    const NOTE: &str = "\n\n(The rest was too long for Jira.)";
    if text.encode_utf16().count() <= MAX_TEXT {
        return text.into();
    }
    let head = cut(text, MAX_TEXT - NOTE.len());
    let end = head.rfind('\n').filter(|end| *end > head.len() / 2).unwrap_or_else(|| {
        let tail = head.rfind('&').filter(|at| head.len() - at < 12 && !head[*at..].contains(';'));
        tail.unwrap_or(head.len())
    });
    format!("{}{NOTE}", &head[..end])
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::*;
    use crate::sim::jira::{Fault, SimJira, Site};

    const TOKEN: &str = "s3cret-token";

    async fn start() -> SimJira {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        SimJira::start(listener, TOKEN).unwrap()
    }

    fn settings(url: &str) -> Settings {
        Settings {
            url: url.into(),
            token: Secret::new(TOKEN),
            project: "OPS".into(),
            issue_type: "Incident".into(),
            labels: vec!["metalbot".into()],
            timeout: Duration::from_millis(800),
        }
    }

    fn client(settings: Settings) -> Jira {
        // A second install fails; either way there is a provider then.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Jira::new(settings).unwrap()
    }

    fn new_issue() -> NewIssue {
        NewIssue {
            summary: "reboot failed".into(),
            description: "h3. What\n* it".into(),
            labels: vec!["fra1".into(), "metalbot".into()],
            fingerprint_label: "metalbot-0a1b".into(),
        }
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Fault {
        let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        Fault::Answer { status, headers, body: body.into() }
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
        jira.comment("OPS-1", "it is [~alice]").await.unwrap();
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
        jira.comment("OPS-1", "<i>*seen*</i>").await.unwrap();
        let get =
            async |url: String| jira.http.get(url).send().await.unwrap().text().await.unwrap();
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
        new.description = "line &#91;\n".repeat(5000);
        jira.create(&new).await.unwrap();
        new.summary = " \n".into();
        new.description = "&#91;".repeat(9000);
        jira.create(&new).await.unwrap();
        let tickets = sim.issues();
        assert!(tickets[0].summary.starts_with("a b 🦀") && tickets[0].summary.ends_with('…'));
        assert!(tickets[0].description.contains("&#91;\n\n(The rest"));
        assert_eq!(tickets[1].summary, "(no summary)");
        assert!(tickets[1].description.contains(";\n\n(The rest"));
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
        let wrong = Settings { issue_type: "Nonsense".into(), ..settings(&sim.url()) };
        let error = client(wrong).create(&new_issue()).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "Jira refused it: 400 Bad Request: issuetype: The issue type selected is invalid."
        );
        let stranger = Settings { token: Secret::new("wrong"), ..settings(&sim.url()) };
        let error = client(stranger).create(&new_issue()).await.unwrap_err();
        assert!(matches!(&error, JiraError::Rejected { detail } if detail.contains("401")));
        let jira = client(settings(&sim.url()));
        let error = jira.comment("OPS-9", "x").await.unwrap_err();
        assert!(error.to_string().contains("Issue Does Not Exist"), "{error}");
        sim.fault_next(answer(302, &[("location", "http://127.0.0.1:1/")], ""));
        let error = jira.create(&new_issue()).await.unwrap_err();
        assert!(matches!(&error, JiraError::Rejected { detail } if detail.contains("redirects")));
    }

    #[tokio::test]
    async fn an_unknown_watcher_is_a_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Site { people: Some(vec!["alice".into()]), ..Site::with_token(TOKEN) };
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
        sim.fault_next(Fault::HangReply);
        let error = jira.create(&new_issue()).await.unwrap_err();
        assert!(matches!(&error, JiraError::Unknown { detail } if detail.contains("timed out")));
        assert!(started.elapsed() < Duration::from_secs(3));
        assert_eq!(sim.issues().len(), 2);
        sim.fault_next(Fault::HangReply);
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
        assert!(matches!(jira.find_by_label("x").await, Err(JiraError::Rejected { .. })));
    }

    #[tokio::test]
    async fn what_could_leave_its_place_is_not_sent() {
        let sim = start().await;
        let jira = client(settings(&sim.url()));
        for label in ["", "a b", "x\" OR \"1", "é", "a/b"] {
            assert!(matches!(jira.find_by_label(label).await, Err(JiraError::Rejected { .. })));
        }
        for key in ["", "OPS", "../x", "OPS-1/../..", "ops-1", "OPS-1?x"] {
            assert!(matches!(jira.comment(key, "x").await, Err(JiraError::Rejected { .. })));
        }
        assert!(sim.requests().is_empty());
    }

    #[test]
    fn base_addresses() {
        let jira = client(settings("https://host.example/jira"));
        assert_eq!(
            jira.url("rest/api/2/issue").as_str(),
            "https://host.example/jira/rest/api/2/issue"
        );
        assert_eq!(jira.issue("OPS-1".into()).url, "https://host.example/jira/browse/OPS-1");
        for wrong in ["", "host", "ftp://h/", "https://u:p@h/", "https://h/?a", "https://h/#a"] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
        let wrong = Settings { project: "ops".into(), ..settings("https://h/") };
        assert!(Jira::new(wrong).is_err());
        let wrong = Settings { labels: vec!["a b".into()], ..settings("https://h/") };
        assert!(Jira::new(wrong).is_err());
    }

    #[test]
    fn waits_are_read_as_seconds_or_dates() {
        let now = time::macros::datetime!(2015-10-21 07:27:00 UTC);
        let wait = |text| parse_retry_after(text, now);
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:26:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(wait("soon"), None);
    }
}
