//! The client against both kinds of Jira: what it writes and reads, and what it makes of a site
//! that misbehaves.

use std::time::Duration;

use metalbot_jira::{
    Auth, Body, Category, Dialect, IssueChange, JiraError, NewIssue, Site, SiteSettings, mention,
};
use metalbot_sim::jira::{JiraFault, SimJira, SimJiraSite};
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

const USER: &str = "metalbot@example.com";
const TOKEN: &str = "s3cret-token";
const LABEL: &str = "metalbot-0a1b";

pub fn settings(url: &str, dialect: Dialect) -> SiteSettings {
    let auth = match dialect {
        Dialect::DataCenter => Auth::Bearer(SecretString::from(TOKEN)),
        Dialect::Cloud => Auth::Basic { user: USER.into(), password: SecretString::from(TOKEN) },
    };
    let timeout = Duration::from_secs(30);
    SiteSettings { name: "test".into(), url: url.into(), dialect, auth, timeout, proxy: None }
}

pub fn client(settings: SiteSettings) -> Site {
    metalbot::use_ring();
    Site::new(settings, reqwest::Client::builder().no_proxy()).unwrap()
}

async fn sim(site: SimJiraSite) -> SimJira {
    SimJira::start_site(TcpListener::bind("127.0.0.1:0").await.unwrap(), site).unwrap()
}

async fn start(dialect: Dialect) -> (SimJira, Site) {
    let sim = match dialect {
        Dialect::DataCenter => sim(SimJiraSite::with_token(TOKEN)).await,
        Dialect::Cloud => sim(SimJiraSite::cloud(USER, TOKEN)).await,
    };
    let site = client(settings(&sim.url(), dialect));
    (sim, site)
}

pub fn new_issue() -> NewIssue {
    NewIssue {
        project: "OPS".into(),
        issue_type: "Incident".into(),
        summary: "reboot failed on web[01-02]".into(),
        body: Body::markdown(format!("### What\n- {} asked", mention("5b10:al-1", "Alice"))),
        labels: vec!["metalbot".into(), LABEL.into()],
        components: Vec::new(),
        priority: None,
        assignee: None,
        fields: Map::new(),
    }
}

const BOTH: [Dialect; 2] = [Dialect::DataCenter, Dialect::Cloud];

#[tokio::test]
async fn a_ticket_lives_on_both() {
    for dialect in BOTH {
        let (sim, jira) = start(dialect).await;
        assert_eq!(jira.find_by_label(LABEL).await, Ok(None));
        let issue = jira
            .create(&NewIssue {
                components: vec!["Power".into()],
                priority: Some("High".into()),
                assignee: Some("tess".into()),
                fields: Map::from_iter([("customfield_10010".to_owned(), json!("r12"))]),
                ..new_issue()
            })
            .await
            .unwrap();
        assert_eq!(issue.key, "OPS-1");
        assert_eq!(issue.url, format!("{}browse/OPS-1", sim.url()));
        // The oldest of several.
        jira.create(&new_issue()).await.unwrap();
        assert_eq!(jira.find_by_label(LABEL).await, Ok(Some(issue)));
        let change = IssueChange {
            summary: Some("reboot failed on web[01-03]".into()),
            body: Some(Body::markdown("**three**")),
            add_labels: vec!["rack-r12".into()],
        };
        jira.update("OPS-1", &change).await.unwrap();
        jira.update("OPS-1", &change).await.unwrap();
        jira.comment("OPS-1", &Body::markdown("one more")).await.unwrap();
        jira.add_watcher("OPS-1", "al").await.unwrap();
        jira.add_watcher("OPS-1", "al").await.unwrap();
        let ticket = &sim.issues()[0];
        assert_eq!(ticket.summary, "reboot failed on web[01-03]");
        assert_eq!(ticket.labels, ["metalbot", LABEL, "rack-r12"]);
        assert_eq!(ticket.components, ["Power"]);
        assert_eq!(ticket.priority.as_deref(), Some("High"));
        assert_eq!(ticket.assignee.as_deref(), Some("tess"));
        assert_eq!(ticket.fields["customfield_10010"], "r12");
        assert_eq!(ticket.watchers.iter().collect::<Vec<_>>(), ["al"]);
        assert_eq!(ticket.comments.len(), 1);
        // The second ticket kept the body of its create.
        let body = &sim.issues()[1].description;
        match dialect {
            Dialect::DataCenter => {
                assert_eq!(ticket.description, "*three*");
                assert_eq!(body, "h3. What\n* Alice asked", "a colon is in no user name");
            }
            Dialect::Cloud => {
                let body: Value = serde_json::from_str(body).unwrap();
                let item = &body["content"][1]["content"][0]["content"][0]["content"];
                let attrs = json!({ "id": "5b10:al-1", "text": "@Alice" });
                assert_eq!(item[0], json!({ "type": "mention", "attrs": attrs }));
            }
        }
        sim.stop().await;
    }
}

