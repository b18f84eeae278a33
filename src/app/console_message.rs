//! The console's own channels: people's messages, reactions and presses of buttons, and the bot's
//! posts.
//!
//! Invariant: the message that a person sees and the delivery that Metalbot will act on are written
//! in one transaction; a delivery that was taken before writes nothing.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use sqlx::PgPool;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::intake::DecodeError;
use metalbot_core::domain::inbound::{ChatLocation, Inbound, InboundBody, PlatformUser};
pub use metalbot_store::console_message::{ConsoleMessage, MessageReaction};
use metalbot_store::listener::Listener;
use metalbot_store::{self as store, answered_within};

/// The platform's name in [`ChatLocation`] and [`PlatformUser`].
pub const PLATFORM: &str = "console";
/// The author of the bot's messages.
pub const BOT: &str = "metalbot";
/// Longest message of a person, in bytes of UTF-8.
pub const MAX_TEXT: usize = 16 * 1024;
/// Most messages that one list shows.
const MAX_LIST: i64 = 200;
const MAX_VALUE: usize = 2000;
const LIVE_BUFFER: usize = 1024;
/// Time to read what has changed; open consoles are told to read it all otherwise.
const READ: Duration = Duration::from_secs(10);

/// Error of an action in the console; nothing was changed. The text is for the person.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error("there is no such channel")]
    NoSuchChannel,
    #[error("there is no such message; it may be one that only somebody else can see")]
    NoSuchMessage,
    #[error("the text is empty")]
    Empty,
    #[error("the text is {0} bytes long; at most {MAX_TEXT} are taken")]
    TooLong(usize),
    #[error("the text holds a character that cannot be stored")]
    Unstorable,
    #[error("the message or button is not named as it should be")]
    Malformed,
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
}

/// Result of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    Now,
    /// The delivery was taken before; nothing was written.
    Before,
}

/// Person who acts, and the id of the delivery. The id counts within one login only, so one
/// person's delivery can never be taken for another's.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    pub login: &'a str,
    /// Chosen by the person's browser, 1 to 64 letters, digits or `-`.
    pub delivery: &'a str,
}

impl By<'_> {
    fn key(&self) -> Result<String, ConsoleError> {
        let ok = (1..=64).contains(&self.delivery.len())
            && self.delivery.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if ok {
            Ok(format!("{}:{}", self.login, self.delivery))
        } else {
            Err(ConsoleError::Malformed)
        }
    }
}

/// Stores a person's message. A text that begins with `/metal` is a command, in a channel and in a
/// thread; any other text in a thread is a reply; any other text in a channel is for people alone.
pub async fn say(
    pool: &PgPool,
    by: By<'_>,
    channel: &str,
    thread: Option<&str>,
    text: &str,
) -> Result<Taken, ConsoleError> {
    let key = by.key()?;
    let text = text.trim();
    if text.is_empty() {
        return Err(ConsoleError::Empty);
    }
    if text.len() > MAX_TEXT {
        return Err(ConsoleError::TooLong(text.len()));
    }
    if text.contains('\0') {
        return Err(ConsoleError::Unstorable);
    }
    let head = thread.map(message_id).transpose()?;
    let mut tx = pool.begin().await?;
    if let Some(head) = head {
        let spot = store::console_message::visible(&mut tx, head, by.login).await?;
        if !spot.is_some_and(|spot| spot.thread.is_none() && spot.channel == channel) {
            return Err(ConsoleError::NoSuchMessage);
        }
    }
    let new = store::console_message::NewMessage {
        channel,
        thread: head,
        author: by.login,
        bot: false,
        body: text,
        card: None,
        only_to: None,
        key: &format!("say:{key}"),
    };
    if store::console_message::insert(&mut tx, new).await?.is_none() {
        return Ok(Taken::Before);
    }
    let what = match command_in(text) {
        Some(command) => Some(InboundBody::Command { text: command.to_owned() }),
        None => head.map(|_| InboundBody::ThreadReply { text: text.to_owned(), at: None }),
    };
    if let Some(what) = what
        && !accept(&mut tx, by, key, channel.into(), head, what).await?
    {
        return Ok(Taken::Before);
    }
    tx.commit().await?;
    Ok(Taken::Now)
}

