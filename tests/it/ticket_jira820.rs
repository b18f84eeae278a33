//! The client against a Jira Data Center that nobody here wrote: `jira820` of PyPI, which keeps
//! state. `make install-test` puts it below `target/`.
//!
//! It takes every token, has no watchers, and answers a query that it does not know with every
//! issue: what `Site` makes of that is tested too.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use metalbot_jira::{
    Body, Category, Dialect, IssueChange, JiraError, NewIssue, Site, escape, mention,
};
use serde_json::Value;

use super::ticket_wire::{client, new_issue, settings};

/// A process that ends with the test.
struct Jira820 {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Jira820 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Jira820 {
    async fn start() -> (Jira820, Site) {
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/jira820");
        assert!(program.exists(), "{} is missing: run `make install-test`", program.display());
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .current_dir(folder.path())
            .env("JIRA820_HOST", "127.0.0.1")
            .env("JIRA820_PORT", port.to_string())
            .env("JIRA820_PROJECT_KEY", "OPS")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}/");
        let mut jira = Jira820 { child, url, _folder: folder };
        let started = Instant::now();
        while jira.get("rest/api/2/serverInfo").await.is_none() {
            assert!(jira.child.try_wait().unwrap().is_none(), "jira820 ended by itself");
            assert!(started.elapsed() < Duration::from_secs(120), "jira820 does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let site = client(settings(&jira.url, Dialect::DataCenter));
        (jira, site)
    }

    /// As another client sees it.
    async fn get(&self, path: &str) -> Option<Value> {
        metalbot::use_ring();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{}{path}", self.url)).send().await.ok()?;
        answer.json().await.ok()
    }
}

#[tokio::test]
async fn a_ticket_lives_in_a_foreign_jira() {
    let (jira, site) = Jira820::start().await;
    assert_eq!(site.find_by_label("metalbot-0a1b").await, Ok(None));
    let foreign = escape("<b>no</b> [~bob] {code}");
    let new = NewIssue {
        issue_type: "Task".into(),
        body: Body::markdown(format!(
            "### What\n- {} asked: {foreign}\n- **bold** `fixed_width`",
            mention("admin", "Admin")
        )),
        components: vec!["Infra".into()],
        priority: Some("High".into()),
        ..new_issue()
    };
    let issue = site.create(&new).await.unwrap();
    site.create(&new).await.unwrap();
    assert_eq!(site.find_by_label("metalbot-0a1b").await.unwrap(), Some(issue.clone()));

    // Its own renderer sees one mention, and markup of ours only.
    let path = format!("rest/api/2/issue/{}?expand=renderedFields", issue.key);
    let read = jira.get(&path).await.unwrap();
    let page = read["renderedFields"]["description"].as_str().unwrap();
    assert!(page.contains("<h3>What</h3>") && page.contains("<strong>bold</strong>"), "{page}");
    assert!(page.contains("<code>fixed_width</code>"), "{page}");
    assert_eq!(page.matches("class=\"user-hover\"").count(), 1, "{page}");
    assert!(!page.contains("<b>") && !page.contains("<pre"), "{page}");
    assert_eq!(read["fields"]["priority"]["name"], "High");
    assert_eq!(read["fields"]["components"][0]["name"], "Infra");
    assert_eq!(read["fields"]["labels"], serde_json::json!(["metalbot", "metalbot-0a1b"]));

    site.comment(&issue.key, &Body::markdown("again **three**")).await.unwrap();
    let change = IssueChange {
        summary: Some("another".into()),
        body: Some(Body::markdown("short")),
        ..IssueChange::default()
    };
    site.update(&issue.key, &change).await.unwrap();
    let read = jira.get(&path).await.unwrap();
    assert_eq!(
        (&read["fields"]["summary"], &read["fields"]["description"]),
        (&"another".into(), &"short".into())
    );
    let comments = jira.get(&format!("rest/api/2/issue/{}/comment", issue.key)).await.unwrap();
    assert_eq!(comments["comments"][0]["body"], "again *three*");

    let error = site.add_watcher(&issue.key, "admin").await.unwrap_err();
    assert!(matches!(error, JiraError::Rejected { status: Some(404), .. }), "{error:?}");
    assert_eq!(site.knows_account("admin").await, Ok(true));
}

#[tokio::test]
async fn states_of_a_foreign_jira() {
    let (_jira, site) = Jira820::start().await;
    let new = NewIssue { issue_type: "Task".into(), ..new_issue() };
    let key = site.create(&new).await.unwrap().key;
    let state = async || site.states(std::slice::from_ref(&key)).await.unwrap().remove(0);
    assert_eq!((state().await.category, state().await.status.as_str()), (Category::New, "Open"));
    assert_eq!(site.transition(&key, "Close").await, Ok(false));
    assert_eq!(site.transition(&key, "to in progress").await, Ok(true));
    assert_eq!(state().await.category, Category::InProgress);
    assert_eq!(site.transition(&key, "To Done").await, Ok(true));
    let done = state().await;
    assert_eq!((done.category, done.resolution.as_deref()), (Category::Done, Some("Done")));
    assert_eq!(site.transition(&key, "To Reopened").await, Ok(true));
    assert_eq!(state().await.resolution, None);

    // More than a page, and one that is not there: never somebody else's state.
    let mut keys: Vec<String> = (1..=30).map(|number| format!("OPS-{number}")).collect();
    keys.push("OPS-999999".into());
    let states = site.states(&keys).await.unwrap();
    let read: Vec<&str> = states.iter().map(|state| state.key.as_str()).collect();
    assert_eq!(read, keys[..30].iter().map(String::as_str).collect::<Vec<_>>());
    assert!(states.iter().all(|state| state.moved_to.is_none()));
}
