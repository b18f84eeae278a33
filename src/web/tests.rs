//! The console over HTTP, as a browser would use it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use reqwest::{Client, Response, StatusCode, header, redirect};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::app::console_message;
use crate::chat::Message;
use crate::chat::console::ConsoleChat;
use crate::config::Config;
use crate::identity::password;
use crate::serve::site::{app, load};
use metalbot_core::domain::inbound::ChatLocation;

struct Site {
    base: String,
    pool: PgPool,
    folder: TempDir,
    stop: CancellationToken,
}

/// People by login, each with the password `LOGIN-secret`. Hashing is slow on purpose: once is enough.
static PEOPLE: LazyLock<[(&str, String); 2]> = LazyLock::new(|| {
    ["alice", "bob"].map(|login| {
        let secret = SecretString::from(format!("{login}-secret"));
        let hash = password::hash(&secret).unwrap();
        (login, format!("[[person]]\nlogin = {login:?}\nname = {login:?}\npassword = {hash:?}\n"))
    })
});

/// Makes these the people of the directory.
fn write_people(folder: &Path, logins: &[&str]) {
    let chosen = PEOPLE.iter().filter(|(login, _)| logins.contains(login));
    let text: String = chosen.map(|(_, person)| person.as_str()).collect();
    std::fs::write(folder.join("people.toml"), text).unwrap();
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn site(pool: PgPool) -> Site {
    let stop = CancellationToken::new();
    let (live, _) = console_message::start_live(pool.clone(), stop.clone());
    let folder = tempfile::tempdir().unwrap();
    write_people(folder.path(), &["alice", "bob"]);
    let hosts = "name,owner,datacenter,rack,sku,bmc,credentials\n";
    std::fs::write(folder.path().join("hosts.csv"), hosts).unwrap();
    let toml = "directory.file = \"people.toml\"\ninventory.file = \"hosts.csv\"\n";
    let config = Config::parse(toml, &folder.path().join("metalbot.toml")).unwrap();
    let app = Arc::new(app(&config, &load(&config).unwrap(), None));
    let state = ConsoleState::new(ConsoleOptions {
        pool: pool.clone(),
        live,
        channels: vec![ChannelInfo { name: "metal".into(), topic: String::new() }],
        app,
        chat: None,
        sign_in: "/login",
        secure: false,
        session_lifetime: Duration::from_secs(60),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let service = router(state).into_make_service_with_connect_info::<SocketAddr>();
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async { axum::serve(listener, service).with_graceful_shutdown(stopped).await });
    Site { base, pool, folder, stop }
}

fn cookie_of(response: &Response) -> String {
    let cookies = response.headers().get_all(header::SET_COOKIE);
    let pairs = cookies.iter().map(|value| value.to_str().unwrap().split(';').next().unwrap());
    pairs.collect::<Vec<_>>().join("; ")
}

fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().redirect(redirect::Policy::none()).no_proxy().build().unwrap()
}

impl Site {
    async fn try_login(&self, login: &str, password: &str) -> Response {
        let page = client().get(format!("{}/login", self.base)).send().await.unwrap();
        let cookie = cookie_of(&page);
        let csrf = cookie.split_once('=').unwrap().1.to_owned();
        client()
            .post(format!("{}/login", self.base))
            .header(header::COOKIE, cookie)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(format!("csrf={csrf}&login={login}&password={password}"))
            .send()
            .await
            .unwrap()
    }

    async fn login(&self, login: &str) -> String {
        let response = self.try_login(login, &format!("{login}-secret")).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        cookie_of(&response)
    }

    async fn get(&self, cookie: &str, path: &str) -> Response {
        let url = format!("{}{path}", self.base);
        client().get(url).header(header::COOKIE, cookie).send().await.unwrap()
    }

    async fn json(&self, cookie: &str, path: &str) -> Value {
        self.get(cookie, path).await.json().await.unwrap()
    }

    async fn post(&self, cookie: &str, csrf: &str, path: &str, body: &Value) -> Response {
        client()
            .post(format!("{}{path}", self.base))
            .header(header::COOKIE, cookie)
            .header("x-csrf-token", csrf)
            .json(body)
            .send()
            .await
            .unwrap()
    }
}

#[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
async fn nothing_is_shown_or_done_without_a_session_and_its_token(pool: PgPool) {
    let site = site(pool).await;
    assert_eq!(site.get("", "/").await.headers()[header::LOCATION], "/login");
    for path in ["/console/state", "/console/messages?channel=metal", "/console/events"] {
        assert_eq!(site.get("metalbot=guess", path).await.status(), 401, "{path}");
    }
    let cookie = site.login("alice").await;
    let csrf = site.json(&cookie, "/console/state").await["csrf"].as_str().unwrap().to_owned();
    let message = json!({ "delivery": "d", "channel": "metal", "thread": null, "text": "hi" });
    assert_eq!(site.post(&cookie, "", "/console/send", &message).await.status(), 403);
    let other = site.login("bob").await;
    assert_eq!(site.post(&other, &csrf, "/console/send", &message).await.status(), 403);
    assert_eq!(site.post(&cookie, &csrf, "/console/send", &message).await.status(), 202);
    let forged = client()
        .post(format!("{}/console/send", site.base))
        .header(header::COOKIE, &cookie)
        .header("x-csrf-token", &csrf)
        .header(header::ORIGIN, "https://evil.example")
        .json(&message)
        .send();
    assert_eq!(forged.await.unwrap().status(), 403);
    let page = site.get(&cookie, "/").await;
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");

    assert_eq!(site.post(&cookie, &csrf, "/logout", &json!({})).await.status(), 204);
    assert_eq!(site.get(&cookie, "/console/state").await.status(), 401);
}

#[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
async fn a_wrong_password_and_an_unknown_login_look_alike(pool: PgPool) {
    let site = site(pool).await;
    let page = |text: String| {
        let kept = text.lines().filter(|line| !line.contains("name=\"csrf\"")).collect::<Vec<_>>();
        kept.join("\n").replace("nobody", "alice")
    };
    let wrong = site.try_login("alice", "wrong").await;
    let unknown = site.try_login("nobody", "wrong").await;
    assert_eq!(
        (wrong.status(), unknown.status()),
        (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED)
    );
    assert_eq!(page(wrong.text().await.unwrap()), page(unknown.text().await.unwrap()));
    for _ in 0..4 {
        assert_eq!(site.try_login("alice", "wrong").await.status(), 401);
    }
    assert_eq!(site.try_login("alice", "alice-secret").await.status(), 429);
    let shown = site.try_login("%22%3E%3Cb%3E", "x").await.text().await.unwrap();
    assert!(!shown.contains("<b>"), "{shown}");
}

#[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
async fn who_leaves_the_directory_is_signed_out(pool: PgPool) {
    let site = site(pool).await;
    let cookie = site.login("bob").await;
    assert_eq!(site.get(&cookie, "/console/state").await.status(), 200);
    write_people(site.folder.path(), &["alice"]);
    assert_eq!(site.get(&cookie, "/console/state").await.status(), 401);
    write_people(site.folder.path(), &["alice", "bob"]);
    assert_eq!(site.get(&cookie, "/console/state").await.status(), 401, "the session is gone");
}

#[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
async fn the_stream_carries_what_one_may_see(pool: PgPool) {
    let site = site(pool).await;
    let cookie = site.login("bob").await;
    let mut stream = site.get(&cookie, "/console/events").await;
    let chat = ConsoleChat::new(site.pool.clone(), ["metal".to_owned()]);
    let location = ChatLocation::channel("console", "metal");
    let message = |text: &str| Message { markdown: text.into(), card: None };
    // The listener may not stand yet; what is posted before it does is told by `resync`.
    tokio::time::sleep(Duration::from_millis(300)).await;
    chat.post(&location, Some("alice"), "k1", &message("for alice")).await.unwrap();
    chat.post(&location, None, "k2", &message("**for** all <i>")).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("for</strong> all") {
        let chunk = tokio::time::timeout(Duration::from_secs(5), stream.chunk()).await;
        seen += std::str::from_utf8(&chunk.unwrap().unwrap().unwrap()).unwrap();
    }
    assert!(seen.contains("event: message") && seen.contains("&lt;i&gt;"), "{seen}");
    assert!(!seen.contains("for alice"), "{seen}");
    let listed = site.json(&cookie, "/console/messages?channel=metal").await;
    assert_eq!(listed["messages"].as_array().unwrap().len(), 1);
    assert_eq!(site.get(&cookie, "/console/messages?channel=nope").await.status(), 404);
    let elsewhere = ChatLocation { channel: "nope".into(), ..location.clone() };
    assert!(chat.post(&elsewhere, None, "k3", &message("x")).await.is_err());
}

#[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
async fn completion_counts_like_a_browser(pool: PgPool) {
    let site = site(pool).await;
    let cookie = site.login("alice").await;
    // `/metal reboot reason=😀 mo` with the cursor at its end: 😀 is two UTF-16 units.
    let path = "/console/complete?text=%2Fmetal%20reboot%20reason%3D%F0%9F%98%80%20mo&cursor=26";
    let items = &site.json(&cookie, path).await["items"];
    assert_eq!((&items[0]["from"], &items[0]["insert"]), (&json!(24), &json!("mode=")));
    let items = &site.json(&cookie, "/console/complete?text=%2Fme&cursor=3").await["items"];
    assert_eq!(items[0]["insert"], "/metal ");
    let items = &site.json(&cookie, "/console/complete?text=hello&cursor=5").await["items"];
    assert_eq!(items, &json!([]));
}
