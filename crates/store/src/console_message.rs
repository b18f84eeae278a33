//! Messages and reactions of the console's channels.
//!
//! Invariant: whatever changes how a message looks (its text, its reactions, the number of its
//! replies) raises its `rev` and announces its id on the channel `console_message`, in the same
//! transaction. So a reader can distinguish an older view of a message from a newer one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

/// The NOTIFY channel; the payload is a message's id.
pub const NOTIFY_CHANNEL: &str = "console_message";

/// A message with all that is drawn around it, for any reader; see [`ConsoleMessage::is_visible_to`].
#[derive(Clone, PartialEq, Debug)]
pub struct ConsoleMessage {
    pub id: i64,
    /// Version, raised by every change.
    pub rev: i64,
    pub channel: String,
    pub thread: Option<i64>,
    /// Login of a person, or the bot's name.
    pub author: String,
    pub bot: bool,
    /// Plain text of a person; Markdown of the bot.
    pub body: String,
    pub card: Option<Value>,
    /// The one person who may see it.
    pub only_to: Option<String>,
    pub key: String,
    pub created_at: OffsetDateTime,
    pub edited_at: Option<OffsetDateTime>,
    /// Reactions in the order in which they first appeared.
    pub reactions: Json<Vec<MessageReaction>>,
    /// Number of replies by the one person who may see them; `""` counts those for everybody.
    pub replies: Json<BTreeMap<String, i64>>,
}

/// One emoji of a message and who put it there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MessageReaction {
    pub name: String,
    pub people: Vec<String>,
}

impl ConsoleMessage {
    pub fn is_visible_to(&self, login: &str) -> bool {
        self.only_to.as_deref().is_none_or(|only| only == login)
    }

    /// Number of replies that the person may see.
    pub fn replies_for(&self, login: &str) -> i64 {
        self.replies.get("").unwrap_or(&0) + self.replies.get(login).unwrap_or(&0)
    }
}

/// Message to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    pub channel: &'a str,
    pub thread: Option<i64>,
    pub author: &'a str,
    pub bot: bool,
    pub body: &'a str,
    pub card: Option<&'a Value>,
    pub only_to: Option<&'a str>,
    pub key: &'a str,
}

/// Channel and thread of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessagePosition {
    pub channel: String,
    pub thread: Option<i64>,
    pub has_card: bool,
}

/// Writes a message. `None`: one with this key is there, and nothing changed.
pub async fn insert(conn: &mut PgConnection, message: NewMessage<'_>) -> sqlx::Result<Option<i64>> {
    let id = sqlx::query_scalar!(
        "insert into console_message (channel, thread, author, bot, body, card, only_to, key)
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (key) do nothing returning id",
        message.channel,
        message.thread,
        message.author,
        message.bot,
        message.body,
        message.card,
        message.only_to,
        message.key
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(id) = id {
        announce(conn, id).await?;
        if let Some(head) = message.thread {
            touch(conn, head).await?;
        }
    }
    Ok(id)
}

/// The message of this key.
pub async fn id_of_key(conn: &mut PgConnection, key: &str) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!("select id from console_message where key = $1", key)
        .fetch_optional(conn)
        .await
}

/// Replaces what the bot wrote. `false`: the bot has no such message. Writing the same again
/// changes nothing.
pub async fn edit(
    conn: &mut PgConnection,
    id: i64,
    body: &str,
    card: Option<&Value>,
) -> sqlx::Result<bool> {
    let changed = sqlx::query!(
        "update console_message set body = $2, card = $3, edited_at = now(), rev = rev + 1
         where id = $1 and bot and (body, card) is distinct from ($2, $3)",
        id,
        body,
        card
    )
    .execute(&mut *conn)
    .await?
    .rows_affected()
        == 1;
    if changed {
        announce(conn, id).await?;
        return Ok(true);
    }
    sqlx::query_scalar!(
        r#"select exists (select from console_message where id = $1 and bot) as "there!""#,
        id
    )
    .fetch_one(conn)
    .await
}

