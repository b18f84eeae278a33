//! A Slack of our own on this machine: the Web API and Socket Mode over loopback, or event requests
//! to an address, with people who act in it.
//!
//! It says no as Slack does (`check`): what is too long, unknown or not allowed is refused with
//! Slack's own code. Faults come on demand. Payloads have the documented shapes.
//!
//! Invariant: an event or a form is over only when it was acknowledged; what is not acknowledged in
//! three seconds is sent again, or the person is told that it failed.

mod check;
mod deliver;
mod forms;
mod methods;
mod mrkdwn;
mod page;
mod payload;
mod person;
mod rest;
mod socket;
mod state;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use deliver::{SlackTransport, UserAction, now, request_body, sign};
pub use person::SlackPerson;
use state::{BOT, State};
pub use state::{ShownMessage, SlackFault, User};

use super::actor;

/// Tokens and the secret that the stand-in takes.
pub const BOT_TOKEN: &str = "xoxb-stand-in";
pub const APP_TOKEN: &str = "xapp-stand-in";
pub const SIGNING_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
/// The workspace, and its channels: the bot is in the first only.
pub const TEAM: &str = "T0METAL";
pub const METAL: &str = "C0METAL";
pub const RANDOM: &str = "C0RANDOM";

type Shared = Arc<World>;

/// What handlers share.
struct World {
    state: Mutex<State>,
    /// Opens its doors.
    bot_token: String,
    /// The workspace by whose connections and addresses all others are reached.
    front: Weak<World>,
    /// Those others, where this is the front.
    others: Mutex<Vec<Arc<World>>>,
    /// Where Socket Mode connections are taken.
    socket: SocketAddr,
    api: SocketAddr,
    /// Sends deliveries over HTTP.
    client: OnceLock<reqwest::Client>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workspace of this id.
    fn of_team(self: &Arc<Self>, team: &str) -> Shared {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter().find(|one| one.lock().team == team).unwrap_or(self).clone()
    }

    /// The workspace that a token is of.
    fn of_token(self: &Arc<Self>, token: &str) -> Shared {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter().find(|one| one.bot_token == token).unwrap_or(self).clone()
    }
}

/// A running stand-in.
pub struct SimSlack {
    world: Shared,
    stopping: CancellationToken,
    servers: Vec<JoinHandle<()>>,
}

impl SimSlack {
    /// Starts it on free ports of this machine, with the simulated site's people.
    pub async fn start() -> anyhow::Result<SimSlack> {
        let here = (Ipv4Addr::LOCALHOST, 0);
        let (api, socket) = (TcpListener::bind(here).await?, TcpListener::bind(here).await?);
        let (socket_at, api_at) = (socket.local_addr()?, api.local_addr()?);
        let world = Arc::new_cyclic(|front| World {
            state: Mutex::new(State::new(TEAM, api_at)),
            bot_token: BOT_TOKEN.into(),
            front: Weak::clone(front),
            others: Mutex::default(),
            socket: socket_at,
            api: api_at,
            client: OnceLock::new(),
        });
        let stopping = CancellationToken::new();
        let stopped = stopping.clone();
        let router = rest::router(Arc::clone(&world));
        let serving = tokio::spawn(async move {
            let serving = axum::serve(api, router)
                .with_graceful_shutdown(async move { stopped.cancelled().await });
            if let Err(error) = serving.await {
                tracing::error!(%error, "the simulated Slack closed");
            }
        });
        let taking = tokio::spawn(socket::run(Arc::clone(&world), socket, stopping.clone()));
        Ok(SimSlack { world, stopping, servers: vec![serving, taking] })
    }

    /// Another workspace, or an organisation (`E...`), that has the app: with the same people, channels
    /// and ids, which mean others there. Its deliveries come by the connections of this one.
    pub fn workspace(&self, team: &str) -> SimSlack {
        let world = Arc::new(World {
            state: Mutex::new(State::new(team, self.world.api)),
            bot_token: format!("{BOT_TOKEN}-{team}"),
            front: Arc::downgrade(&self.world),
            others: Mutex::default(),
            socket: self.world.socket,
            api: self.world.api,
            client: OnceLock::new(),
        });
        let mut others = self.world.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.push(Arc::clone(&world));
        SimSlack { world, stopping: self.stopping.child_token(), servers: Vec::new() }
    }

    /// For `[slack] api_url`.
    pub fn api_url(&self) -> String {
        format!("http://{}/api", self.world.api)
    }

    /// Where the channel is shown to people.
    pub fn url(&self) -> String {
        format!("http://{}", self.world.api)
    }

    /// The `[slack]` section that is served by this stand-in.
    pub fn toml(&self, mode: &str) -> String {
        let others = self.world.others.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens: String = if others.is_empty() {
            format!("bot_token = \"{BOT_TOKEN}\"\n")
        } else {
            let all = std::iter::once(&self.world).chain(others.iter());
            let each = all.map(|world| {
                let team = world.lock().team.clone();
                let token = &world.bot_token;
                format!("[[slack.workspaces]]\nteam = \"{team}\"\nbot_token = \"{token}\"\n")
            });
            each.collect()
        };
        format!(
            "[slack]\nmode = \"{mode}\"\napp_token = \"{APP_TOKEN}\"\n\
             signing_secret = \"{SIGNING_SECRET}\"\napi_url = \"{}\"\n{tokens}",
            self.api_url()
        )
    }

