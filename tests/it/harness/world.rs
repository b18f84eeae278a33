//! Metalbot inside the test, with its people at the console.

use std::sync::Arc;

use std::ops::Deref;
use std::sync::{Mutex, Once, PoisonError};
use std::thread::{self, ThreadId};

use insta::internals::SettingsBindDropGuard;
use metalbot::app::App;
use metalbot::config::Config;
use metalbot::serve::roles::Roles;
use metalbot::serve::service::Service;
use metalbot::serve::site;
use metalbot_demo::switch;
use metalbot_sim::actor::SeenMessage;
use metalbot_sim::person::ConsoleUser;
use reqwest::StatusCode;

use super::METAL;
use super::site::{Builder, Site};
use super::wait::{PATIENCE, until};

/// A site, the service on it, and its people.
pub struct World {
    /// SRE.
    pub alice: ConsoleUser,
    /// Owns web.
    pub bob: ConsoleUser,
    /// SRE.
    pub carol: ConsoleUser,
    /// Owns db.
    pub dave: ConsoleUser,
    /// Address of the console.
    pub base: String,
    site: Site,
    service: Service,
    _filters: SettingsBindDropGuard,
}

impl Deref for World {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Builder {
    /// Builds the site, and starts the service on it.
    pub async fn start(self) -> World {
        watch();
        let mode = self.slack;
        let site = self.site().await;
        let service = serve(&site).await;
        let base = format!("http://{}", service.address.expect("a web door"));
        match mode {
            Some("socket") => site.slack().connected(1).await.unwrap(),
            Some(_) => site.slack().use_http(&format!("{base}/slack/events")),
            None => {}
        }
        let become_one = async |login| {
            ConsoleUser::become_one(&base, login).await.expect("a seat at the console")
        };
        World {
            alice: become_one("alice").await,
            bob: become_one("bob").await,
            carol: become_one("carol").await,
            dave: become_one("dave").await,
            base,
            site,
            service,
            _filters: filters(),
        }
    }
}

async fn serve(site: &Site) -> Service {
    let config = Config::load(&site.config_file()).unwrap_or_else(|error| panic!("{error}"));
    let started = Service::start(&config, &site.db.address(), Roles::ALL, switch::options()).await;
    started.unwrap_or_else(|error| panic!("{error:#}"))
}

impl World {
    /// What the use cases know here, without what only Slack tells.
    pub fn app(&self) -> Arc<App> {
        let config = Config::load(&self.config_file()).unwrap();
        let loaded = site::load(&config).unwrap();
        Arc::new(site::app(&config, &loaded, None))
    }

    /// Without machines, and with the demo's rules.
    pub async fn start() -> World {
        World::builder().start().await
    }

    /// With machines, and with the demo's rules.
    pub async fn with_rack() -> World {
        World::builder().rack().start().await
    }

    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A person types in the channel; returns what they are told.
    pub async fn says(&self, who: &ConsoleUser, text: &str) -> String {
        self.result_of(who, who.say(METAL, text)).await
    }

    /// A person types in a batch's thread; returns what they are told.
    pub async fn replies(&self, who: &ConsoleUser, batch: i64, text: &str) -> String {
        let card = self.card(batch).await;
        self.result_of(who, who.reply(METAL, &card.id, text)).await
    }

    /// A person presses a button of a batch's card; returns what they are told.
    pub async fn presses(&self, who: &ConsoleUser, batch: i64, button: &str) -> String {
        let card = self.card(batch).await;
        let value = card.button(button).unwrap_or_else(|| panic!("no {button}: {card:?}"));
        self.result_of(who, who.press(&card.id, &value)).await
    }

    /// A person presses a button of the newest message with this text in a batch's thread; returns
    /// what they are told.
    pub async fn presses_in_thread(
        &self,
        who: &ConsoleUser,
        batch: i64,
        text: &str,
        button: &str,
    ) -> String {
        let notice = self.notice(batch, text).await;
        let value = notice.button(button).unwrap_or_else(|| panic!("no {button}: {notice:?}"));
        self.result_of(who, who.press(&notice.id, &value)).await
    }

    /// A person puts an emoji on a batch's card, or takes it away; returns what they are told.
    pub async fn reacts(&self, who: &ConsoleUser, batch: i64, name: &str, on: bool) -> String {
        let card = self.card(batch).await;
        self.result_of(who, who.react(&card.id, name, on)).await
    }

