//! A simulated Slack on this machine: the Web API and Socket Mode over loopback, or event requests
//! to an address, with people who act in it.
//!
//! Refuses as Slack does (`check`): a request that is too long, unknown or not allowed gets
//! Slack's own error code. Faults come on demand. Payloads have the documented shapes.
//!
//! Invariant: an event or a form is done only when it is acknowledged; without an acknowledgement
//! within three seconds it is sent again, or the person sees an error.

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
mod wait;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use deliver::{SlackTransport, UserAction, now, request_body, sign};
pub use person::SlackPerson;
use state::{BOT, State};
pub use state::{ShownMessage, SlackFault, User};

/// Tokens and the secret that are accepted.
pub const BOT_TOKEN: &str = "xoxb-stand-in";
pub const APP_TOKEN: &str = "xapp-stand-in";
pub const SIGNING_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
/// Workspace, and its channels: the bot is in the first only.
pub const TEAM: &str = "T0METAL";
pub const METAL: &str = "C0METAL";
pub const RANDOM: &str = "C0RANDOM";

type Shared = Arc<World>;

/// State that handlers share.
struct World {
    state: Mutex<State>,
    /// Token of the bot, for the Web API.
    bot_token: String,
    /// Main workspace, through whose connections and addresses all others are reached.
    front: Weak<World>,
    /// Other workspaces, if this is the main one.
    others: Mutex<Vec<Arc<World>>>,
    /// Address for Socket Mode connections.
    socket: SocketAddr,
    api: SocketAddr,
    /// HTTP client for deliveries.
    client: OnceLock<reqwest::Client>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Workspace with this id.
    fn of_team(self: &Arc<Self>, team: &str) -> Shared {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter().find(|one| one.lock().team == team).unwrap_or(self).clone()
    }

    /// Workspace of a token.
    fn of_token(self: &Arc<Self>, token: &str) -> Shared {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter().find(|one| one.bot_token == token).unwrap_or(self).clone()
    }
}

/// Running simulated Slack.
pub struct SimSlack {
    world: Shared,
    stopping: CancellationToken,
    servers: Vec<JoinHandle<()>>,
}