/// Puts a person's emoji on a message (`on`) or takes it away.
pub async fn react(
    pool: &PgPool,
    by: By<'_>,
    message: &str,
    name: &str,
    on: bool,
) -> Result<Taken, ConsoleError> {
    let key = by.key()?;
    let name_ok = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_+-".contains(&b));
    if !name_ok {
        return Err(ConsoleError::Malformed);
    }
    let id = message_id(message)?;
    let mut tx = pool.begin().await?;
    let spot = store::console_message::visible(&mut tx, id, by.login)
        .await?
        .ok_or(ConsoleError::NoSuchMessage)?;
    if !store::console_message::react(&mut tx, id, by.login, name, on).await? {
        return Ok(Taken::Before);
    }
    let (message, name) = (id.to_string(), name.to_owned());
    let what = InboundBody::Reaction { message, name, added: on, at: None };
    if !accept(&mut tx, by, key, spot.channel, spot.thread, what).await? {
        return Ok(Taken::Before);
    }
    tx.commit().await?;
    Ok(Taken::Now)
}

/// Stores a person's press of a button. The value is stored as it came: the use case checks it
/// later, because the card may have changed since the person saw it.
pub async fn press(
    pool: &PgPool,
    by: By<'_>,
    message: &str,
    value: &str,
    answer: Option<&str>,
) -> Result<Taken, ConsoleError> {
    let key = by.key()?;
    if value.is_empty() || value.len() > MAX_VALUE || value.contains('\0') {
        return Err(ConsoleError::Malformed);
    }
    let answer = answer.unwrap_or_default().trim();
    if answer.len() > MAX_TEXT {
        return Err(ConsoleError::TooLong(answer.len()));
    }
    if answer.contains('\0') {
        return Err(ConsoleError::Unstorable);
    }
    let answer = (!answer.is_empty()).then(|| answer.to_owned());
    let id = message_id(message)?;
    let mut tx = pool.begin().await?;
    let spot = store::console_message::visible(&mut tx, id, by.login)
        .await?
        .filter(|spot| spot.has_card)
        .ok_or(ConsoleError::NoSuchMessage)?;
    let what = InboundBody::Button { message: id.to_string(), value: value.into(), answer };
    let taken = accept(&mut tx, by, key, spot.channel, spot.thread, what).await?;
    tx.commit().await?;
    Ok(if taken { Taken::Now } else { Taken::Before })
}

/// Message that the bot posts.
#[derive(Clone, Copy, Debug)]
pub struct Post<'a> {
    pub author: &'a str,
    pub channel: &'a str,
    pub thread: Option<&'a str>,
    pub only_to: Option<&'a str>,
    /// Idempotency key: a second post under the same key writes nothing.
    pub key: &'a str,
    pub markdown: &'a str,
    pub card: Option<&'a Value>,
}

/// Posts a message of the bot and returns its id.
pub async fn post(pool: &PgPool, post: Post<'_>) -> Result<String, ConsoleError> {
    let thread = post.thread.map(message_id).transpose()?;
    let key = format!("bot:{}", post.key);
    let mut tx = pool.begin().await?;
    let new = store::console_message::NewMessage {
        channel: post.channel,
        thread,
        author: post.author,
        bot: true,
        body: post.markdown,
        card: post.card,
        only_to: post.only_to,
        key: &key,
    };
    let id = match store::console_message::insert(&mut tx, new).await? {
        Some(id) => id,
        None => store::console_message::id_of_key(&mut tx, &key)
            .await?
            .ok_or(ConsoleError::NoSuchMessage)?,
    };
    tx.commit().await?;
    Ok(id.to_string())
}

/// Replaces the text and the card of one of the bot's messages.
pub async fn update(
    pool: &PgPool,
    id: &str,
    markdown: &str,
    card: Option<&Value>,
) -> Result<(), ConsoleError> {
    let id = message_id(id)?;
    let mut tx = pool.begin().await?;
    if !store::console_message::edit(&mut tx, id, markdown, card).await? {
        return Err(ConsoleError::NoSuchMessage);
    }
    tx.commit().await?;
    Ok(())
}

