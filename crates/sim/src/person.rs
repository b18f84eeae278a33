//! A person at the console, acting over HTTP as their browser would. The demo's script and the
//! tests use it.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use reqwest::{Client, StatusCode, header};
use serde_json::{Value, json};

use super::actor::{self, ChatUser, SeenMessage, plain};

/// The channel for work on servers.
const METAL: &str = "metal";

/// Signed-in person.
#[derive(Clone, Debug)]
pub struct ConsoleUser {
    pub login: String,
    base: String,
    cookie: String,
    csrf: String,
    http: Client,
}

impl ConsoleUser {
    /// Signs in as a person through the demo's switch, without a password.
    pub async fn become_one(base: &str, login: &str) -> anyhow::Result<ConsoleUser> {
        let http = client()?;
        let answer = http
            .post(format!("{base}/demo/become"))
            .json(&json!({ "login": login }))
            .send()
            .await?;
        ensure!(answer.status().is_success(), "cannot become {login}: {}", answer.status());
        ConsoleUser::with_cookie(base, login, cookie_of(&answer)?, http).await
    }

    /// Signs in with a password.
    pub async fn sign_in(base: &str, login: &str, password: &str) -> anyhow::Result<ConsoleUser> {
        let http = client()?;
        let page = http.get(format!("{base}/login")).send().await?;
        let form = cookie_of(&page)?;
        let page = page.text().await?;
        let csrf = between(&page, "name=\"csrf\" value=\"", "\"").context("no form")?;
        let answer = http
            .post(format!("{base}/login"))
            .header(header::COOKIE, form)
            .form(&[("csrf", csrf), ("login", login), ("password", password)])
            .send()
            .await?;
        ensure!(answer.status() == StatusCode::SEE_OTHER, "not signed in: {}", answer.status());
        ConsoleUser::with_cookie(base, login, cookie_of(&answer)?, http).await
    }

    async fn with_cookie(
        base: &str,
        login: &str,
        cookie: String,
        http: Client,
    ) -> anyhow::Result<ConsoleUser> {
        let mut person = ConsoleUser {
            login: login.into(),
            base: base.into(),
            cookie,
            csrf: String::new(),
            http,
        };
        let state: Value = person.get("/console/state").await?;
        ensure!(state["me"]["login"] == login, "signed in as {}", state["me"]["login"]);
        person.csrf = state["csrf"].as_str().context("no token")?.to_owned();
        Ok(person)
    }

    /// Posts in a channel; returns the status.
    pub async fn say(&self, channel: &str, text: &str) -> anyhow::Result<StatusCode> {
        self.post("/console/send", json!({ "channel": channel, "text": text })).await
    }

    /// Posts in a thread; returns the status.
    pub async fn reply(&self, channel: &str, head: &str, text: &str) -> anyhow::Result<StatusCode> {
        let body = json!({ "channel": channel, "thread": head, "text": text });
        self.post("/console/send", body).await
    }

    /// Adds an emoji to a message, or removes it.
    pub async fn react(&self, message: &str, name: &str, on: bool) -> anyhow::Result<StatusCode> {
        self.post("/console/react", json!({ "message": message, "name": name, "on": on })).await
    }

    /// Presses a button by its value.
    pub async fn press(&self, message: &str, value: &str) -> anyhow::Result<StatusCode> {
        self.post("/console/press", json!({ "message": message, "value": value })).await
    }

    /// Presses a button that opens a form, and fills it in.
    pub async fn answer(
        &self,
        message: &str,
        value: &str,
        answer: &str,
    ) -> anyhow::Result<StatusCode> {
        let body = json!({ "message": message, "value": value, "answer": answer });
        self.post("/console/press", body).await
    }

    /// Posts to a path, with a delivery id of its own unless the body has one.
    pub async fn post(&self, path: &str, body: Value) -> anyhow::Result<StatusCode> {
        Ok(self.attempt(path, body).await?.0)
    }

    /// Same as [`ConsoleUser::post`], but also returns the body of the answer.
    pub async fn attempt(
        &self,
        path: &str,
        mut body: Value,
    ) -> anyhow::Result<(StatusCode, String)> {
        if body.get("delivery").is_none() {
            body["delivery"] = format!("{:032x}", rand::random::<u128>()).into();
        }
        let answer = self
            .http
            .post(format!("{}{path}", self.base))
            .header(header::COOKIE, &self.cookie)
            .header("x-csrf-token", &self.csrf)
            .json(&body)
            .send()
            .await?;
        Ok((answer.status(), answer.text().await?))
    }