    /// Types a slash command. Returns what came back with the acknowledgement.
    pub async fn slash(
        &self,
        who: &str,
        channel: &str,
        text: &str,
    ) -> anyhow::Result<Option<Value>> {
        let act = self.world.lock().slash(who, channel, text)?;
        self.deliver(act).await
    }

    /// Presses the button of this label on a message.
    pub async fn click(
        &self,
        who: &str,
        channel: &str,
        ts: &str,
        label: &str,
    ) -> anyhow::Result<Option<Value>> {
        let act = self.world.lock().click(who, channel, ts, label)?;
        self.deliver(act).await
    }

    /// Puts an emoji on a message.
    pub async fn react(
        &self,
        who: &str,
        channel: &str,
        ts: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        let act = self.world.lock().react(who, channel, ts, name, true)?;
        self.deliver(act).await.map(drop)
    }

    /// Takes it away.
    pub async fn unreact(
        &self,
        who: &str,
        channel: &str,
        ts: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        let act = self.world.lock().react(who, channel, ts, name, false)?;
        self.deliver(act).await.map(drop)
    }

    /// Says something in the channel, or in a thread of it.
    pub async fn say(
        &self,
        who: &str,
        channel: &str,
        thread: Option<&str>,
        text: &str,
    ) -> anyhow::Result<String> {
        let (ts, act) = self.world.lock().say(who, channel, thread, text)?;
        self.deliver(act).await?;
        Ok(ts)
    }

    /// Somebody lets the bot into a channel: `/invite @metalbot`.
    pub async fn invite(&self, who: &str, channel: &str) -> anyhow::Result<()> {
        let act = self.world.lock().invite(who, channel)?;
        self.deliver(act).await.map(drop)
    }

    /// The bot is put out of a channel, which it is not told.
    pub fn remove_bot(&self, channel: &str) {
        if let Some(members) = self.world.lock().channels.get_mut(channel) {
            members.remove(BOT);
        }
    }

    /// From now on only members know the channel.
    pub fn make_private(&self, channel: &str) {
        self.world.lock().private.insert(channel.into());
    }

    /// From now on nobody can write into the channel.
    pub fn archive(&self, channel: &str) {
        self.world.lock().archived.insert(channel.into());
    }

    /// Sends the open view of a person, with what they filled in by block and action.
    pub async fn submit_view(&self, who: &str, values: Value) -> anyhow::Result<Option<Value>> {
        let act = self.world.lock().submit_view(who, values)?;
        let answer = self.deliver(act).await?;
        self.world.lock().answered(who, answer.as_ref())?;
        Ok(answer)
    }

    /// Opens the app's home.
    pub async fn open_home(&self, who: &str) -> anyhow::Result<()> {
        let act = self.world.lock().open_home(who)?;
        self.deliver(act).await.map(drop)
    }

    /// Sends an envelope as Slack would, whatever is in it.
    pub async fn deliver(&self, act: UserAction) -> anyhow::Result<Option<Value>> {
        deliver::deliver(&self.world, act).await
    }

    /// The payload of an act that has not been sent yet, for tests that change it.
    pub fn prepare_slash(
        &self,
        who: &str,
        channel: &str,
        text: &str,
    ) -> anyhow::Result<UserAction> {
        self.world.lock().slash(who, channel, text)
    }

    /// The same for what somebody says.
    pub fn prepare_say(
        &self,
        who: &str,
        channel: &str,
        thread: Option<&str>,
        text: &str,
    ) -> anyhow::Result<(String, UserAction)> {
        self.world.lock().say(who, channel, thread, text)
    }

    /// The same for an emoji put on a message or taken from it.
    pub fn prepare_react(
        &self,
        who: &str,
        channel: &str,
        ts: &str,
        name: &str,
        added: bool,
    ) -> anyhow::Result<UserAction> {
        self.world.lock().react(who, channel, ts, name, added)
    }

    /// The same for a press of a button.
    pub fn prepare_click(
        &self,
        who: &str,
        channel: &str,
        ts: &str,
        label: &str,
    ) -> anyhow::Result<UserAction> {
        self.world.lock().click(who, channel, ts, label)
    }

    /// From now on deliveries are requests to this address.
    pub fn use_http(&self, url: &str) {
        self.world.lock().way = SlackTransport::Http(url.to_owned());
    }

    /// The messages that everybody in the channel sees, and those that only `who` does, in order.
    pub fn messages(&self, who: &str, channel: &str) -> Vec<ShownMessage> {
        self.world.lock().shown(who, channel)
    }

    /// The view that a person has open.
    pub fn view(&self, who: &str) -> Option<Value> {
        self.world.lock().view(who).cloned()
    }

    /// The app's home as this person sees it.
    pub fn home(&self, who: &str) -> Option<Value> {
        let state = self.world.lock();
        state.homes.get(&state.user(who).ok()?.id).cloned()
    }

