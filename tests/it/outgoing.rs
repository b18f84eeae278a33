//! Behind a site's proxy: Slack, its web sockets and Jira are reached through it, by whoever asks.
//! What is behind it stands at another address of this machine, since this machine's usual ones are
//! never asked of a proxy.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metalbot::chat::slack::ingest::{ModalHooks, SlackIngest};
use metalbot::chat::slack::socket::{Connections, run_socket};
use metalbot::chat::slack::web_api::{Bots, SlackSettings, WebApi};
use metalbot::outgoing::{Outgoing, OutgoingSettings};
use metalbot_jira::{Auth, Dialect, Site, SiteSettings};
use metalbot_sim::fleet;
use metalbot_sim::jira::SimJira;
use metalbot_sim::slack::{APP_TOKEN, BOT_TOKEN, SimSlack};
use secrecy::SecretString;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::harness::{PATIENCE, until};

/// Where Slack and Jira are.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PASSWORD: &str = "pr0xysecret";

/// A proxy of the site, which asks who it is that wants to go out.
struct Proxy {
    port: u16,
    folder: TempDir,
    server: Child,
}

impl Proxy {
    async fn start() -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (file, log) = (folder.path().join("conf"), folder.path().join("log"));
        let config = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nLogFile \"{}\"\nLogLevel Connect\n\
             BasicAuth metal {PASSWORD}\n",
            log.display()
        );
        std::fs::write(&file, config).unwrap();
        let mut server = Command::new("tinyproxy");
        server.arg("-d").arg("-c").arg(file).kill_on_drop(true);
        let server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = server.spawn().unwrap();
        let started = Instant::now();
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "the proxy does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Proxy { port, folder, server }
    }

    fn url(&self, password: &str) -> String {
        format!("http://metal:{password}@127.0.0.1:{}", self.port)
    }

    /// The same with the right password.
    fn right(&self) -> String {
        self.url(PASSWORD)
    }

    fn outgoing(&self) -> Outgoing {
        let proxy = Some(SecretString::from(self.right()));
        Outgoing::new(&OutgoingSettings { proxy, ..Default::default() }).unwrap()
    }

    async fn stop(mut self) {
        self.server.kill().await.unwrap();
    }

    /// How often it was asked for something at this address.
    fn asked(&self, part: &str) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        log.lines().filter(|line| line.contains("Request") && line.contains(part)).count()
    }
}

/// Runs `operator slack check` with these lines and variables, and returns what it says.
async fn check(slack: &SimSlack, section: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metalbot.toml");
    let toml = fleet::metalbot_toml(([127, 0, 0, 1], 0).into(), "http://127.0.0.1:9", "demo");
    std::fs::write(&file, format!("{toml}\n{}\n{section}\n", slack.toml("socket"))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_metalbot"));
    command.args(["operator", "slack", "check", "--config", file.to_str().unwrap()]);
    command.envs(variables.iter().copied());
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.success(), text(stdout) + &text(stderr))
}