    /// Messages of a channel, oldest first; with `thread`, those under its first message.
    pub async fn messages(
        &self,
        channel: &str,
        thread: Option<&str>,
    ) -> anyhow::Result<Vec<SeenMessage>> {
        let thread = thread.map(|head| format!("&thread={head}")).unwrap_or_default();
        let list: Value = self.get(&format!("/console/messages?channel={channel}{thread}")).await?;
        let messages = list["messages"].as_array().context("no messages")?;
        Ok(messages.iter().map(seen).collect())
    }

    /// Waits until `wanted` is true for a message; returns the newest match.
    pub async fn wait_for(
        &self,
        channel: &str,
        thread: Option<&str>,
        at_most: Duration,
        what: &str,
        wanted: impl Fn(&SeenMessage) -> bool,
    ) -> anyhow::Result<SeenMessage> {
        let look = async || self.messages(channel, thread).await.unwrap_or_default();
        let text = |message: &SeenMessage| format!("{}: {}", message.author, message.text);
        actor::wait_for(&self.login, what, at_most, look, text, wanted).await
    }

    /// Waits until `wanted` is true for the card of a batch; returns the card.
    pub async fn card(
        &self,
        channel: &str,
        batch: i64,
        at_most: Duration,
        wanted: impl Fn(&SeenMessage) -> bool,
    ) -> anyhow::Result<SeenMessage> {
        let title = format!("#{batch} ");
        self.wait_for(channel, None, at_most, &format!("the card of #{batch}"), |message| {
            message.card.is_some() && message.text.starts_with(&title) && wanted(message)
        })
        .await
    }

    /// Reads the JSON at a path as this person.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self
            .http
            .get(format!("{}{path}", self.base))
            .header(header::COOKIE, &self.cookie)
            .send()
            .await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(answer.json().await?)
    }

    /// Target of the redirect at a path, for this person.
    pub async fn leads_to(&self, path: &str) -> anyhow::Result<String> {
        let answer = self
            .http
            .get(format!("{}{path}", self.base))
            .header(header::COOKIE, &self.cookie)
            .send()
            .await?;
        let to = answer.headers().get(header::LOCATION).context("it leads nowhere")?;
        Ok(to.to_str()?.to_owned())
    }
}

#[async_trait]
impl ChatUser for ConsoleUser {
    fn login(&self) -> &str {
        &self.login
    }

    async fn command(&self, text: &str) -> anyhow::Result<()> {
        taken(self.say(METAL, text).await?)
    }

    async fn reply(&self, head: &SeenMessage, text: &str) -> anyhow::Result<()> {
        taken(self.reply(METAL, &head.id, text).await?)
    }

    async fn react(&self, to: &SeenMessage, emoji: &str) -> anyhow::Result<()> {
        taken(self.react(&to.id, emoji, true).await?)
    }

    async fn press(&self, on: &SeenMessage, label: &str) -> anyhow::Result<()> {
        taken(self.press(&on.id, &value(on, label)?).await?)
    }

    async fn answer(&self, on: &SeenMessage, label: &str, answer: &str) -> anyhow::Result<()> {
        taken(self.answer(&on.id, &value(on, label)?, answer).await?)
    }

    async fn messages(&self, head: Option<&SeenMessage>) -> anyhow::Result<Vec<SeenMessage>> {
        self.messages(METAL, head.map(|head| head.id.as_str())).await
    }
}

fn taken(status: StatusCode) -> anyhow::Result<()> {
    ensure!(status == StatusCode::ACCEPTED, "the console answers {status}");
    Ok(())
}

fn value(on: &SeenMessage, label: &str) -> anyhow::Result<String> {
    on.button(label).with_context(|| format!("there is no button {label}"))
}

/// A client of plain HTTP. It does without the system's certificates, which take long to read.
fn client() -> anyhow::Result<Client> {
    let never = reqwest::redirect::Policy::none();
    let client = Client::builder().use_rustls_tls().tls_built_in_root_certs(false);
    Ok(client.redirect(never).timeout(Duration::from_secs(10)).no_proxy().build()?)
}

fn cookie_of(answer: &reqwest::Response) -> anyhow::Result<String> {
    let cookie = answer.headers().get(header::SET_COOKIE).context("no cookie")?.to_str()?;
    Ok(cookie.split(';').next().unwrap_or_default().to_owned())
}

fn seen(message: &Value) -> SeenMessage {
    let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let html = text("html");
    SeenMessage {
        id: text("id"),
        thread: message["thread"].as_str().map(str::to_owned),
        author: message["author"]["login"].as_str().unwrap_or_default().to_owned(),
        text: plain(&html),
        html,
        only_you: message["only_you"].as_bool().unwrap_or_default(),
        card: message.get("card").filter(|card| !card.is_null()).cloned(),
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let from = text.find(start)? + start.len();
    let length = text[from..].find(end)?;
    Some(&text[from..from + length])
}
