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
use crate::chat::console::ConsoleChat;
use crate::chat::{Chat as _, Message};
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
        sign_in: "/login",
        secure: false,
        public_url: None,
        trusted_proxies: Default::default(),
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
        self.try_login_with("", login, password).await
    }

    /// The same in a browser that has this cookie.
    async fn try_login_with(&self, more: &str, login: &str, password: &str) -> Response {
        self.send_login("/login", more, login, password).await
    }

    /// Signs in at a page that was led to.
    async fn try_login_at(&self, path: &str, login: &str) -> Response {
        self.send_login(path, "", login, &format!("{login}-secret")).await
    }

    async fn send_login(&self, path: &str, more: &str, login: &str, password: &str) -> Response {
        let page = client().get(format!("{}{path}", self.base)).send().await.unwrap();
        let cookie = cookie_of(&page);
        let csrf = cookie.split_once('=').unwrap().1.to_owned();
        client()
            .post(format!("{}{path}", self.base))
            .header(header::COOKIE, format!("{cookie}; {more}"))
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
async fn another_password_ends_the_sessions_of_the_old_one(pool: PgPool) {
    let site = site(pool).await;
    let (alice, bob) = (site.login("alice").await, site.login("bob").await);
    let people = site.folder.path().join("people.toml");
    let text = std::fs::read_to_string(&people).unwrap();
    let new = password::hash(&SecretString::from("new")).unwrap();
    let old = PEOPLE[0].1.lines().find(|line| line.starts_with("password")).unwrap();
    std::fs::write(&people, text.replacen(old, &format!("password = {new:?}"), 1)).unwrap();
    assert_eq!(site.get(&alice, "/console/state").await.status(), 401);
    assert_eq!(site.get(&bob, "/console/state").await.status(), 200);
    assert_eq!(site.try_login("alice", "new").await.status(), StatusCode::SEE_OTHER);
}

#[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
async fn who_cannot_sign_in_is_told_what_is_wrong(pool: PgPool) {
    let site = site(pool).await;
    let post = async |cookie: &str, origin: &str| {
        let request = client()
            .post(format!("{}/login", site.base))
            .header(header::COOKIE, cookie)
            .header(header::ORIGIN, origin)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("csrf=x&login=alice&password=alice-secret");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        answer.text().await.unwrap()
    };
    let lost = post("", &site.base).await;
    assert!(
        lost.contains("did not send back the cookie") && lost.contains("http.public_url"),
        "{lost}"
    );
    let elsewhere = post("metalbot-form=x", "https://metal.example.org").await;
    assert!(elsewhere.contains("A proxy hides the address"), "{elsewhere}");
    let stale = post("metalbot-form=y", &site.base).await;
    assert!(stale.contains("open for too long"), "{stale}");
}

#[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
async fn who_signed_in_before_is_not_held_up_by_others(pool: PgPool) {
    let site = site(pool).await;
    let known = site.login("alice").await;
    for _ in 0..40 {
        site.try_login("alice", "wrong").await;
    }
    let held_up = site.try_login("alice", "alice-secret").await;
    assert_eq!(held_up.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(held_up.headers().contains_key(header::RETRY_AFTER));
    let browser = known.split("; ").find(|pair| pair.starts_with("metalbot-browser=")).unwrap();
    let passes = site.try_login_with(browser, "alice", "alice-secret").await;
    assert_eq!(passes.status(), StatusCode::SEE_OTHER);
}

#[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
async fn one_session_has_so_many_streams_and_no_proxy_holds_them_back(pool: PgPool) {
    let site = site(pool).await;
    let (alice, bob) = (site.login("alice").await, site.login("bob").await);
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut stream = site.get(&alice, "/console/events").await;
        assert_eq!(stream.headers()["x-accel-buffering"], "no");
        let first = stream.chunk().await.unwrap().unwrap();
        assert!(first.starts_with(b"event: ping"), "it is heard at once");
        open.push(stream);
    }
    assert_eq!(site.get(&alice, "/console/events").await.status(), 429);
    assert_eq!(site.get(&bob, "/console/events").await.status(), 200);
    open.clear();
    for _ in 0..100 {
        if site.get(&alice, "/console/events").await.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("its places do not come free");
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
async fn who_follows_a_link_signs_in_and_arrives_or_reads_why_not(pool: PgPool) {
    let site = site(pool).await;
    let visit = async |cookie: &str, path: &str| {
        let request = client().get(format!("{}{path}", site.base)).header(header::COOKIE, cookie);
        request.header(header::ACCEPT, "text/html,*/*").send().await.unwrap()
    };
    // What there is, is said to nobody who has not signed in.
    for batch in ["/batches/1", "/batches/9999"] {
        let asked = visit("", batch).await;
        assert_eq!(asked.headers()[header::LOCATION], format!("/login?next={batch}"));
    }
    let signed = site.try_login_at("/login?next=/batches/7", "alice").await;
    assert_eq!(signed.headers()[header::LOCATION], "/batches/7");
    for elsewhere in ["https://evil.example", "//evil.example", "/batches/7/../x", "/batches/"] {
        let signed = site.try_login_at(&format!("/login?next={elsewhere}"), "alice").await;
        assert_eq!(signed.headers()[header::LOCATION], "/", "{elsewhere}");
    }
    let cookie = cookie_of(&signed);
    for (path, status, text) in [
        ("/batches/9999", 404, "There is no batch #9999."),
        ("/batches/abc", 400, "This address is not right."),
        ("/nosuch", 404, "There is no such page."),
    ] {
        let page = visit(&cookie, path).await;
        assert_eq!(page.status(), status, "{path}");
        assert!(page.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        let page = page.text().await.unwrap();
        assert!(page.contains(text) && page.contains("To the console"), "{page}");
    }
    assert!(site.get(&cookie, "/nosuch").await.text().await.unwrap().starts_with('{'), "a script");
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