    /// What this person sees new, in the channel and in threads, when all that follows at once from
    /// an act has been said. What the batches themselves report is left out: it comes when it comes.
    pub async fn result_of(
        &self,
        who: &ConsoleUser,
        act: impl Future<Output = anyhow::Result<StatusCode>>,
    ) -> String {
        let before = self.db.newest_message().await;
        assert_eq!(act.await.unwrap(), StatusCode::ACCEPTED);
        self.quiet().await;
        let new = self.db.answers_since(before, &who.login).await;
        let seen = self.seen_by(who).await;
        let find = |id: &i64| {
            let id = id.to_string();
            seen.iter().find(|message| message.id == id).expect("what is theirs is shown")
        };
        let mut new: Vec<&SeenMessage> = new.iter().map(find).collect();
        // Which of two comes first is not said.
        new.sort_by_key(|message| message.only_you);
        let told: Vec<String> = new.into_iter().map(told).collect();
        if told.is_empty() { "(nothing)".into() } else { told.join("\n") }
    }

    /// Everything in the channel and its threads that this person can see.
    pub async fn seen_by(&self, who: &ConsoleUser) -> Vec<SeenMessage> {
        let mut all = Vec::new();
        for head in who.messages(METAL, None).await.unwrap() {
            let thread = who.messages(METAL, Some(&head.id)).await.unwrap();
            all.extend(thread);
        }
        all
    }

    /// The newest state of a batch's card.
    pub async fn card(&self, batch: i64) -> SeenMessage {
        until("a card that is current", async || self.db.card_is_current(batch).await).await;
        self.card_when(batch, |_| true).await
    }

    /// The card of a batch, once it looks as wanted.
    pub async fn card_when(
        &self,
        batch: i64,
        wanted: impl Fn(&SeenMessage) -> bool,
    ) -> SeenMessage {
        self.alice.card(METAL, batch, PATIENCE, wanted).await.unwrap()
    }

    /// What Metalbot says in a batch's thread to everybody, once some message there has this text.
    pub async fn heard(&self, batch: i64, text: &str) -> String {
        self.notice(batch, text).await.text
    }

    /// The newest message to everybody in a batch's thread that has this text, once there is one.
    pub async fn notice(&self, batch: i64, text: &str) -> SeenMessage {
        let head = self.card_when(batch, |_| true).await.id;
        let said = self.alice.wait_for(METAL, Some(&head), PATIENCE, text, |message| {
            message.thread.is_some() && !message.only_you && message.text.contains(text)
        });
        said.await.unwrap()
    }

    /// The words with which a batch's end was announced, as soon as it has ended.
    pub async fn ended(&self, batch: i64) -> String {
        self.heard(batch, "has ended").await
    }

    /// Starts another process beside the first.
    pub async fn replica(&self) -> Service {
        serve(&self.site).await
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&self, wanted: StatusCode) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let ask = async || client.get(format!("{}/readyz", self.base)).send().await.unwrap();
        until(&format!("readiness {wanted}"), async || ask().await.status() == wanted).await;
    }

    /// Checks that the world is left in order, and takes it down.
    pub async fn finish(self) {
        // Nothing is waited for once the service has stopped.
        self.site.settled().await;
        self.service.stop().await;
        let panics = panics_here();
        assert!(panics.is_empty(), "tasks panicked: {panics:#?}");
        self.site.finish().await;
    }
}

/// One message as a snapshot shows it.
pub fn told(message: &SeenMessage) -> String {
    let mut head = match message.thread {
        Some(_) => "-- in the thread".to_owned(),
        None => "-- in the channel".to_owned(),
    };
    if message.only_you {
        head += ", only to them";
    }
    let mut text = format!("{head}\n{}", message.text);
    let buttons = message.buttons();
    if !buttons.is_empty() {
        text += &format!("\n[{}]", buttons.join("] ["));
    }
    text
}

/// What differs from run to run.
fn filters() -> SettingsBindDropGuard {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d{1,2} \w{3} \d\d:\d\d(:\d\d)? UTC", "[time] UTC");
    settings.add_filter(r"done in (\d+[hms] ?)+", "done in [duration]");
    settings.add_filter(r"127\.\d+\.(\d+\.\d+):\d+", "127.x.$1:[port]");
    settings.bind_to_scope()
}

/// Panics of spawned tasks, with the thread on which they happened. A test's runtime has one
/// thread, the test's own, so a task's panic belongs to the test of its thread.
static PANICS: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        // What a test's service warns of is shown with the test when it fails.
        let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
        let _ = lines.with_test_writer().with_ansi(false).try_init();
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if tokio::task::try_id().is_some() {
                let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
                panics.push((thread::current().id(), panic.to_string()));
            }
            usual(panic);
        }));
    });
}

fn panics_here() -> Vec<String> {
    let here = thread::current().id();
    let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    panics.iter().filter(|(thread, _)| *thread == here).map(|(_, text)| text.clone()).collect()
}