#[tokio::test]
async fn a_ticket_is_closed_and_reopened_by_name() {
    for dialect in BOTH {
        let (sim, jira) = start(dialect).await;
        jira.create(&new_issue()).await.unwrap();
        let state = async || jira.states(&["OPS-1".into()]).await.unwrap().remove(0);
        let new = state().await;
        assert_eq!((new.category, &*new.status, new.resolution), (Category::New, "Open", None));
        assert_eq!(jira.transition("OPS-1", "reopen").await, Ok(false));
        assert_eq!(jira.transition("OPS-1", " start PROGRESS").await, Ok(true));
        assert!(sim.change_ticket("OPS-1", |ticket| ticket.assignee = Some("tess.t".into())));
        let begun = state().await;
        assert_eq!(begun.category, Category::InProgress);
        assert_eq!(begun.assignee.as_deref(), Some("tess"));
        assert!(sim.transition("OPS-1", "Reject"));
        let ended = state().await;
        assert_eq!(ended.category, Category::Done);
        assert_eq!(ended.resolution.as_deref(), Some("Won't Fix"));
        assert_eq!(jira.transition("OPS-1", "Reopen").await, Ok(true));
        assert_eq!(state().await.resolution, None);
    }
}

#[tokio::test]
async fn refused_fields_are_told_by_name() {
    for dialect in BOTH {
        let (sim, jira) = start(dialect).await;
        sim.change_site(|site| {
            site.priorities.retain(|name| name != "High");
            site.required.push(("OPS".into(), "customfield_10010".into()));
            site.people = Some(vec!["al".into()]);
        });
        let new = NewIssue {
            priority: Some("High".into()),
            components: vec!["Attic".into()],
            assignee: Some("gone".into()),
            ..new_issue()
        };
        let JiraError::Rejected { status, field_errors, .. } = jira.create(&new).await.unwrap_err()
        else {
            panic!("not a refusal");
        };
        assert_eq!(status, Some(400));
        let fields: Vec<&str> = field_errors.keys().map(String::as_str).collect();
        assert_eq!(fields, ["assignee", "components", "customfield_10010", "priority"]);
        assert_eq!(field_errors["priority"], "The priority selected is invalid.");
        assert!(sim.issues().is_empty());
        // The minimal ticket with what is required goes through.
        let fields = Map::from_iter([("customfield_10010".to_owned(), json!("r12"))]);
        jira.create(&NewIssue { fields, ..new_issue() }).await.unwrap();
        assert_eq!(jira.knows_account("al").await, Ok(true));
        assert_eq!(jira.knows_account("gone").await, Ok(false));
        assert_eq!(jira.knows_account("x] [~al").await, Ok(false));
        let error = jira.add_watcher("OPS-1", "gone").await.unwrap_err();
        assert!(matches!(error, JiraError::Rejected { status: Some(404), .. }), "{error:?}");
    }
}

