//! State of the simulated Slack: people, channels, messages, views, files.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::deliver::{SlackTransport, WAIT};
use super::{METAL, RANDOM};
use crate::fleet::PEOPLE;

/// User id of the bot.
pub const BOT: &str = "U0BOT";

/// Fault of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlackFault {
    /// 429 with `Retry-After` in seconds.
    RateLimited(u64),
    /// This status, without a body.
    Status(u16),
    /// Answer `{"ok": false, "error": ...}`.
    Error(&'static str),
    /// The work is done, and the answer is lost.
    LoseAnswer,
    /// No work is done, and the connection breaks.
    Break,
    /// The work is done, and the answer comes after this time.
    Slow(Duration),
}

/// Person in Slack.
#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub login: String,
    pub email: String,
    pub confirmed: bool,
    pub deleted: bool,
    pub team: String,
}

/// Message as people see it.
#[derive(Clone, PartialEq, Debug)]
pub struct ShownMessage {
    pub ts: String,
    pub channel: String,
    pub thread: Option<String>,
    pub user: String,
    /// Texts of the blocks, line by line, as mrkdwn.
    pub text: String,
    /// Text for notifications.
    pub fallback: String,
    pub blocks: Value,
    pub only_to: Option<String>,
    pub metadata: Value,
    /// Emoji, each with the user who added it.
    pub reactions: BTreeSet<(String, String)>,
    pub edits: u32,
    /// Targets of notifications: `channel`, `here`, `everyone`, ids of users and groups.
    pub pings: Vec<String>,
}

impl ShownMessage {
    /// Labels of the buttons.
    pub fn buttons(&self) -> Vec<String> {
        let label = |element: &Value| element["text"]["text"].as_str().unwrap_or_default().into();
        self.elements().iter().map(label).collect()
    }

    /// Button with this label.
    pub fn button(&self, label: &str) -> Option<Value> {
        self.elements().into_iter().find(|element| element["text"]["text"] == label)
    }

    /// All buttons.
    pub fn elements(&self) -> Vec<Value> {
        let blocks = self.blocks.as_array().into_iter().flatten();
        blocks
            .filter(|block| block["type"] == "actions")
            .flat_map(|block| block["elements"].as_array().cloned().unwrap_or_default())
            .collect()
    }
}

#[derive(Clone, Debug)]
pub struct File {
    pub id: String,
    pub name: String,
    pub length: usize,
    pub content: String,
    pub channel: Option<String>,
    pub thread: Option<String>,
}

pub struct State {
    /// Id of the workspace, or of the organisation that the app was installed for as a whole.
    pub team: String,
    /// Address of the Web API.
    pub address: SocketAddr,
    /// Addresses for answers, each with its channel, its user, and the number of answers left.
    pub responses: HashMap<String, (String, String, u32)>,
    pub users: BTreeMap<String, User>,
    /// Members by channel.
    pub channels: BTreeMap<String, BTreeSet<String>>,
    /// Users with whom the bot has an open conversation.
    pub direct: BTreeSet<String>,
    /// Private channels, which only their members know; below, archived ones, which are read-only.
    pub private: BTreeSet<String>,
    pub archived: BTreeSet<String>,
    pub messages: Vec<ShownMessage>,
    /// Open views by user, the topmost last.
    pub views: HashMap<String, Vec<Value>>,
    pub homes: HashMap<String, Value>,
    pub files: Vec<File>,
    /// Trigger ids that may still open a view, each with its user and its time.
    pub triggers: HashMap<String, (String, Instant)>,
    pub faults: HashMap<String, VecDeque<SlackFault>>,
    pub down: bool,
    pub posts_a_second: Option<usize>,
    pub repeats: u32,
    pub other_event_ids: bool,
    pub calls: HashMap<String, usize>,
    pub times: HashMap<(String, String), Vec<Instant>>,
    pub way: SlackTransport,
    /// Time that Slack waits for an acknowledgement.
    pub wait: Duration,
    /// Socket Mode connections that were greeted.
    pub connections: BTreeMap<u64, mpsc::UnboundedSender<String>>,
    /// Largest number of connections of the app; below, the number of refused ones.
    pub most_connections: usize,
    pub sent_away: usize,
    /// Set to open connections without a greeting.
    pub silent: bool,
    /// Tickets for connections that may be opened.
    pub tickets: BTreeSet<String>,
    /// Receivers of acknowledgements, by envelope.
    pub waiting: HashMap<String, oneshot::Sender<Option<Value>>>,
    /// Number that selects the connection for the next envelope.
    pub turn: u64,
    number: u64,
}

impl State {
    pub fn new(team: &str, address: SocketAddr) -> State {
        let users = PEOPLE.iter().map(|person| {
            let user = new_user(person.login, team);
            (user.id.clone(), user)
        });
        let users: BTreeMap<String, User> = users.collect();
        let people: BTreeSet<String> = users.keys().cloned().collect();
        let mut with_bot = people.clone();
        with_bot.insert(BOT.into());
        State {
            team: team.into(),
            address,
            responses: HashMap::new(),
            users,
            channels: BTreeMap::from([(METAL.into(), with_bot), (RANDOM.into(), people)]),
            direct: BTreeSet::new(),
            private: BTreeSet::new(),
            archived: BTreeSet::new(),
            messages: Vec::new(),
            views: HashMap::new(),
            homes: HashMap::new(),
            files: Vec::new(),
            triggers: HashMap::new(),
            faults: HashMap::new(),
            down: false,
            posts_a_second: None,
            repeats: 0,
            other_event_ids: false,
            calls: HashMap::new(),
            times: HashMap::new(),
            way: SlackTransport::Socket,
            wait: WAIT,
            connections: BTreeMap::new(),
            most_connections: 10,
            sent_away: 0,
            silent: false,
            tickets: BTreeSet::new(),
            waiting: HashMap::new(),
            turn: 0,
            number: 0,
        }
    }

