//! The console's own channels: what people say, put on messages and press, and what the bot posts.
//!
//! Invariant: what a person sees themselves do and what Metalbot will act on are written in one
//! transaction; a delivery that was seen before writes nothing.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::domain::inbound::{Inbound, Place, PlatformUser, What};
use crate::store;
pub use crate::store::room::{Reaction, RoomMessage};

/// The platform's name in [`Place`] and [`PlatformUser`].
pub const PLATFORM: &str = "console";
/// Longest message of a person, in bytes of UTF-8.
pub const MAX_TEXT: usize = 16 * 1024;
/// Most messages that one list shows.
const MAX_LIST: i64 = 200;
const MAX_VALUE: usize = 2000;
const LIVE_BUFFER: usize = 1024;

/// Why something was not done. The text is for the person.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
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

/// What became of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    Now,
    /// It was taken before; nothing was written.
    Before,
}

/// Who acts, under which delivery. One person's delivery can never stand for another's.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    pub login: &'a str,
    /// Chosen by the person's browser, 1 to 64 letters, digits or `-`.
    pub delivery: &'a str,
}

impl By<'_> {
    fn key(&self) -> Result<String, RoomError> {
        let ok = (1..=64).contains(&self.delivery.len())
            && self.delivery.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if ok { Ok(format!("{}:{}", self.login, self.delivery)) } else { Err(RoomError::Malformed) }
    }
}

/// A person says something. A text that begins with `/metal` is a command wherever it stands; any
/// other text in a thread is a reply; any other text in a channel is for people alone.
pub async fn say(
    pool: &PgPool,
    by: By<'_>,
    channel: &str,
    thread: Option<&str>,
    text: &str,
) -> Result<Taken, RoomError> {
    let key = by.key()?;
    let text = text.trim();
    if text.is_empty() {
        return Err(RoomError::Empty);
    }
    if text.len() > MAX_TEXT {
        return Err(RoomError::TooLong(text.len()));
    }
    if text.contains('\0') {
        return Err(RoomError::Unstorable);
    }
    let head = thread.map(message_id).transpose()?;
    let mut tx = pool.begin().await?;
    if let Some(head) = head {
        let spot = store::room::visible(&mut tx, head, by.login).await?;
        if !spot.is_some_and(|spot| spot.thread.is_none() && spot.channel == channel) {
            return Err(RoomError::NoSuchMessage);
        }
    }
    let new = store::room::NewMessage {
        channel,
        thread: head,
        author: by.login,
        bot: false,
        body: text,
        card: None,
        only_to: None,
        key: &format!("say:{key}"),
    };
    if store::room::insert(&mut tx, new).await?.is_none() {
        return Ok(Taken::Before);
    }
    let what = match command_in(text) {
        Some(command) => Some(What::Command { text: command.to_owned() }),
        None => head.map(|_| What::ThreadReply { text: text.to_owned() }),
    };
    if let Some(what) = what
        && !accept(&mut tx, by, key, channel.into(), head, what).await?
    {
        return Ok(Taken::Before);
    }
    tx.commit().await?;
    Ok(Taken::Now)
}

/// A person puts an emoji on a message or takes it away.
pub async fn react(
    pool: &PgPool,
    by: By<'_>,
    message: &str,
    name: &str,
    on: bool,
) -> Result<Taken, RoomError> {
    let key = by.key()?;
    let name_ok = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_+-".contains(&b));
    if !name_ok {
        return Err(RoomError::Malformed);
    }
    let id = message_id(message)?;
    let mut tx = pool.begin().await?;
    let spot =
        store::room::visible(&mut tx, id, by.login).await?.ok_or(RoomError::NoSuchMessage)?;
    if !store::room::react(&mut tx, id, by.login, name, on).await? {
        return Ok(Taken::Before);
    }
    let what = What::Reaction { message: id.to_string(), name: name.into(), added: on };
    if !accept(&mut tx, by, key, spot.channel, spot.thread, what).await? {
        return Ok(Taken::Before);
    }
    tx.commit().await?;
    Ok(Taken::Now)
}

/// A person presses a button. The value is handed on as it came: whoever acts on it judges it,
/// because the card may have changed since the person saw it.
pub async fn press(
    pool: &PgPool,
    by: By<'_>,
    message: &str,
    value: &str,
) -> Result<Taken, RoomError> {
    let key = by.key()?;
    if value.is_empty() || value.len() > MAX_VALUE || value.contains('\0') {
        return Err(RoomError::Malformed);
    }
    let id = message_id(message)?;
    let mut tx = pool.begin().await?;
    let spot = store::room::visible(&mut tx, id, by.login)
        .await?
        .filter(|spot| spot.has_card)
        .ok_or(RoomError::NoSuchMessage)?;
    let what = What::Button { message: id.to_string(), value: value.into() };
    let taken = accept(&mut tx, by, key, spot.channel, spot.thread, what).await?;
    tx.commit().await?;
    Ok(if taken { Taken::Now } else { Taken::Before })
}