/// Reads the latest messages of a channel, or a thread's first message and its latest replies, as
/// far as this person may see them.
pub async fn list(
    pool: &PgPool,
    login: &str,
    channel: &str,
    thread: Option<&str>,
) -> Result<Vec<Arc<ConsoleMessage>>, ConsoleError> {
    let ids = match thread.map(message_id).transpose()? {
        None => store::console_message::heads(pool, channel, login, MAX_LIST).await?,
        Some(head) => {
            let spot =
                store::console_message::visible(&mut *pool.acquire().await?, head, login).await?;
            if !spot.is_some_and(|spot| spot.thread.is_none() && spot.channel == channel) {
                return Err(ConsoleError::NoSuchMessage);
            }
            let mut ids = vec![head];
            ids.extend(store::console_message::replies(pool, head, login, MAX_LIST).await?);
            ids
        }
    };
    Ok(store::console_message::load(pool, &ids).await?.into_iter().map(Arc::new).collect())
}

/// Id of the newest message in a channel that this person may see.
pub async fn newest(
    pool: &PgPool,
    login: &str,
    channel: &str,
) -> Result<Option<i64>, ConsoleError> {
    Ok(store::console_message::heads(pool, channel, login, 1).await?.pop())
}

/// Change that open consoles must show.
#[derive(Clone, Debug)]
pub enum LiveEvent {
    Changed(Arc<ConsoleMessage>),
    /// Changes may have been missed: read the list again.
    Resync,
}

/// Stream of changes for open consoles. Every replica has its own, fed by the database.
#[derive(Clone, Debug)]
pub struct Live {
    sender: broadcast::Sender<LiveEvent>,
    stop: CancellationToken,
}

impl Live {
    pub fn subscribe(&self) -> broadcast::Receiver<LiveEvent> {
        self.sender.subscribe()
    }

    /// Resolves when the process is about to end, so that open streams do not delay its end.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

/// Starts the task that turns the database's notifications into [`LiveEvent`]s until `stop`.
pub fn start_live(pool: PgPool, stop: CancellationToken) -> (Live, JoinHandle<()>) {
    let (sender, _) = broadcast::channel(LIVE_BUFFER);
    let live = Live { sender: sender.clone(), stop: stop.clone() };
    let task = tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = run_live(&pool, &sender) => {}
        }
    });
    (live, task)
}

