//! A real browser, in which tests act as people do: keys typed, buttons pressed.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::wait::until;

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
        let answers = async || http.get(format!("{}/status", driver.url)).send().await.is_ok();
        until("an answer of chromedriver", answers).await;
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
        let mut text = String::new();
        let what = format!("{selector} that shows {wanted:?}");
        let shown = until(&what, async || {
            text = self.text(selector).await;
            text.contains(wanted)
        });
        shown.await;
    }

    pub async fn text(&self, selector: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.innerText ?? ''";
        let text = self.page.execute(script, vec![selector.into()]).await.unwrap();
        text.as_str().unwrap().to_owned()
    }

    pub async fn run(&self, script: &str) -> Value {
        self.page.execute(script, Vec::new()).await.unwrap()
    }

    /// What the page complained of in the browser's console.
    pub async fn problems(&self) -> Vec<String> {
        let entries = self.extension("se/log", json!({ "type": "browser" })).await;
        let entries = entries.as_array().expect("a list of entries");
        let bad = |entry: &&Value| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
        entries.iter().filter(bad).map(|entry| entry["message"].to_string()).collect()
    }

    pub async fn devtools(&self, command: &str, params: Value) {
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