#[tokio::test]
async fn the_check_goes_the_way_of_the_service() {
    let (proxy, slack) = (Proxy::start().await, SimSlack::start_at(OUTSIDE).await.unwrap());
    let section = |url: &str| format!("[outgoing]\nproxy = \"{url}\"\n");
    let (fine, told) = check(&slack, &section(&proxy.right()), &[]).await;
    assert!(fine && told.contains("Socket Mode can be opened"), "{told}");
    let before = proxy.asked("127.0.0.2");
    // The questions themselves, and the address of the web socket.
    assert!(before >= 2 && proxy.asked("CONNECT") >= 1, "{before}");

    // From the environment as every other tool takes it, and past it as well.
    let url = proxy.right();
    let (fine, told) = check(&slack, "", &[("HTTPS_PROXY", &url)]).await;
    assert!(fine && proxy.asked("127.0.0.2") > before, "{told}");
    let before = proxy.asked("127.0.0.2");
    let past = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "10.0.0.0/8, 127.0.0.2")];
    let (fine, told) = check(&slack, "", &past).await;
    assert!(fine && proxy.asked("127.0.0.2") == before, "{told}");

    // What is wrong on the way is said, without what is secret.
    let (fine, told) = check(&slack, &section(&proxy.url("wr0ng")), &[]).await;
    let name = format!("the proxy 127.0.0.1:{}", proxy.port);
    assert!(!fine && told.contains(&name) && !told.contains("wr0ng"), "{told}");
    let (fine, told) = check(&slack, &section("http://metal:wr0ng@127.0.0.1:9"), &[]).await;
    assert!(!fine && told.contains("proxy 127.0.0.1:9") && told.contains("refused"), "{told}");
    let (fine, told) = check(&slack, &section("socks5://metal:wr0ng@127.0.0.1:9"), &[]).await;
    assert!(!fine && told.contains("outgoing.proxy: write http://HOST:PORT"), "{told}");
    assert!(!told.contains("wr0ng"), "{told}");
    slack.stop().await;
}

#[tokio::test]
async fn deliveries_of_slack_come_through_it() {
    metalbot::use_ring();
    let (proxy, slack) = (Proxy::start().await, SimSlack::start_at(OUTSIDE).await.unwrap());
    let settings = SlackSettings {
        api_url: slack.api_url(),
        bots: Bots::One(SecretString::from(BOT_TOKEN)),
        app_token: Some(SecretString::from(APP_TOKEN)),
    };
    let api = Arc::new(WebApi::new(&settings, proxy.outgoing()).unwrap());
    let connections = Connections::default();
    let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:9/none").unwrap();
    let forms = ModalHooks {
        wants: |_| false,
        answer: Arc::new(|_| Box::pin(async { Default::default() })),
    };
    let door = SlackIngest { pool, forms, api: Arc::clone(&api) };
    let stop = CancellationToken::new();
    let running =
        tokio::spawn(run_socket(Arc::clone(&api), door, connections.clone(), stop.clone()));
    until("Slack has said hello", async || connections.any()).await;
    assert!(proxy.asked("CONNECT") >= 2, "the Web API and the web socket");
    stop.cancel();
    running.await.unwrap();

    // Without the proxy there is no way, and the reason names it.
    let name = format!("through the proxy 127.0.0.1:{}: ", proxy.port);
    let elsewhere = WebApi::new(&settings, proxy.outgoing()).unwrap();
    proxy.stop().await;
    let error = elsewhere.get("auth.test", "", "", &[]).await.unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("refused"), "{error}");
    assert!(!error.contains("metal:") && !error.contains("secret"), "{error}");
    slack.stop().await;
}

#[tokio::test]
async fn jira_is_reached_through_it() {
    metalbot::use_ring();
    let proxy = Proxy::start().await;
    let listener = tokio::net::TcpListener::bind((OUTSIDE, 0)).await.unwrap();
    let jira = SimJira::start(listener, "t0ken").unwrap();
    let outgoing = proxy.outgoing();
    let settings = SiteSettings {
        name: "default".into(),
        url: jira.url(),
        dialect: Dialect::DataCenter,
        auth: Auth::Bearer(SecretString::from("t0ken")),
        timeout: PATIENCE,
        proxy: outgoing.proxy_to(&jira.url()).map(str::to_owned),
    };
    let site = Site::new(settings, outgoing.client()).unwrap();
    assert!(site.find_by_label("metalbot-1").await.unwrap().is_none());
    assert!(proxy.asked("127.0.0.2") > 0);
    let name = format!("through the proxy 127.0.0.1:{}: ", proxy.port);
    proxy.stop().await;
    let error = site.find_by_label("metalbot-1").await.unwrap_err().to_string();
    assert!(error.contains(&name) && !error.contains("secret"), "{error}");
}