/// What the bot posts.
#[derive(Clone, Copy, Debug)]
pub struct Post<'a> {
    pub author: &'a str,
    pub channel: &'a str,
    pub thread: Option<&'a str>,
    pub only_to: Option<&'a str>,
    /// A second post under the same key is the first one.
    pub key: &'a str,
    pub markdown: &'a str,
    pub card: Option<&'a Value>,
}

/// The bot posts a message; returns its id.
pub async fn post(pool: &PgPool, post: Post<'_>) -> Result<String, RoomError> {
    let thread = post.thread.map(message_id).transpose()?;
    let key = format!("bot:{}", post.key);
    let mut tx = pool.begin().await?;
    let new = store::room::NewMessage {
        channel: post.channel,
        thread,
        author: post.author,
        bot: true,
        body: post.markdown,
        card: post.card,
        only_to: post.only_to,
        key: &key,
    };
    let id = match store::room::insert(&mut tx, new).await? {
        Some(id) => id,
        None => store::room::id_of_key(&mut tx, &key).await?.ok_or(RoomError::NoSuchMessage)?,
    };
    tx.commit().await?;
    Ok(id.to_string())
}

/// The bot replaces what it wrote.
pub async fn update(
    pool: &PgPool,
    id: &str,
    markdown: &str,
    card: Option<&Value>,
) -> Result<(), RoomError> {
    let id = message_id(id)?;
    let mut tx = pool.begin().await?;
    if !store::room::edit(&mut tx, id, markdown, card).await? {
        return Err(RoomError::NoSuchMessage);
    }
    tx.commit().await?;
    Ok(())
}

/// The latest messages of a channel, or a thread's head and its latest replies, as far as this
/// person may see them.
pub async fn list(
    pool: &PgPool,
    login: &str,
    channel: &str,
    thread: Option<&str>,
) -> Result<Vec<Arc<RoomMessage>>, RoomError> {
    let ids = match thread.map(message_id).transpose()? {
        None => store::room::heads(pool, channel, login, MAX_LIST).await?,
        Some(head) => {
            let spot = store::room::visible(&mut *pool.acquire().await?, head, login).await?;
            if !spot.is_some_and(|spot| spot.thread.is_none() && spot.channel == channel) {
                return Err(RoomError::NoSuchMessage);
            }
            let mut ids = vec![head];
            ids.extend(store::room::replies(pool, head, login, MAX_LIST).await?);
            ids
        }
    };
    Ok(store::room::load(pool, &ids).await?.into_iter().map(Arc::new).collect())
}

/// Id of the newest message in a channel that this person may see.
pub async fn newest(pool: &PgPool, login: &str, channel: &str) -> Result<Option<i64>, RoomError> {
    Ok(store::room::heads(pool, channel, login, 1).await?.pop())
}

/// Something that open consoles must hear of.
#[derive(Clone, Debug)]
pub enum LiveEvent {
    Changed(Arc<RoomMessage>),
    /// Changes may have been missed: look again.
    Resync,
}

/// Where open consoles subscribe. Every replica has its own, fed by the database.
#[derive(Clone, Debug)]
pub struct Live {
    sender: broadcast::Sender<LiveEvent>,
    stop: CancellationToken,
}

impl Live {
    pub fn subscribe(&self) -> broadcast::Receiver<LiveEvent> {
        self.sender.subscribe()
    }

    /// Resolves when the process is about to end, so that open streams do not hold it up.
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
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(store::room::NOTIFY_CHANNEL).await?;
    // Nobody listening is no error.
    let _ = sender.send(LiveEvent::Resync);
    loop {
        let Some(first) = listener.try_recv().await? else {
            return Ok(());
        };
        let mut ids: Vec<i64> = first.payload().parse().into_iter().collect();
        while let Some(more) = listener.next_buffered() {
            ids.extend(more.payload().parse::<i64>());
        }
        ids.sort_unstable();
        ids.dedup();
        for message in store::room::load(pool, &ids).await? {
            let _ = sender.send(LiveEvent::Changed(Arc::new(message)));
        }
    }
}

/// The console's deliveries are stored as what they mean already.
pub fn decode(body: &Value) -> Result<Inbound, String> {
    Inbound::deserialize(body).map_err(|error| error.to_string())
}

/// The text behind `/metal`, if that is what the text begins with.
pub fn command_in(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("/metal")?;
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then(|| rest.trim())
}

fn message_id(text: &str) -> Result<i64, RoomError> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or(RoomError::NoSuchMessage)
}

async fn accept(
    conn: &mut sqlx::PgConnection,
    by: By<'_>,
    delivery: String,
    channel: String,
    thread: Option<i64>,
    what: What,
) -> sqlx::Result<bool> {
    let inbound = Inbound {
        who: PlatformUser { platform: PLATFORM.into(), id: by.login.into() },
        place: Place {
            platform: PLATFORM.into(),
            channel,
            thread: thread.map(|head| head.to_string()),
        },
        delivery,
        what,
    };
    let body = serde_json::to_value(&inbound).expect("an inbound holds only strings and booleans");
    store::inbox::accept(conn, PLATFORM, &inbound.delivery, &body).await
}