    /// Number that was never used before.
    pub fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// New time stamp, which names a message or an event.
    #[expect(clippy::disallowed_methods, reason = "the simulated Slack has a clock of its own")]
    pub fn next_ts(&mut self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{}.{:06}", now.as_secs(), self.next() % 1_000_000)
    }

    pub fn user(&self, login: &str) -> anyhow::Result<&User> {
        let found = self.users.values().find(|user| user.login == login);
        found.with_context(|| format!("{login} is not in the workspace"))
    }

    pub fn user_or_new(&mut self, login: &str) -> &mut User {
        let new = new_user(login, &self.team);
        for members in self.channels.values_mut() {
            members.insert(new.id.clone());
        }
        self.users.entry(new.id.clone()).or_insert(new)
    }

    /// Message that this person can see.
    pub fn message(&self, channel: &str, ts: &str) -> anyhow::Result<&ShownMessage> {
        let found = self.messages.iter().find(|m| m.channel == channel && m.ts == ts);
        found.with_context(|| format!("there is no message {ts} in {channel}"))
    }

    pub fn shown(&self, who: &str, channel: &str) -> Vec<ShownMessage> {
        let id = self.user(who).map(|user| user.id.clone()).unwrap_or_default();
        let own = |m: &&ShownMessage| m.only_to.as_ref().is_none_or(|only| *only == id);
        let here = |m: &&ShownMessage| {
            m.channel == channel || (channel == who && m.channel == conversation(&id))
        };
        self.messages.iter().filter(own).filter(here).cloned().collect()
    }

    /// Messages of the channel for work on servers and direct messages, as a person sees them.
    pub fn visible(&self, who: &str) -> Vec<ShownMessage> {
        let mut all = self.shown(who, METAL);
        all.extend(self.shown(who, who));
        all.sort_by(|one, other| one.ts.cmp(&other.ts));
        all
    }

    /// Open view of a person.
    pub fn view(&self, who: &str) -> Option<&Value> {
        self.views.get(&self.user(who).ok()?.id)?.last()
    }

    /// User id of a person; an error if they are not in the channel, because only members can act
    /// there.
    pub fn in_channel(&self, login: &str, channel: &str) -> anyhow::Result<String> {
        let id = self.user(login)?.id.clone();
        let members = self.channels.get(channel).with_context(|| format!("no {channel}"))?;
        ensure!(members.contains(&id), "{login} is not in {channel}");
        Ok(id)
    }

    /// Adds a message; returns its time stamp.
    pub fn post(&mut self, mut message: ShownMessage) -> String {
        message.ts = self.next_ts();
        let ts = message.ts.clone();
        self.messages.push(message);
        ts
    }
}

/// Id of the conversation between the bot and one user.
pub fn conversation(user: &str) -> String {
    format!("D{user}")
}

fn new_user(login: &str, team: &str) -> User {
    User {
        id: format!("U0{}", login.to_uppercase()),
        login: login.into(),
        email: format!("{login}@example.org"),
        confirmed: true,
        deleted: false,
        team: team.into(),
    }
}

/// Message with this content.
pub fn message(channel: &str, user: &str, content: &Value) -> ShownMessage {
    let texts = texts(&content["blocks"]);
    let fallback = content["text"].as_str().unwrap_or_default().to_owned();
    let text = if texts.is_empty() { fallback.clone() } else { texts.join("\n") };
    ShownMessage {
        ts: String::new(),
        channel: channel.into(),
        thread: content["thread_ts"].as_str().map(str::to_owned),
        user: user.into(),
        pings: pings(&format!("{text}\n{fallback}")),
        text: text.replace('\u{200b}', ""),
        fallback,
        blocks: content.get("blocks").cloned().unwrap_or(json!([])),
        only_to: None,
        metadata: content.get("metadata").cloned().unwrap_or(Value::Null),
        reactions: BTreeSet::new(),
        edits: 0,
    }
}

fn texts(blocks: &Value) -> Vec<String> {
    let mut texts = Vec::new();
    for block in blocks.as_array().into_iter().flatten() {
        texts.extend(block["text"]["text"].as_str().map(str::to_owned));
        if block["type"] == "context" {
            let elements = block["elements"].as_array().into_iter().flatten();
            texts.extend(elements.filter_map(|e| e["text"].as_str().map(str::to_owned)));
        }
    }
    texts
}

/// Targets that this mrkdwn would notify.
fn pings(text: &str) -> Vec<String> {
    let inside = text.split('<').skip(1).filter_map(|rest| rest.split_once('>'));
    inside
        .filter_map(|(inside, _)| inside.strip_prefix(['!', '@']))
        .map(|target| target.split('|').next().unwrap_or_default().to_owned())
        .collect()
}
