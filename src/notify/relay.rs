//! Sends the messages that wait for one platform: cards that changed, then notices. One replica at
//! a time runs it. When another replica takes over, a message may be sent twice; platforms with
//! idempotency keys drop the second one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use sqlx::PgPool;

use super::card::{card, offer};
use super::render::ChatTemplates;
use crate::chat::{Chat, ChatError, Message};
use crate::failpoint::{Point, reach};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::notice::{Audience, Notice};
use metalbot_core::domain::people::People;
use metalbot_store::card::DirtyCard;
use metalbot_store::notice_digest::RateLimit;
use metalbot_store::outbox::PendingNotice;
use metalbot_store::relay_scope::RelayScope;
use metalbot_store::{self as store, notice_digest, outbox, view};

/// Time between two rounds of the relay if no notification comes.
pub const PERIOD: Duration = Duration::from_millis(250);
/// Least time between two edits of a card: platforms allow about one a second.
const EDIT_PAUSE: Duration = Duration::from_secs(1);
/// Messages that are sent at the same time.
const PARALLEL: usize = 8;
/// Rows read at once.
const PAGE: i64 = 100;
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Tries in a channel that the bot is not in: one a minute for a day.
const MOST_CLOSED: i32 = 24 * 60;
/// Messages in one thread, in one channel or to one person beyond which the rest becomes a digest:
/// people do not read more, and platforms allow about one message a second.
const RATE_LIMIT: RateLimit = RateLimit { most: 20, window: Duration::from_secs(60) };

/// Relay of one platform.
#[derive(Clone)]
pub struct NoticeRelay {
    pub pool: PgPool,
    pub platform: &'static str,
    pub chat: Arc<dyn Chat>,
    /// Messages that this relay sends: those of the platform, and perhaps those without a platform.
    pub scope: RelayScope,
    pub templates: Arc<ChatTemplates>,
    pub people: Arc<dyn People>,
    /// Base address of the console, for links; `None` if messages need no link to it.
    pub console: Option<String>,
}

impl NoticeRelay {
    /// Sends the messages that are due; returns `true` if there may be more.
    pub async fn run_once(self: Arc<Self>) -> anyhow::Result<bool> {
        notice_digest::thin_out(&self.pool, &self.scope, RATE_LIMIT).await?;
        let cards = store::card::dirty(&self.pool, &self.scope, PAGE).await?;
        outbox::count_down(&self.pool).await?;
        let notices = outbox::due_notices(&self.pool, &self.scope, PAGE).await?;
        let any = !cards.is_empty() || !notices.is_empty();
        let this = &*self;
        let cards = cards.into_iter().map(|card| async move {
            let batch = card.batch;
            match this.show_card(&card).await {
                Ok(()) => {}
                Err(ChatError::Later { wait, why }) => {
                    tracing::debug!(%batch, ?wait, why, "a card is sent later");
                    store::card::defer(&this.pool, batch, wait).await?;
                }
                Err(ChatError::Transient(error)) => {
                    tracing::warn!(%batch, error, "a card could not be sent; it is tried again");
                    let wait = outbox::wait_after(card.attempts, LONGEST_WAIT);
                    store::card::postpone(&this.pool, batch, wait, &error).await?;
                }
                Err(ChatError::Closed(why)) => this.card_waits(&card, &why).await?,
                Err(ChatError::Rejected(error)) => {
                    tracing::error!(%batch, error, "a card cannot be sent; it is given up");
                    store::card::refused(&this.pool, batch, &error).await?;
                }
            }
            anyhow::Ok(())
        });
        run_all(stream::iter(cards).buffer_unordered(PARALLEL)).await?;
        let notices = notices.into_iter().map(|notice| this.deliver(notice));
        run_all(stream::iter(notices).buffer_unordered(PARALLEL)).await?;
        Ok(any)
    }