/// Transient, Unknown, or Rejected with its status.
fn class<T: std::fmt::Debug>(result: Result<T, JiraError>) -> String {
    match result.unwrap_err() {
        JiraError::Transient { retry_after, .. } => match retry_after {
            Some(wait) => format!("transient {}", wait.as_secs()),
            None => "transient".into(),
        },
        JiraError::Unknown { .. } => "unknown".into(),
        JiraError::Rejected { status, .. } => format!("rejected {status:?}"),
    }
}

#[tokio::test]
async fn misbehaviour_is_told_apart() {
    let answer = |status, body: &str| JiraFault::Answer {
        status,
        headers: Vec::new(),
        body: body.as_bytes().into(),
    };
    // The fault, what it means for a write and for a read.
    let faults = [
        (JiraFault::too_many(7), "transient 7", "transient 7"),
        (JiraFault::unavailable(), "transient", "transient"),
        (JiraFault::page(503), "transient", "transient"),
        (JiraFault::page(500), "unknown", "transient"),
        (JiraFault::page(200), "unknown", "transient"),
        (JiraFault::page(401), "rejected Some(401)", "rejected Some(401)"),
        (JiraFault::page(302), "rejected Some(302)", "rejected Some(302)"),
        (answer(200, "{\"key\": \"OP"), "unknown", "transient"),
        (answer(200, ""), "unknown", "transient"),
        (answer(400, "{\"errorMessages\": [\"no\"]}"), "rejected Some(400)", "rejected Some(400)"),
        (JiraFault::DropRequest, "unknown", "transient"),
        (JiraFault::DropReply, "unknown", "transient"),
        (JiraFault::CutReply, "unknown", "transient"),
        (JiraFault::ReplaceReply(502), "unknown", "transient"),
        (JiraFault::ReplaceReply(504), "unknown", "transient"),
    ];
    for dialect in BOTH {
        let (sim, jira) = start(dialect).await;
        for (fault, write, read) in &faults {
            sim.fault_on("create", fault.clone());
            assert_eq!(&class(jira.create(&new_issue()).await), write, "{dialect:?} {fault:?}");
            sim.fault_on("search", fault.clone());
            assert_eq!(&class(jira.find_by_label(LABEL).await), read, "{dialect:?} {fault:?}");
        }
        // Each create that was not done is not there, and each that was is there once.
        let done = 4;
        assert_eq!(sim.issues().len(), done, "{dialect:?}");
        assert_eq!(jira.find_by_label(LABEL).await.unwrap().unwrap().key, "OPS-1");
        // The other writes that are not idempotent.
        sim.fault_on("comment", JiraFault::DropReply);
        assert_eq!(class(jira.comment("OPS-1", &Body::markdown("x")).await), "unknown");
        sim.fault_on("transition", JiraFault::DropReply);
        assert_eq!(class(jira.transition("OPS-1", "Resolve").await), "unknown");
        assert_eq!(sim.issues()[0].status, "Done");
        // Those that may be repeated.
        sim.fault_on("watch", JiraFault::DropReply);
        assert_eq!(class(jira.add_watcher("OPS-1", "al").await), "transient");
        sim.fault_on("update", JiraFault::ReplaceReply(502));
        assert_eq!(class(jira.update("OPS-1", &IssueChange::default()).await), "transient");
    }
}

#[tokio::test]
async fn a_silent_site_does_not_hold_us() {
    for dialect in BOTH {
        let (sim, _) = start(dialect).await;
        let timeout = Duration::from_millis(300);
        let jira = client(SiteSettings { timeout, ..settings(&sim.url(), dialect) });
        sim.fault_on("create", JiraFault::HangReply);
        assert_eq!(class(jira.create(&new_issue()).await), "unknown");
        assert_eq!(sim.issues().len(), 1);
    }
}

#[tokio::test]
async fn clouds_search_is_behind_and_its_pages_are_short() {
    let (sim, jira) = start(Dialect::Cloud).await;
    sim.set_search_lag(Duration::from_secs(3600));
    sim.fault_on("create", JiraFault::DropReply);
    assert_eq!(class(jira.create(&new_issue()).await), "unknown");
    assert_eq!(jira.find_by_label(LABEL).await, Ok(None), "not yet");
    let states = jira.states(&["OPS-1".into()]).await.unwrap();
    assert_eq!(states.len(), 1, "states do not come from the search");
    sim.set_search_lag(Duration::ZERO);
    assert_eq!(jira.find_by_label(LABEL).await.unwrap().unwrap().key, "OPS-1");
}

