//! The console in a real browser, driven as people drive it: keys typed, buttons pressed. The
//! README's picture is what this test sees at its end.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use metalbot::serve::roles::Roles;
use metalbot::serve::service::Service;
use metalbot_demo::site::SimSite;
use metalbot_demo::switch;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tempfile::TempDir;

/// Nothing that the test waits for takes longer, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Second number of the rack's loopback addresses.
const SUBNET: u8 = 240;
const CARD: &str = "#log .message.has-card";
const BAR: &str = "return document.querySelector('#log .has-card .bar-track')?.ariaLabel";
const BOX: Locator<'static> = Locator::Css("#compose textarea");

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_from_the_first_key_to_its_tickets() {
    metalbot::use_ring();
    let folder = tempfile::tempdir().unwrap();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let site = SimSite::start(folder.path(), listen, SUBNET, false).await.unwrap();
    let database = Database::new().await;
    let service =
        Service::start(&site.config, &database.url, Roles::ALL, switch::options()).await.unwrap();
    let browser = Browser::start().await;
    let page = &browser.page;
    page.goto(&format!("http://{}", service.address.unwrap())).await.unwrap();

    // Alice types; the completion takes the word over, and Enter sends.
    let compose = page.wait().at_most(PATIENCE).for_element(BOX).await.unwrap();
    browser.shows("#me", "Alice Ivanova").await;
    compose.send_keys("/metal rebo").await.unwrap();
    browser.shows("#compose .completions", "Turn hosts off and on again").await;
    let rest = "web[01-12] reason=\"kernel CVE-2026-1\"";
    compose
        .send_keys(&format!("{}{rest}{}", char::from(Key::Tab), char::from(Key::Enter)))
        .await
        .unwrap();
    browser.shows("#log .command", &format!("/metal reboot {rest}")).await;
    for part in ["#1 reboot · 12 hosts · awaiting approval", "kernel CVE-2026-1", "cut the power"]
    {
        browser.shows(CARD, part).await;
    }

    // What is harmless needs no approval.
    compose.send_keys(&format!("/metal identify web15{}", char::from(Key::Enter))).await.unwrap();
    browser.shows("#log", "#2 identify · 1 host · succeeded").await;

    compose.send_keys(&format!("/metal power-on web16{}", char::from(Key::Enter))).await.unwrap();
    browser.shows("#log", "#3 power-on · 1 host · awaiting approval").await;

    // Bob takes the seat and approves. The page is never loaded again.
    browser.run("window.sameLoad = true").await;
    page.find(Locator::Css("#cast-list [data-login=bob]")).await.unwrap().click().await.unwrap();
    browser.shows("#me", "Bob Mensah").await;
    let approve = Locator::XPath("//article//button[text()='Approve']");
    page.wait().at_most(PATIENCE).for_element(approve).await.unwrap().click().await.unwrap();
    // What he rejects he is asked the reason of.
    let reject = Locator::XPath("//article[contains(., '#3 power-on')]//button[text()='Reject']");
    page.find(reject).await.unwrap().click().await.unwrap();
    browser.shows("dialog.ask", "Why is it rejected?").await;
    let why = page.find(Locator::Css("dialog.ask textarea")).await.unwrap();
    why.send_keys("not today").await.unwrap();
    page.find(Locator::Css("dialog.ask .answer")).await.unwrap().click().await.unwrap();
    for part in ["#3 power-on · 1 host · rejected", "not today"] {
        browser.shows("#log", part).await;
    }
    let mut seen = Vec::new();
    let started = Instant::now();
    loop {
        let text = browser.text(CARD).await;
        let bar = browser.run(BAR).await;
        if bar != Value::Null && seen.last() != Some(&bar) {
            seen.push(bar);
        }
        if text.contains("partly failed") && text.contains("OPS-2") {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "the batch never ended; the card says:\n{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(seen.len() >= 2, "the bar did not move: {seen:?}");
    assert_eq!(*seen.last().unwrap(), "Of 12 hosts: 10 succeeded, 2 failed");
    browser.shows(CARD, "10 of 12 done · 2 failed").await;
    browser.shows(CARD, "Retry failed").await;
    assert_eq!(browser.run("return window.sameLoad").await, true, "the page was loaded again");

    // The thread tells what happened, with the tickets.
    page.find(Locator::Css("#log .replies:not([hidden])")).await.unwrap().click().await.unwrap();
    for part in ["@bob approved", "@alice #1 has ended", "OPS-1 was filed", "OPS-2 was filed"] {
        browser.shows("#thread-log", part).await;
    }
    assert_eq!(browser.problems().await, Vec::<String>::new());

    // The pointer's hints are not for the picture.
    let away = json!({ "type": "mouseMoved", "x": 600, "y": 20 });
    browser.devtools("Input.dispatchMouseEvent", away).await;
    let picture = page.screenshot().await.unwrap();
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("console.png"), &picture).unwrap();
    if std::env::var_os("METALBOT_UPDATE_SCREENSHOT").is_some() {
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/console.png");
        std::fs::write(readme, &picture).unwrap();
    }

    page.clone().close().await.unwrap();
    service.stop().await;
    database.remove().await;
    site.jira.stop().await;
    site.rack.stop();
}

/// Debian's Chromium, without a window, and its driver. Both end with this value.
pub struct Browser {
    pub page: Client,
    driver: Driver,
    http: reqwest::Client,
}

impl Browser {
    pub async fn start() -> Browser {
        let driver = Driver::start();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let started = Instant::now();
        while http.get(format!("{}/status", driver.url)).send().await.is_err() {
            assert!(started.elapsed() < PATIENCE, "chromedriver does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let profile = format!("--user-data-dir={}", driver.profile.path().display());
        let arguments = [
            "--headless",
            // Chromium's sandbox does not start for root, as which containers run.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-proxy-server",
            "--hide-scrollbars",
            "--lang=en-GB",
            &profile,
        ];
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("written above") };
        let mut client = ClientBuilder::new(HttpConnector::new());
        let page = client.capabilities(capabilities).connect(&driver.url).await.unwrap();
        let browser = Browser { page, driver, http };
        let size = json!({ "width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        browser.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let light = json!({ "name": "prefers-color-scheme", "value": "light" });
        browser.devtools("Emulation.setEmulatedMedia", json!({ "features": [light] })).await;
        browser
    }

    /// Waits until the first element of this selector shows the text.
    pub async fn shows(&self, selector: &str, wanted: &str) {
        let started = Instant::now();
        loop {
            let text = self.text(selector).await;
            if text.contains(wanted) {
                return;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{selector} never showed {wanted:?} but:\n{text}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn text(&self, selector: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.innerText ?? ''";
        let text = self.page.execute(script, vec![selector.into()]).await.unwrap();
        text.as_str().unwrap().to_owned()
    }

    async fn run(&self, script: &str) -> Value {
        self.page.execute(script, Vec::new()).await.unwrap()
    }

    /// What the page complained of in the browser's console.
    pub async fn problems(&self) -> Vec<String> {
        let entries = self.extension("se/log", json!({ "type": "browser" })).await;
        let entries = entries.as_array().expect("a list of entries");
        let bad = |entry: &&Value| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
        entries.iter().filter(bad).map(|entry| entry["message"].to_string()).collect()
    }

    async fn devtools(&self, command: &str, params: Value) {
        self.extension("goog/cdp/execute", json!({ "cmd": command, "params": params })).await;
    }

    /// What chromedriver can do beyond WebDriver.
    async fn extension(&self, path: &str, body: Value) -> Value {
        let session = self.page.session_id().await.unwrap().expect("a session");
        let url = format!("{}/session/{session}/{path}", self.driver.url);
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json::<Value>().await.unwrap()["value"].take()
    }
}

/// The driver's process, and the profile by which its browser's processes are known.
struct Driver {
    process: Child,
    profile: TempDir,
    url: String,
}

impl Driver {
    fn start() -> Driver {
        let profile = tempfile::tempdir().unwrap();
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let process = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Chromium and chromedriver are there: run `make install`");
        Driver { process, profile, url: format!("http://127.0.0.1:{port}") }
    }

    /// Processes that were started with our profile.
    fn browsers(&self) -> Vec<String> {
        let profile = self.profile.path().as_os_str().as_encoded_bytes();
        let ours = |command: &[u8]| command.windows(profile.len()).any(|part| part == profile);
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|c| ours(&c)))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The browser outlives a driver that is killed.
        let browsers = self.browsers();
        if !browsers.is_empty() {
            let _ = Command::new("kill").arg("-KILL").args(browsers).status();
        }
    }
}

/// An empty database on the server of `DATABASE_URL`.
struct Database {
    server: PgConnectOptions,
    name: String,
    url: String,
}

impl Database {
    async fn new() -> Database {
        let server = std::env::var("DATABASE_URL")
            .expect("DATABASE_URL is set by `.ci/with-postgres`, which `make test` uses");
        let server = PgConnectOptions::from_str(&server).unwrap();
        let name = format!("metalbot_browser_{:08x}", rand::random::<u32>());
        let url = server.clone().database(&name).to_url_lossy().to_string();
        let database = Database { server, name, url };
        database.run("create database").await;
        database
    }

    async fn remove(self) {
        self.run("drop database").await;
    }

    async fn run(&self, what: &str) {
        let mut conn = self.server.connect().await.unwrap();
        let statement = AssertSqlSafe(format!("{what} {}", self.name));
        sqlx::query(statement).execute(&mut conn).await.unwrap();
    }
}