async fn run_live(pool: &PgPool, sender: &broadcast::Sender<LiveEvent>) {
    loop {
        if let Err(error) = listen(pool, sender).await {
            tracing::warn!(%error, "the console's live stream lost the database; trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen(pool: &PgPool, sender: &broadcast::Sender<LiveEvent>) -> sqlx::Result<()> {
    let mut listener = Listener::open(pool, store::console_message::NOTIFY_CHANNEL).await?;
    // Sending fails when no console is open; that is no error.
    let _ = sender.send(LiveEvent::Resync);
    loop {
        let first = listener.next().await?;
        let mut ids: Vec<i64> = first.payload().parse().into_iter().collect();
        while let Some(more) = listener.next_buffered() {
            ids.extend(more.payload().parse::<i64>());
        }
        ids.sort_unstable();
        ids.dedup();
        let messages = store::console_message::load(pool, &ids);
        for message in answered_within(READ, messages).await? {
            let _ = sender.send(LiveEvent::Changed(Arc::new(message)));
        }
    }
}

/// Decodes a delivery of the console, which is stored in decoded form.
pub fn decode(body: &Value) -> Result<Inbound, DecodeError> {
    Inbound::deserialize(body).map_err(|error| DecodeError(error.to_string()))
}

/// Returns the text behind `/metal`, or behind `@metalbot`, if the text begins with that word in any case.
/// Whatever else begins with a slash and a letter was meant as a command: it is one as it stands, so that
/// the answer says what it should have been.
pub fn command_in(text: &str) -> Option<&str> {
    for name in ["/metal", "@metalbot"] {
        if let (Some(start), Some(rest)) = (text.get(..name.len()), text.get(name.len()..))
            && start.eq_ignore_ascii_case(name)
            && (rest.is_empty() || rest.starts_with(char::is_whitespace))
        {
            return Some(rest.trim());
        }
    }
    let word = text.strip_prefix('/')?.split_whitespace().next()?;
    let meant = word.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
    meant.then(|| text.trim())
}

fn message_id(text: &str) -> Result<i64, ConsoleError> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or(ConsoleError::NoSuchMessage)
}

async fn accept(
    conn: &mut sqlx::PgConnection,
    by: By<'_>,
    delivery: String,
    channel: String,
    thread: Option<i64>,
    body: InboundBody,
) -> sqlx::Result<bool> {
    let inbound = Inbound {
        user: PlatformUser { platform: PLATFORM.into(), id: by.login.into() },
        location: ChatLocation {
            platform: PLATFORM.into(),
            channel,
            thread: thread.map(|head| head.to_string()),
        },
        delivery,
        body,
    };
    let stored =
        serde_json::to_value(&inbound).expect("an inbound holds only strings and booleans");
    store::inbox::accept(conn, PLATFORM, by.login, &inbound.delivery, &stored).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn by<'a>(login: &'a str, delivery: &'a str) -> By<'a> {
        By { login, delivery }
    }

    async fn inbox(pool: &PgPool) -> Vec<Inbound> {
        let rows: Vec<Value> =
            sqlx::query_scalar("select body from inbox order by id").fetch_all(pool).await.unwrap();
        rows.into_iter().map(|row| serde_json::from_value(row).unwrap()).collect()
    }

    async fn bot(pool: &PgPool, key: &str, only_to: Option<&str>, card: Option<&Value>) -> String {
        let new = Post {
            author: "metalbot",
            channel: "metal",
            thread: None,
            only_to,
            key,
            markdown: "hello",
            card,
        };
        post(pool, new).await.unwrap()
    }

    #[test]
    fn what_a_command_is() {
        assert_eq!(command_in("/metal reboot web01"), Some("reboot web01"));
        assert_eq!(command_in("/metal"), Some(""));
        assert_eq!(command_in("/metal\treboot"), Some("reboot"));
        assert_eq!(command_in("/Metal list"), Some("list"));
        assert_eq!(command_in("@metalbot help"), Some("help"));
        assert_eq!(command_in("/reboot web01"), Some("/reboot web01"));
        for talk in ["/etc/hosts is wrong", "/", "/ 2", "@metalbots", "/1"] {
            assert_eq!(command_in(talk), None, "{talk}");
        }
        assert_eq!(command_in("a /metal b"), None);
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn only_commands_and_replies_reach_the_inbox(pool: PgPool) {
        let head = bot(&pool, "card", None, None).await;
        say(&pool, by("alice", "1"), "metal", None, " /metal list ").await.unwrap();
        say(&pool, by("alice", "2"), "metal", None, "lunch?").await.unwrap();
        say(&pool, by("bob", "3"), "metal", Some(&head), "lgtm").await.unwrap();
        let seen: Vec<_> =
            inbox(&pool).await.into_iter().map(|i| (i.location.thread, i.body)).collect();
        assert_eq!(
            seen,
            [
                (None, InboundBody::Command { text: "list".into() }),
                (Some(head.clone()), InboundBody::ThreadReply { text: "lgtm".into(), at: None }),
            ]
        );
        let heads = list(&pool, "alice", "metal", None).await.unwrap();
        assert_eq!(
            heads.iter().map(|m| m.body.as_str()).collect::<Vec<_>>(),
            ["hello", "/metal list", "lunch?"]
        );
        assert_eq!(heads[0].replies_for("alice"), 1);
        assert_eq!(heads[0].rev, 2, "a reply is a change of its head");
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_repeated_delivery_writes_nothing_but_another_persons_does(pool: PgPool) {
        let say = |login, text| say(&pool, By { login, delivery: "d" }, "metal", None, text);
        assert_eq!(say("alice", "/metal list").await.unwrap(), Taken::Now);
        assert_eq!(say("alice", "/metal list").await.unwrap(), Taken::Before);
        assert_eq!(say("bob", "/metal list").await.unwrap(), Taken::Now);
        assert_eq!(inbox(&pool).await.len(), 2);
        assert_eq!(list(&pool, "alice", "metal", None).await.unwrap().len(), 2);

        let card = json!({ "tone": "waiting", "progress": null, "buttons": [] });
        let id = bot(&pool, "k", None, Some(&card)).await;
        assert_eq!(press(&pool, by("alice", "p"), &id, "v", None).await.unwrap(), Taken::Now);
        assert_eq!(press(&pool, by("alice", "p"), &id, "v", None).await.unwrap(), Taken::Before);
        assert_eq!(inbox(&pool).await.len(), 3);
        assert!(matches!(
            press(&pool, by("alice", "q"), "1", "v", None).await,
            Err(ConsoleError::NoSuchMessage)
        ));
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn reactions_toggle_and_are_told_once(pool: PgPool) {
        let id = bot(&pool, "k", None, None).await;
        for (delivery, on, taken) in [
            ("1", true, Taken::Now),
            ("2", true, Taken::Before),
            ("3", false, Taken::Now),
            ("4", true, Taken::Now),
        ] {
            assert_eq!(react(&pool, by("bob", delivery), &id, "+1", on).await.unwrap(), taken);
        }
        let seen = list(&pool, "bob", "metal", None).await.unwrap();
        assert_eq!(
            seen[0].reactions.0,
            [MessageReaction { name: "+1".into(), people: vec!["bob".into()] }]
        );
        assert_eq!(inbox(&pool).await.len(), 3);
        assert!(react(&pool, by("bob", "5"), &id, "<b>", true).await.is_err());
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_private_message_exists_for_one_person_only(pool: PgPool) {
        let card = json!({ "tone": "bad", "progress": null, "buttons": [] });
        let id = bot(&pool, "k", Some("alice"), Some(&card)).await;
        assert_eq!(list(&pool, "alice", "metal", None).await.unwrap().len(), 1);
        assert_eq!(list(&pool, "bob", "metal", None).await.unwrap().len(), 0);
        let bob = by("bob", "1");
        assert!(matches!(
            react(&pool, bob, &id, "x", true).await,
            Err(ConsoleError::NoSuchMessage)
        ));
        assert!(matches!(
            press(&pool, bob, &id, "v", None).await,
            Err(ConsoleError::NoSuchMessage)
        ));
        assert!(matches!(
            say(&pool, bob, "metal", Some(&id), "hi").await,
            Err(ConsoleError::NoSuchMessage)
        ));
        assert!(matches!(
            list(&pool, "bob", "metal", Some(&id)).await,
            Err(ConsoleError::NoSuchMessage)
        ));
        assert!(inbox(&pool).await.is_empty());
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn the_bot_posts_once_under_a_key_and_edits_only_its_own(pool: PgPool) {
        let id = bot(&pool, "k", None, None).await;
        assert_eq!(bot(&pool, "k", None, None).await, id);
        update(&pool, &id, "hello", None).await.unwrap();
        let same = list(&pool, "bob", "metal", None).await.unwrap();
        assert_eq!((same[0].rev, same[0].edited_at), (1, None), "the same again is no change");
        update(&pool, &id, "bye", None).await.unwrap();
        let seen = list(&pool, "bob", "metal", None).await.unwrap();
        assert_eq!((seen[0].rev, seen[0].body.as_str()), (2, "bye"));
        say(&pool, by("bob", "1"), "metal", None, "mine").await.unwrap();
        let mine = list(&pool, "bob", "metal", None).await.unwrap()[1].id.to_string();
        assert!(matches!(
            update(&pool, &mine, "forged", None).await,
            Err(ConsoleError::NoSuchMessage)
        ));
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn what_cannot_be_said(pool: PgPool) {
        let too_long = "x".repeat(MAX_TEXT + 1);
        let say =
            |thread, text| say(&pool, By { login: "a", delivery: "d" }, "metal", thread, text);
        assert!(matches!(say(None, " \n ").await, Err(ConsoleError::Empty)));
        assert!(matches!(say(None, "a\0b").await, Err(ConsoleError::Unstorable)));
        assert!(matches!(say(None, &too_long).await, Err(ConsoleError::TooLong(_))));
        for thread in ["1", "+1", "x", "", "99999999999999999999"] {
            assert!(matches!(say(Some(thread), "x").await, Err(ConsoleError::NoSuchMessage)));
        }
        assert!(say(None, &too_long[1..]).await.is_ok());
    }
}