impl SimSlack {
    /// Starts the server on free ports of this machine, with the simulated site's people.
    pub async fn start() -> anyhow::Result<SimSlack> {
        SimSlack::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// The same at another of this machine's addresses.
    pub async fn start_at(address: Ipv4Addr) -> anyhow::Result<SimSlack> {
        let here = (address, 0);
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

    /// Adds another workspace, or an organisation (`E...`), that has the app. It has the same
    /// channels and ids of people, but they are different channels and people. Its deliveries use
    /// the connections of this one.
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

    /// Value for `[slack] api_url`.
    pub fn api_url(&self) -> String {
        format!("http://{}/api", self.world.api)
    }

    /// Address of the page that shows the channel.
    pub fn url(&self) -> String {
        format!("http://{}", self.world.api)
    }

    /// Section `[slack]` of a configuration that uses this server.
    pub fn toml(&self, mode: &str) -> String {
        let others = self.world.others.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens: String = if others.is_empty() {
            // In HTTP mode nothing tells when Metalbot has asked whose the token is.
            let team = if mode == "http" { "team = \"T0METAL\"\n" } else { "" };
            format!("{team}bot_token = \"{BOT_TOKEN}\"\n")
        } else {
            let all = std::iter::once(&self.world).chain(others.iter());
            let each = all.map(|world| {
                let (team, token) = (world.lock().team.clone(), &world.bot_token);
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

    /// Types a slash command. Returns the content of the acknowledgement.
    pub async fn slash(
        &self,
        who: &str,
        channel: &str,
        text: &str,
    ) -> anyhow::Result<Option<Value>> {
        let act = self.world.lock().slash(who, channel, text)?;
        self.deliver(act).await
    }

    /// Presses the button with this label on a message.
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

    /// Adds an emoji to a message.
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

    /// Removes an emoji from a message.
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

    /// Posts in the channel, or in a thread of it.
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

    /// Adds the bot to a channel, as a person does with `/invite @metalbot`.
    pub async fn invite(&self, who: &str, channel: &str) -> anyhow::Result<()> {
        let act = self.world.lock().invite(who, channel)?;
        self.deliver(act).await.map(drop)
    }

    /// Removes the bot from a channel, without an event.
    pub fn remove_bot(&self, channel: &str) {
        if let Some(members) = self.world.lock().channels.get_mut(channel) {
            members.remove(BOT);
        }
    }

    /// Makes a channel private: only members know it from now on.
    pub fn make_private(&self, channel: &str) {
        self.world.lock().private.insert(channel.into());
    }

    /// Archives a channel: nobody can post in it from now on.
    pub fn archive(&self, channel: &str) {
        self.world.lock().archived.insert(channel.into());
    }

    /// Sends the open view of a person, with the values by block and action.
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

    /// Sends an envelope as Slack would, with any content.
    pub async fn deliver(&self, act: UserAction) -> anyhow::Result<Option<Value>> {
        deliver::deliver(&self.world, act).await
    }

    /// Payload of a slash command that is not sent yet, for tests that change it.
    pub fn prepare_slash(
        &self,
        who: &str,
        channel: &str,
        text: &str,
    ) -> anyhow::Result<UserAction> {
        self.world.lock().slash(who, channel, text)
    }

    /// Payload of a message that is not sent yet.
    pub fn prepare_say(
        &self,
        who: &str,
        channel: &str,
        thread: Option<&str>,
        text: &str,
    ) -> anyhow::Result<(String, UserAction)> {
        self.world.lock().say(who, channel, thread, text)
    }

    /// Payload of an added or removed emoji that is not sent yet.
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

    /// Payload of a press of a button that is not sent yet.
    pub fn prepare_click(
        &self,
        who: &str,
        channel: &str,
        ts: &str,
        label: &str,
    ) -> anyhow::Result<UserAction> {
        self.world.lock().click(who, channel, ts, label)
    }

    /// Sends deliveries as requests to this address from now on.
    pub fn use_http(&self, url: &str) {
        self.world.lock().way = SlackTransport::Http(url.to_owned());
    }

    /// Messages in the channel for everybody, and those for `who` only, in order.
    pub fn messages(&self, who: &str, channel: &str) -> Vec<ShownMessage> {
        self.world.lock().shown(who, channel)
    }

    /// Open view of a person.
    pub fn view(&self, who: &str) -> Option<Value> {
        self.world.lock().view(who).cloned()
    }

    /// App's home for this person.
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

    /// Person of the workspace.
    pub fn user(&self, login: &str) -> User {
        self.world.lock().user(login).expect("somebody of the simulated site").clone()
    }

    /// Changes the data of a person in Slack, or adds a person.
    pub fn change_user(&self, login: &str, change: impl FnOnce(&mut User)) {
        change(self.world.lock().user_or_new(login));
    }

    /// Queues faults for the next calls of a method, one per call.
    pub fn fault(&self, method: &str, faults: impl IntoIterator<Item = SlackFault>) {
        let mut state = self.world.lock();
        state.faults.entry(method.to_owned()).or_default().extend(faults);
    }

    /// Takes Slack down, or up with `false`: calls end with 503, connections are closed.
    pub fn set_down(&self, down: bool) {
        self.world.lock().down = down;
        if down {
            self.drop_connections();
        }
    }

    /// Sets the time for an acknowledgement: three seconds, or more for a test on a busy machine.
    pub fn wait_for_acks(&self, wait: Duration) {
        self.world.lock().wait = wait;
    }

    /// Sets the largest number of posts in a channel per second; more are refused with 429.
    pub fn limit_posts(&self, a_second: usize) {
        self.world.lock().posts_a_second = Some(a_second);
    }

    /// Drops all connections without a message.
    pub fn drop_connections(&self) {
        self.world.lock().connections.clear();
    }

    /// Asks the app to replace or close all connections: `warning`, `refresh_requested`.
    pub fn ask_to_disconnect(&self, reason: &str) {
        let message = json!({
            "type": "disconnect", "reason": reason,
            "debug_info": { "host": "applink-stand-in" },
        });
        for connection in self.world.lock().connections.values() {
            let _ = connection.send(message.to_string());
        }
    }

    /// Sets the largest number of connections of the app at a time; ten by default.
    pub fn limit_connections(&self, most: usize) {
        self.world.lock().most_connections = most;
    }

    /// Number of connections that were refused because of that limit.
    pub fn sent_away(&self) -> usize {
        self.world.lock().sent_away
    }

    /// Stops greeting new connections, or with `false` starts again.
    pub fn set_silent(&self, silent: bool) {
        self.world.lock().silent = silent;
    }

    /// Sends text over all connections, unchanged.
    pub fn send_raw(&self, text: &str) {
        for connection in self.world.lock().connections.values() {
            let _ = connection.send(text.to_owned());
        }
    }

    /// Repeats each of the next deliveries this many times, in other envelopes.
    pub fn repeat(&self, times: u32, other_event_ids: bool) {
        let mut state = self.world.lock();
        (state.repeats, state.other_event_ids) = (times, other_event_ids);
    }

    /// Number of open connections.
    pub fn connections(&self) -> usize {
        self.world.lock().connections.len()
    }

    /// Number of calls of a method.
    pub fn calls(&self, method: &str) -> usize {
        self.world.lock().calls.get(method).copied().unwrap_or_default()
    }

    /// Times of a method's calls for a channel, in order.
    pub fn times(&self, method: &str, channel: &str) -> Vec<std::time::Instant> {
        let state = self.world.lock();
        state.times.get(&(method.to_owned(), channel.to_owned())).cloned().unwrap_or_default()
    }

    /// Stops the server.
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