#[tokio::test]
async fn states_come_in_pages_and_tell_what_is_gone() {
    for dialect in BOTH {
        let (sim, jira) = start(dialect).await;
        let keys: Vec<String> = (1..=130).map(|number| format!("OPS-{number}")).collect();
        for _ in &keys {
            jira.create(&new_issue()).await.unwrap();
        }
        let states = jira.states(&keys).await.unwrap();
        let read: Vec<&String> = states.iter().map(|state| &state.key).collect();
        assert_eq!(read, keys.iter().collect::<Vec<_>>(), "in the order of the question");
        let (pages, kind) = match dialect {
            Dialect::DataCenter => (7, "search"),
            Dialect::Cloud => (2, "fetch"),
        };
        assert_eq!((sim.requests()[kind], sim.requests().get("get")), (pages, None));

        assert!(sim.delete("OPS-3"));
        assert_eq!(sim.move_to("OPS-5", "HW").as_deref(), Some("HW-1"));
        sim.change_ticket("OPS-7", |ticket| ticket.reporter = None);
        let states = jira.states(&keys).await.unwrap();
        assert_eq!(states.len(), 129);
        assert!(states.iter().all(|state| state.key != "OPS-3"));
        let moved: Vec<_> = states.iter().filter(|state| state.moved_to.is_some()).collect();
        assert_eq!(moved.len(), 1);
        assert_eq!((&*moved[0].key, moved[0].moved_to.as_deref()), ("OPS-5", Some("HW-1")));

        // A site that is away says nothing about a ticket.
        sim.set_down(true);
        assert_eq!(class(jira.states(&keys).await), "transient");
        assert_eq!(jira.states(&[]).await, Ok(Vec::new()));
    }
}

#[tokio::test]
async fn a_token_that_ended_is_no_empty_site() {
    for dialect in BOTH {
        let (sim, jira) = start(dialect).await;
        jira.create(&new_issue()).await.unwrap();
        sim.change_site(|site| site.token = "another".into());
        let found = jira.find_by_label(LABEL).await.unwrap_err();
        let states = jira.states(&["OPS-1".into()]).await.unwrap_err();
        let created = jira.create(&new_issue()).await.unwrap_err();
        for error in [found, states, created] {
            assert!(error.is_about_access(), "{dialect:?} {error:?}");
            assert!(!error.to_string().contains(TOKEN), "{error}");
        }
        assert_eq!(sim.issues().len(), 1);
    }
    // A user with a password on Data Center.
    let site = SimJiraSite { user: Some("bot".into()), ..SimJiraSite::with_token(TOKEN) };
    let sim = sim(site).await;
    let auth = Auth::Basic { user: "bot".into(), password: SecretString::from(TOKEN) };
    let jira = client(SiteSettings { auth, ..settings(&sim.url(), Dialect::DataCenter) });
    jira.create(&new_issue()).await.unwrap();
    // Nor does an error repeat the credentials that a site sends back.
    let echo = json!({ "errorMessages": ["Basic Ym90OnMzY3JldC10b2tlbg=="] }).to_string();
    sim.fault_next(JiraFault::Answer { status: 400, headers: Vec::new(), body: echo.into() });
    let error = jira.create(&new_issue()).await.unwrap_err().to_string();
    assert!(error.contains("Basic (token)"), "{error}");
}

#[test]
fn cloud_without_an_email_is_refused_at_once() {
    let auth = Auth::Bearer(SecretString::from(TOKEN));
    let wrong = SiteSettings { auth, ..settings("https://x.example/", Dialect::Cloud) };
    metalbot::use_ring();
    assert!(Site::new(wrong, reqwest::Client::builder()).is_err());
}