    /// Handles a card that its channel does not take. The card of a batch that has ended is given
    /// up, at once if it was never posted, else after `MOST_CLOSED` tries. If a batch's card was
    /// never posted, the submitter is told once.
    async fn card_waits(&self, card: &DirtyCard, why: &str) -> anyhow::Result<()> {
        let (batch, location) = (card.batch, card.location());
        tracing::warn!(%batch, why, "a card cannot be posted in its channel");
        store::channel_access::remember(&self.pool, &location, Some(why)).await?;
        let mut tx = self.pool.begin().await?;
        let Some(seen) = view::batch_view(&mut tx, batch).await? else { return Ok(()) };
        let unseen = card.message_id.is_none();
        if seen.state.is_final() && (unseen || card.attempts >= MOST_CLOSED) {
            drop(tx);
            return Ok(store::card::refused(&self.pool, batch, why).await?);
        }
        if unseen {
            let key = format!("card:{}:waits", batch.0);
            let audience = Audience::Person { login: seen.submitter, near: location };
            let (action, hosts, why) = (seen.action, seen.hosts, why.to_owned());
            let notice = Notice::CardDelayed { batch, action, hosts, why };
            outbox::notice(&mut tx, &key, &audience, &notice).await?;
        }
        tx.commit().await?;
        let wait = outbox::wait_after(card.attempts, LONGEST_WAIT);
        Ok(store::card::postpone(&self.pool, batch, wait, why).await?)
    }

    async fn show_card(&self, dirty: &DirtyCard) -> Result<(), ChatError> {
        let internal = |error: sqlx::Error| ChatError::Transient(error.to_string());
        let mut conn = self.pool.acquire().await.map_err(internal)?;
        let Some(batch) = view::batch_view(&mut conn, dirty.batch).await.map_err(internal)? else {
            return Ok(());
        };
        drop(conn);
        let location = dirty.location();
        let markdown =
            self.templates.card(&batch).map_err(|error| ChatError::Rejected(error.to_string()))?;
        let message = Message { markdown, card: Some(card(&batch)) };
        let chat = self.chat(&location.platform)?;
        let id = match &dirty.message_id {
            Some(id) => {
                chat.update(&location, id, &message).await?;
                reach(Point::CardAfterUpdate);
                id.clone()
            }
            None => {
                let key = format!("card:{}", dirty.batch.0);
                reach(Point::CardBeforePost);
                let id = chat.post(&location, None, &key, &message).await?;
                reach(Point::CardAfterPost);
                id
            }
        };
        store::card::rendered(&self.pool, dirty.batch, &id, dirty.version, EDIT_PAUSE)
            .await
            .map_err(internal)?;
        if !dirty.has_permalink {
            self.keep_permalink(chat, dirty.batch, &location, &id).await;
        }
        Ok(())
    }