/// Puts a reaction on a message or takes it away. `false`: it was so already.
pub async fn react(
    conn: &mut PgConnection,
    message: i64,
    login: &str,
    name: &str,
    on: bool,
) -> sqlx::Result<bool> {
    let done = if on {
        sqlx::query!(
            "insert into console_reaction (message, login, name) values ($1, $2, $3)
             on conflict do nothing",
            message,
            login,
            name
        )
        .execute(&mut *conn)
        .await?
    } else {
        sqlx::query!(
            "delete from console_reaction where message = $1 and login = $2 and name = $3",
            message,
            login,
            name
        )
        .execute(&mut *conn)
        .await?
    };
    let changed = done.rows_affected() == 1;
    if changed {
        touch(conn, message).await?;
    }
    Ok(changed)
}

/// Channel and thread of a message, if it exists and this person may see it.
pub async fn visible(
    conn: &mut PgConnection,
    id: i64,
    login: &str,
) -> sqlx::Result<Option<MessagePosition>> {
    sqlx::query_as!(
        MessagePosition,
        r#"select channel, thread, card is not null as "has_card!" from console_message
           where id = $1 and (only_to is null or only_to = $2)"#,
        id,
        login,
    )
    .fetch_optional(conn)
    .await
}

/// Ids of the latest messages at the head of a channel that this person may see, oldest first.
pub async fn heads(
    pool: &PgPool,
    channel: &str,
    login: &str,
    at_most: i64,
) -> sqlx::Result<Vec<i64>> {
    let mut ids = sqlx::query_scalar!(
        "select id from console_message
         where channel = $1 and thread is null and (only_to is null or only_to = $2)
         order by id desc limit $3",
        channel,
        login,
        at_most
    )
    .fetch_all(pool)
    .await?;
    ids.reverse();
    Ok(ids)
}

/// Ids of the latest replies of a thread that this person may see, oldest first.
pub async fn replies(
    pool: &PgPool,
    head: i64,
    login: &str,
    at_most: i64,
) -> sqlx::Result<Vec<i64>> {
    let mut ids = sqlx::query_scalar!(
        "select id from console_message
         where thread = $1 and (only_to is null or only_to = $2)
         order by id desc limit $3",
        head,
        login,
        at_most
    )
    .fetch_all(pool)
    .await?;
    ids.reverse();
    Ok(ids)
}

/// Messages by id, as everybody's view of them; ids that are gone are left out.
pub async fn load(pool: &PgPool, ids: &[i64]) -> sqlx::Result<Vec<ConsoleMessage>> {
    sqlx::query_as!(
        ConsoleMessage,
        r#"select m.id, m.rev, m.channel, m.thread, m.author, m.bot, m.body, m.card, m.only_to,
               m.key, m.created_at, m.edited_at,
               coalesce((
                   select jsonb_agg(jsonb_build_object('name', r.name, 'people', r.people)
                                    order by r.first)
                   from (select name, min(created_at) as first,
                                jsonb_agg(login order by created_at) as people
                         from console_reaction where message = m.id group by name) r
               ), '[]') as "reactions!: Json<Vec<MessageReaction>>",
               coalesce((
                   select jsonb_object_agg(r.audience, r.number)
                   from (select coalesce(only_to, '') as audience, count(*) as number
                         from console_message where thread = m.id group by 1) r
               ), '{}') as "replies!: Json<BTreeMap<String, i64>>"
           from console_message m where m.id = any($1) order by m.id"#,
        ids
    )
    .fetch_all(pool)
    .await
}

async fn touch(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query!("update console_message set rev = rev + 1 where id = $1", id)
        .execute(&mut *conn)
        .await?;
    announce(conn, id).await
}

async fn announce(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query!("select pg_notify($1, $2)", NOTIFY_CHANNEL, id.to_string()).execute(conn).await?;
    Ok(())
}
