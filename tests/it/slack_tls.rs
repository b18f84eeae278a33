//! Tokens travel encrypted, to Slack alone: a client that takes addresses without encryption is for a
//! stand-in on this machine, and must not follow it elsewhere.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::routing::any;
use axum::{Json, Router};
use metalbot::chat::slack::ingest::{ModalHooks, SlackIngest};
use metalbot::chat::slack::socket::{Connections, run_socket};
use metalbot::chat::slack::web_api::{ApiError, Bots, SlackSettings, WebApi};
use metalbot::outgoing::{Outgoing, OutgoingError, OutgoingSettings};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::harness::PATIENCE;

fn web_api(api_url: &str) -> WebApi {
    trusting(api_url, None)
}

fn trusting(api_url: &str, ca_file: Option<PathBuf>) -> WebApi {
    metalbot::use_ring();
    let outgoing = Outgoing::new(&OutgoingSettings { ca_file, ..Default::default() }).unwrap();
    let settings = SlackSettings {
        api_url: api_url.into(),
        bots: Bots::One(SecretString::from("xoxb-1")),
        app_token: Some(SecretString::from("xapp-1")),
    };
    WebApi::new(&settings, outgoing).unwrap()
}

/// A server on this machine that speaks TLS, with a certificate of a site that nobody trusts.
struct Stranger {
    port: u16,
    _server: Child,
    folder: TempDir,
}

impl Stranger {
    async fn start() -> Stranger {
        let folder = tempfile::tempdir().unwrap();
        for make in [
            "-keyout ca.key -out ca -subj /CN=site",
            "-keyout key -out cert -subj /CN=127.0.0.1 -CA ca -CAkey ca.key \
             -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE",
        ] {
            let mut made = Command::new("openssl");
            made.args("req -x509 -newkey rsa:2048 -nodes -days 1".split(' '));
            made.args(make.split(' ')).current_dir(folder.path());
            assert!(made.output().await.unwrap().status.success());
        }
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut server = Command::new("openssl");
        server.args(["s_server", "-www", "-cert", "cert", "-key", "key", "-accept"]);
        server.arg(format!("127.0.0.1:{port}")).current_dir(folder.path()).kill_on_drop(true);
        let server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = server.spawn().unwrap();
        let stranger = Stranger { port, _server: server, folder };
        // Who does not ask whose certificate it is, is served.
        let careless = reqwest::Client::builder().danger_accept_invalid_certs(true).no_proxy();
        let careless = careless.build().unwrap();
        let started = Instant::now();
        while careless.get(stranger.url("https")).send().await.is_err() {
            assert!(started.elapsed() < PATIENCE, "openssl does not serve");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stranger
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/", self.port)
    }
}

/// A stand-in that answers every call with the same.
async fn stand_in(answer: Value) -> (String, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let router = Router::new().fallback(any(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let answer = answer.clone();
        async move { Json(answer) }
    }));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, calls)
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_gets_no_token() {
    metalbot::use_ring();
    let stranger = Stranger::start().await;
    let api = web_api(&stranger.url("https"));
    let refused = api.get("auth.test", "", "", &[]).await.unwrap_err();
    assert!(matches!(&refused, ApiError::Later { why, .. } if why.contains("cannot be reached")));
    let told = refused.to_string();
    assert!(told.contains("127.0.0.1: ") && told.contains("outgoing.ca_file"), "{told}");

    // Neither does the connection by which deliveries would come.
    let (url, asked) = stand_in(json!({ "ok": true, "url": stranger.url("wss") })).await;
    let (api, connections) = (Arc::new(web_api(&url)), Connections::default());
    let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:9/none").unwrap();
    let forms = ModalHooks {
        wants: |_| false,
        answer: Arc::new(|_| Box::pin(async { Default::default() })),
    };
    let door = SlackIngest { pool, forms, api: Arc::clone(&api) };
    let stop = CancellationToken::new();
    let running = tokio::spawn(run_socket(api, door, connections.clone(), stop.clone()));
    let started = Instant::now();
    // It was refused when it is asked for another one.
    while asked.load(Ordering::Relaxed) < 2 {
        assert!(started.elapsed() < PATIENCE && !connections.any());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_sites_own_certificates_are_trusted_where_they_are_named() {
    let stranger = Stranger::start().await;
    let api = trusting(&stranger.url("https"), Some(stranger.folder.path().join("ca")));
    // The server is no Slack, but it was heard.
    assert_eq!(api.get("auth.test", "", "", &[]).await, Ok(json!({})));
    for (name, what) in [("nothing", "No such file"), ("key", "no certificate")] {
        let ca_file = Some(stranger.folder.path().join(name));
        let error = Outgoing::new(&OutgoingSettings { ca_file, ..Default::default() }).unwrap_err();
        assert!(matches!(error, OutgoingError::CaFile { .. }));
        let told = error.to_string();
        assert!(told.starts_with("outgoing.ca_file: ") && told.contains(what), "{told}");
    }
}

#[tokio::test]
async fn nothing_leaves_this_machine_without_encryption() {
    // Set aside for documentation: nobody is there. A call that is refused does not try.
    const ELSEWHERE: &str = "192.0.2.1";
    let started = Instant::now();
    let api = web_api(&format!("http://{ELSEWHERE}/api"));
    assert!(matches!(api.get("auth.test", "", "", &[]).await, Err(ApiError::Later { .. })));

    let slack = web_api("https://slack.com/api");
    let (url, _) = stand_in(json!({ "ok": true, "url": format!("ws://{ELSEWHERE}/link") })).await;
    let simulated = web_api(&url);
    assert!(simulated.open_connection().await.is_err());
    let (url, _) = stand_in(json!({
        "ok": true, "file_id": "F1", "upload_url": format!("http://{ELSEWHERE}/upload"),
    }))
    .await;
    let uploaded = web_api(&url).upload("T1", "C1", None, "a.txt", "web01").await;
    assert_eq!(uploaded, Err(ApiError::Refused("the address is not at Slack".into())));
    for (api, url) in [
        (&simulated, format!("http://{ELSEWHERE}/commands/1")),
        (&slack, "http://hooks.slack.com/commands/1".into()),
        (&slack, "https://hooks.notslack.com/commands/1".into()),
        (&slack, "https://slack.com.example.org/commands/1".into()),
        (&slack, "http://127.0.0.1:9/commands/1".into()),
    ] {
        let refused = Err(ApiError::Refused("the address is not at Slack".into()));
        assert_eq!(api.respond(&url, &json!({})).await, refused, "{url}");
        assert!(api.download("T1", &url, 9).await.is_err(), "{url}");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