    /// Asks for the address that shows a card. The next edit asks again where there was none.
    async fn keep_permalink(
        &self,
        chat: &Arc<dyn Chat>,
        batch: BatchId,
        location: &ChatLocation,
        id: &str,
    ) {
        let kept = match chat.link(location, id).await {
            Ok(Some(url)) => store::card::keep_permalink(&self.pool, batch, &url).await,
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::debug!(%batch, %error, "the platform gave no link to a card");
                Ok(())
            }
        };
        if let Err(error) = kept {
            tracing::debug!(%batch, %error, "the link to a card was not stored");
        }
    }

    async fn deliver(&self, pending: PendingNotice) -> anyhow::Result<()> {
        match self.post(&pending).await {
            Ok(()) => outbox::sent(&mut *self.pool.acquire().await?, pending.id).await?,
            Err(ChatError::Later { wait, why }) => {
                tracing::debug!(key = pending.key, ?wait, why, "a notice is sent later");
                outbox::defer(&self.pool, pending.id, wait).await?;
            }
            Err(ChatError::Closed(why)) if pending.attempts < MOST_CLOSED => {
                tracing::warn!(
                    key = pending.key,
                    why,
                    "a notice cannot be posted in its channel; it is tried again"
                );
                let wait = outbox::wait_after(pending.attempts, LONGEST_WAIT);
                outbox::postpone(&self.pool, pending.id, wait, &why).await?;
            }
            Err(ChatError::Transient(error)) => {
                tracing::warn!(
                    key = pending.key,
                    error,
                    "a notice could not be sent; it is tried again"
                );
                let wait = outbox::wait_after(pending.attempts, LONGEST_WAIT);
                outbox::postpone(&self.pool, pending.id, wait, &error).await?;
            }
            Err(ChatError::Rejected(error) | ChatError::Closed(error)) => {
                tracing::error!(
                    key = pending.key,
                    error,
                    "a notice cannot be sent; it is given up"
                );
                outbox::refused(&self.pool, pending.id, &error).await?;
            }
        }
        Ok(())
    }

    async fn post(&self, pending: &PendingNotice) -> Result<(), ChatError> {
        // A newer version may have written it; a replica of that version will send it.
        let unreadable = |error: &serde_json::Error| ChatError::Transient(error.to_string());
        let notice = pending.notice.as_ref().map_err(unreadable)?;
        let audience = pending.audience.as_ref().map_err(unreadable)?;
        let markdown = self
            .templates
            .notice(notice)
            .map_err(|error| ChatError::Rejected(error.to_string()))?;
        // A button must be in the thread of its batch.
        let card = match (audience, notice) {
            (Audience::Thread { .. }, Notice::Event { event, .. }) => offer(event),
            _ => None,
        };
        let mut message = Message { markdown, card };
        let (location, only_to) = match (audience, &pending.thread) {
            (Audience::Channel { location }, _) => (location.clone(), None),
            (Audience::Only { location, user }, _) => {
                message = self.with_link(notice, location, message).await;
                (location.clone(), Some(user.as_str()))
            }
            (Audience::Person { login, near }, _) => {
                let chat = self.chat(&near.platform)?;
                let mut user = self.people.account(login, &near.platform);
                if let (None, Some(email)) = (&user, self.people.email(login)) {
                    user = chat.user_by_email(near, &email).await?;
                }
                let Some(user) = user else {
                    let no = format!("{login} has no account on {}", near.platform);
                    return Err(ChatError::Rejected(no));
                };
                let message = self.with_link(notice, near, message).await;
                return chat.direct(near, &user, &pending.key, &message).await.map(drop);
            }
            (Audience::Thread { batch }, Some(thread)) => {
                if thread.message_id.is_none() {
                    return Err(ChatError::Rejected(format!("{batch} has no card")));
                }
                let location = ChatLocation {
                    platform: thread.platform.clone(),
                    channel: thread.channel.clone(),
                    thread: thread.message_id.clone(),
                };
                (location, None)
            }
            (Audience::Thread { batch }, None) => {
                return Err(ChatError::Rejected(format!("there is no batch {batch}")));
            }
        };
        let chat = self.chat(&location.platform)?;
        reach(Point::NoticeBeforePost);
        chat.post(&location, only_to, &pending.key, &message).await?;
        reach(Point::NoticeAfterPost);
        Ok(())
    }

    /// Adds a link to the batch's card to a notice that is sent elsewhere, or a link to the batch's
    /// page in the console. The notice is sent without a link if there is none.
    async fn with_link(
        &self,
        notice: &Notice,
        near: &ChatLocation,
        mut message: Message,
    ) -> Message {
        let Some(batch) = notice.batch() else { return message };
        let card = store::card::message_of(&self.pool, batch).await.ok().flatten();
        let here = card.is_some_and(|(platform, ..)| platform == near.platform);
        let url = if here { self.permalink(batch).await } else { None };
        let page = || self.console.as_ref().map(|base| format!("{base}/batches/{}", batch.0));
        match (url, page()) {
            (Some(url), _) => message.markdown += &format!("\n\n[The card of {batch}]({url})"),
            (None, Some(url)) => {
                message.markdown += &format!("\n\n[{batch} at the console]({url})")
            }
            (None, None) => {}
        }
        message
    }

    async fn permalink(&self, batch: BatchId) -> Option<String> {
        let mut conn = self.pool.acquire().await.ok()?;
        store::card::permalinks(&mut conn, &[batch]).await.ok()?.remove(&batch)
    }

    /// Returns the platform. A missing one is a transient error: the next configuration may have
    /// it.
    fn chat(&self, platform: &str) -> Result<&Arc<dyn Chat>, ChatError> {
        match platform == self.platform {
            true => Ok(&self.chat),
            false => Err(ChatError::Transient(format!("{platform} is not configured"))),
        }
    }
}

async fn run_all(
    mut results: impl futures_util::Stream<Item = anyhow::Result<()>> + Unpin,
) -> anyhow::Result<()> {
    let mut first = Ok(());
    while let Some(result) = results.next().await {
        first = first.and(result);
    }
    first
}