    /// Names and contents of the files that were sent to a channel.
    pub fn files(&self, channel: &str) -> Vec<(String, String)> {
        let state = self.world.lock();
        let here = state.files.iter().filter(|file| file.channel.as_deref() == Some(channel));
        here.map(|file| (file.name.clone(), file.content.clone())).collect()
    }

    /// A person of the workspace.
    pub fn user(&self, login: &str) -> User {
        self.world.lock().user(login).expect("somebody of the simulated site").clone()
    }

    /// Changes what Slack says of a person, or adds one.
    pub fn change_user(&self, login: &str, change: impl FnOnce(&mut User)) {
        change(self.world.lock().user_or_new(login));
    }

    /// The next calls of a method go wrong in these ways, one after the other.
    pub fn fault(&self, method: &str, faults: impl IntoIterator<Item = SlackFault>) {
        let mut state = self.world.lock();
        state.faults.entry(method.to_owned()).or_default().extend(faults);
    }

    /// While it is down every call ends with 503, and no connection can be opened; those that there
    /// were break.
    pub fn set_down(&self, down: bool) {
        self.world.lock().down = down;
        if down {
            self.drop_connections();
        }
    }

    /// How long an acknowledgement may take; three seconds, unless a test must bear a busy machine.
    pub fn wait_for_acks(&self, wait: Duration) {
        self.world.lock().wait = wait;
    }

    /// Most posts of a channel in a second; more are refused with 429.
    pub fn limit_posts(&self, a_second: usize) {
        self.world.lock().posts_a_second = Some(a_second);
    }

    /// Breaks all connections, without a word.
    pub fn drop_connections(&self) {
        self.world.lock().connections.clear();
    }

    /// Asks all connections to be replaced, or to leave: `warning`, `refresh_requested`.
    pub fn ask_to_disconnect(&self, reason: &str) {
        let message = json!({
            "type": "disconnect", "reason": reason,
            "debug_info": { "host": "applink-stand-in" },
        });
        for connection in self.world.lock().connections.values() {
            let _ = connection.send(message.to_string());
        }
    }

    /// Most connections of the app at a time; ten, if nothing else is said.
    pub fn limit_connections(&self, most: usize) {
        self.world.lock().most_connections = most;
    }

    /// How many connections were sent away because there were as many already.
    pub fn sent_away(&self) -> usize {
        self.world.lock().sent_away
    }

    /// From now on connections are opened and not greeted, or greeted again.
    pub fn set_silent(&self, silent: bool) {
        self.world.lock().silent = silent;
    }

    /// Sends text over all connections as it is.
    pub fn send_raw(&self, text: &str) {
        for connection in self.world.lock().connections.values() {
            let _ = connection.send(text.to_owned());
        }
    }

    /// Each of the next deliveries comes so many times more, under other envelopes.
    pub fn repeat(&self, times: u32, other_event_ids: bool) {
        let mut state = self.world.lock();
        (state.repeats, state.other_event_ids) = (times, other_event_ids);
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.world.lock().connections.len()
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> usize {
        self.world.lock().calls.get(method).copied().unwrap_or_default()
    }

    /// When a method was called for a channel, in order.
    pub fn times(&self, method: &str, channel: &str) -> Vec<std::time::Instant> {
        let state = self.world.lock();
        state.times.get(&(method.to_owned(), channel.to_owned())).cloned().unwrap_or_default()
    }

    /// Waits until a message is there that is as wanted; the newest such one.
    pub async fn wait_for(
        &self,
        who: &str,
        channel: &str,
        at_most: Duration,
        what: &str,
        wanted: impl Fn(&ShownMessage) -> bool,
    ) -> anyhow::Result<ShownMessage> {
        let look = async || self.messages(who, channel);
        actor::wait_for(who, what, at_most, look, |message| message.text.clone(), wanted).await
    }

    /// The card of a batch, as soon as it is as wanted.
    pub async fn card(
        &self,
        batch: i64,
        at_most: Duration,
        wanted: impl Fn(&ShownMessage) -> bool,
    ) -> anyhow::Result<ShownMessage> {
        let title = format!("*#{batch} ");
        self.wait_for("alice", METAL, at_most, &format!("the card of #{batch}"), |message| {
            message.thread.is_none()
                && message.only_to.is_none()
                && message.user == BOT
                && message.text.lines().next().is_some_and(|line| line.contains(&title))
                && wanted(message)
        })
        .await
    }

    /// Waits until so many connections are open and greeted.
    pub async fn connected(&self, number: usize) -> anyhow::Result<()> {
        let started = std::time::Instant::now();
        while self.connections() != number {
            let waited = started.elapsed();
            ensure!(waited < Duration::from_secs(60), "{} connections", self.connections());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Stops it.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        self.drop_connections();
        for mut server in self.servers.drain(..) {
            if tokio::time::timeout(Duration::from_secs(1), &mut server).await.is_err() {
                server.abort();
            }
        }
    }
}

impl Drop for SimSlack {
    fn drop(&mut self) {
        self.stopping.cancel();
        for server in &self.servers {
            server.abort();
        }
    }
}
