//! The inbox loop: one delivery, one transaction. The delivery is marked as done in the transaction
//! that holds its effects, so it is worked on exactly once, whatever dies in between.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::Value;
use sqlx::{PgPool, PgTransaction};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use metalbot_core::command::{Command, ThreadReply};
use metalbot_core::domain::channel_access::ChannelAccess;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::{ChatLocation, Inbound, InboundBody, PlatformUser};
use metalbot_core::domain::notice::{Audience, Notice};
use metalbot_core::domain::origin::Origin;
use metalbot_core::domain::principal::Principal;
use metalbot_core::domain::reply::{ErrorReply, Reply};
use metalbot_store::inbox::Delivery;
use metalbot_store::notifier::Topic;
use metalbot_store::{self as store, account, answered_within, card, inbox, outbox};

use super::channel_access;
use super::error::{Conflict, Error};
use super::execute::execute;
use super::identify::{Identity, person};
use super::interpret::{ButtonAction, ChatRequest, PressedButton, interpret};
use super::{App, RequestContext, control, decide};
use crate::failpoint::{Point, reach};
use crate::runtime::notifier::Notifier;
use crate::telemetry;

/// Decodes a platform's raw delivery.
pub type Decode = fn(&Value) -> Result<Inbound, DecodeError>;

/// Decoders of this process, by the platform's name.
pub type Decoders = HashMap<&'static str, Decode>;

/// Error of a delivery that cannot be decoded; the text is for operators.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

impl From<String> for DecodeError {
    fn from(why: String) -> Self {
        DecodeError(why)
    }
}

impl From<&str> for DecodeError {
    fn from(why: &str) -> Self {
        DecodeError(why.to_owned())
    }
}

/// Tries of a delivery that always fails for an internal reason; they last about a quarter of an
/// hour.
const MOST_ATTEMPTS: i32 = 20;

/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Time for which other loops leave a delivery alone while a platform is asked about it; longer
/// than the platform takes to answer.
pub(super) const ASKING: Duration = Duration::from_secs(20);

/// Age beyond which a delivery that failed at first is not carried out any more, because the
/// situation may have changed since. The person is told instead.
const TOO_LATE: Duration = Duration::from_secs(15 * 60);

/// Age beyond which a delivery is given up if its sender still cannot be identified.
const LONGEST_DOUBT: Duration = Duration::from_secs(24 * 3600);

/// Sleep of the loop when nothing wakes it.
const POLL: Duration = Duration::from_secs(1);

/// Works on deliveries until it is stopped. Several loops may run, here and in other replicas. A
/// delivery that is not done with after `patience`, and the time that a platform may take, is begun
/// anew: an answer of the database was lost.
pub async fn run_intake(
    pool: PgPool,
    app: Arc<App>,
    decoders: Arc<Decoders>,
    notifier: Arc<Notifier>,
    patience: Duration,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let notified = notifier.topic(Topic::Inbox).notified();
        let worked = work_on_next(&pool, &app, &decoders);
        match answered_within(patience + ASKING, worked).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot read the inbox"),
        }
        tokio::select! {
            _ = tokio::time::timeout(POLL, notified) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Works on one delivery; returns `false` when none waits.
pub async fn work_on_next(pool: &PgPool, app: &App, decoders: &Decoders) -> sqlx::Result<bool> {
    let mut tx = pool.begin().await?;
    let Some(delivery) = inbox::take(&mut tx).await? else { return Ok(false) };
    work_on_taken(pool, app, decoders, tx, delivery).await
}

/// Works on a delivery that the transaction has locked.
pub(super) async fn work_on_taken(
    pool: &PgPool,
    app: &App,
    decoders: &Decoders,
    mut tx: PgTransaction<'_>,
    delivery: Delivery,
) -> sqlx::Result<bool> {
    let started = Instant::now();
    let worked = AssertUnwindSafe(work_on(&mut tx, app, decoders, &delivery)).catch_unwind().await;
    let failure = match worked {
        Ok(Ok(Worked::Done)) => {
            inbox::done(&mut tx, delivery.id).await?;
            reach(Point::InboxBeforeCommit);
            tx.commit().await?;
            reach(Point::InboxAfterCommit);
            metrics::histogram!(telemetry::COMMAND_SECONDS).record(started.elapsed());
            return Ok(true);
        }
        Ok(Ok(Worked::Unreadable(why))) => {
            let why = why.to_string();
            tracing::error!(delivery = delivery.id, why, "a delivery cannot be read; it is kept");
            let platform = delivery.platform.clone();
            metrics::counter!(telemetry::INBOX_UNREADABLE, "platform" => platform).increment(1);
            inbox::unreadable(&mut tx, delivery.id, &why).await?;
            tx.commit().await?;
            return Ok(true);
        }
        Ok(Ok(Worked::AskUser(user))) => {
            // The platform is asked with no transaction open; then the delivery is taken again.
            // Meanwhile other loops can work on other deliveries.
            inbox::leave_alone(&mut tx, delivery.id, ASKING).await?;
            tx.commit().await?;
            return ask_user(pool, app, &delivery, &user).await;
        }
        Ok(Ok(Worked::AskChannel(location))) => {
            inbox::leave_alone(&mut tx, delivery.id, ASKING).await?;
            tx.commit().await?;
            channel_access::ask(pool, app, &location).await?;
            inbox::go_on(pool, delivery.id).await?;
            return Ok(true);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "panicked".to_owned(),
    };
    drop(tx);
    fail(pool, &delivery, &failure).await
}

/// Asks the platform who the sender is. While it does not answer, the delivery waits: an older
/// answer may be wrong by now, so it is not used.
async fn ask_user(
    pool: &PgPool,
    app: &App,
    delivery: &Delivery,
    user: &PlatformUser,
) -> sqlx::Result<bool> {
    let Some(platform) = app.platforms.get(user.platform.as_str()) else {
        return fail(pool, delivery, "no platform vouches for this user").await;
    };
    match platform.verified_email(user).await {
        Ok(email) => {
            account::remember(pool, user, email.as_deref()).await?;
            inbox::go_on(pool, delivery.id).await?;
        }
        Err(error) => {
            let why = format!("cannot find out who {} is: {error}", user.id);
            if delivery.age > LONGEST_DOUBT {
                inbox::give_up(pool, delivery.id, &why).await?;
            } else {
                let wait = outbox::wait_after(delivery.attempts, LONGEST_WAIT);
                inbox::postpone(pool, delivery.id, wait, &why).await?;
            }
            tracing::warn!(
                delivery = delivery.id,
                why,
                "the sender of a delivery cannot be identified"
            );
        }
    }
    Ok(true)
}

/// Plans another try of the delivery, or gives it up after `MOST_ATTEMPTS`.
async fn fail(pool: &PgPool, delivery: &Delivery, failure: &str) -> sqlx::Result<bool> {
    let attempts = delivery.attempts;
    tracing::error!(delivery = delivery.id, attempts, error = failure, "a delivery failed");
    if attempts < MOST_ATTEMPTS {
        let wait = outbox::wait_after(attempts, LONGEST_WAIT);
        inbox::postpone(pool, delivery.id, wait, failure).await?;
    } else {
        // Otherwise it would hold up every later delivery of its sender.
        inbox::give_up(pool, delivery.id, failure).await?;
    }
    Ok(true)
}

/// Result of a delivery whose transaction may be committed.
enum Worked {
    Done,
    /// The delivery cannot be decoded; it stays in the inbox for an operator. Nobody is answered.
    Unreadable(DecodeError),
    /// Nothing was done: the platform must first be asked who this user is.
    AskUser(PlatformUser),
    /// Nothing was done: the platform must first be asked whether messages are visible there.
    AskChannel(ChatLocation),
}

async fn work_on(
    tx: &mut PgTransaction<'_>,
    app: &App,
    decoders: &Decoders,
    delivery: &Delivery,
) -> sqlx::Result<Worked> {
    let Some(decode) = decoders.get(delivery.platform.as_str()) else {
        let message = format!("this process cannot read deliveries of {}", delivery.platform);
        return Err(sqlx::Error::Protocol(message));
    };
    let inbound = match decode(&delivery.body) {
        Ok(inbound) => inbound,
        Err(why) => return Ok(Worked::Unreadable(why)),
    };
    let now = store::now(tx).await?;
    let Some(request) = interpret(app, &inbound.body, now) else { return Ok(Worked::Done) };
    let who = match person(tx, app, &inbound.user).await? {
        Identity::Person(who) => who,
        Identity::AskPlatform => return Ok(Worked::AskUser(inbound.user)),
        Identity::Nobody => {
            if asks_for_something(tx, &inbound, &request).await? {
                answer(tx, &inbound, unknown_user(app, &inbound.user)).await?;
            }
            return Ok(Worked::Done);
        }
    };
    if delivery.attempts > 0 && delivery.age > TOO_LATE && !request.only_holds_back() {
        answer(tx, &inbound, too_late(&inbound.body, delivery.received_at)).await?;
        return Ok(Worked::Done);
    }
    if request.needs_card() {
        match channel_access::access(tx, app, &inbound.location).await? {
            ChannelAccess::Open => {}
            ChannelAccess::Unknown => return Ok(Worked::AskChannel(inbound.location)),
            ChannelAccess::Closed { what_to_do: why } => {
                let error = Error::Conflict(Conflict::ChannelClosed(why));
                answer(tx, &inbound, Reply::Error(error.reply(None))).await?;
                return Ok(Worked::Done);
            }
        }
    }
    let ctx = context(&inbound, who, delivery.received_at);
    let only_holds_back = request.only_holds_back();
    // The savepoint removes whatever a refused request wrote before it was refused.
    let mut attempt = sqlx::Acquire::begin(&mut **tx).await?;
    let input = request.input().map(str::to_owned);
    let reply = match carry_out(&mut attempt, app, &ctx, request).await {
        // Asked last, since who overtakes may have waited for, or held, the same batch meanwhile.
        Ok(_) if !only_holds_back && inbox::was_overtaken(&mut attempt, delivery.id).await? => {
            attempt.rollback().await?;
            too_late(&inbound.body, delivery.received_at)
        }
        Ok(reply) => {
            attempt.commit().await?;
            reply
        }
        Err(Error::Internal(error) | Error::Unavailable(error)) => return Err(error),
        Err(error) => {
            attempt.rollback().await?;
            Reply::Error(error.reply(input.as_deref()))
        }
    };
    answer(tx, &inbound, reply).await?;
    Ok(Worked::Done)
}

fn context(inbound: &Inbound, who: Principal, received_at: OffsetDateTime) -> RequestContext {
    RequestContext {
        principal: who,
        origin: Origin::Chat { location: inbound.location.clone() },
        key: key(inbound),
        // Nobody can have asked after it came, whatever the platform's clock says.
        asked_at: Some(inbound.body.at().map_or(received_at, |at| at.min(received_at))),
    }
}

fn key(inbound: &Inbound) -> String {
    format!("{}:{}", inbound.user.platform, inbound.delivery)
}

/// Queues the answer, for the person alone. A request that was carried out gets no answer: the
/// batch's card or an event in its thread shows it to everybody.
async fn answer(tx: &mut PgTransaction<'_>, inbound: &Inbound, reply: Reply) -> sqlx::Result<()> {
    if matches!(reply, Reply::Admitted(_) | Reply::Done) {
        return Ok(());
    }
    let (location, user) = (inbound.location.clone(), inbound.user.id.clone());
    let audience = Audience::Only { location, user };
    let key = format!("{}:answer", key(inbound));
    outbox::notice(tx, &key, &audience, &Notice::Reply(reply)).await
}

fn unknown_user(app: &App, user: &PlatformUser) -> Reply {
    Reply::UnknownUser {
        platform: user.platform.clone(),
        user: user.id.clone(),
        admins: app.policy.admins.iter().cloned().collect(),
    }
}

/// Returns whether an unknown user asks for something, and so must be told that they are unknown.
/// They may talk in threads, but must not believe that their word counts as a decision.
async fn asks_for_something(
    tx: &mut PgTransaction<'_>,
    inbound: &Inbound,
    request: &ChatRequest,
) -> sqlx::Result<bool> {
    let head = match request {
        ChatRequest::Reaction { added: false, .. } => return Ok(false),
        ChatRequest::Reaction { message, .. } => Some(message),
        ChatRequest::Reply { .. } => inbound.location.thread.as_ref(),
        ChatRequest::Command(_)
        | ChatRequest::Invalid { .. }
        | ChatRequest::Press { .. }
        | ChatRequest::UnknownButton => return Ok(true),
    };
    let ChatLocation { platform, channel, .. } = &inbound.location;
    Ok(match head {
        Some(head) => card::batch_of_message(tx, platform, channel, head).await?.is_some(),
        None => false,
    })
}

/// The answer to a request that could not be carried out in time.
fn too_late(body: &InboundBody, at: OffsetDateTime) -> Reply {
    let asked = match body {
        InboundBody::Command { text } => format!("/metal {text}"),
        InboundBody::ThreadReply { text, .. } => text.clone(),
        InboundBody::Reaction { name, .. } => format!(":{name}:"),
        InboundBody::Button { value, .. } => value.split(' ').next().unwrap_or_default().to_owned(),
    };
    let message = format!(
        "what you asked for at {:02}:{:02} UTC ({asked}) could not be done then, and was not done \
         later. Ask again if you still want it",
        at.hour(),
        at.minute()
    );
    let code = "too_late".into();
    Reply::Error(ErrorReply { code, message, input: None, column: None, hint: None })
}

/// Does what the person asked for.
async fn carry_out(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    request: ChatRequest,
) -> Result<Reply, Error> {
    match request {
        ChatRequest::Command(command) => execute(tx, app, ctx, command).await,
        ChatRequest::Invalid { error, .. } => Err(error.into()),
        ChatRequest::UnknownButton => Err(Conflict::StaleButton.into()),
        ChatRequest::Reply { reply, .. } => {
            let thread = ctx.origin.location().and_then(|at| at.thread.as_deref());
            // A reply in a thread of no batch is for people.
            let Some(id) = batch_of(tx, ctx, thread).await? else { return Ok(Reply::Done) };
            let Some(command) = command_of(reply, id) else {
                return Err(Conflict::UnclearReply.into());
            };
            Ok(in_its_thread(execute(tx, app, ctx, command).await?))
        }
        ChatRequest::Reaction { message, reaction, added } => {
            if let Some(id) = batch_of(tx, ctx, Some(&message)).await? {
                match added {
                    true => decide::react(tx, app, ctx, id, reaction).await?,
                    false => decide::take_back(tx, app, ctx, id, reaction).await?,
                }
            }
            Ok(Reply::Done)
        }
        ChatRequest::Press { message, button } => press(tx, app, ctx, &message, button).await,
    }
}

/// In the batch's own thread its event says it to everybody.
fn in_its_thread(reply: Reply) -> Reply {
    if matches!(reply, Reply::Acted { .. }) { Reply::Done } else { reply }
}

fn command_of(reply: ThreadReply, id: BatchId) -> Option<Command> {
    Some(match reply {
        ThreadReply::Approve => Command::Approve(id),
        ThreadReply::Reject { reason } => Command::Reject { batch: id, reason },
        ThreadReply::Cancel => Command::Cancel(id),
        ThreadReply::Status => Command::Status(id),
        ThreadReply::Retry => Command::Retry(id),
        ThreadReply::Unclear => return None,
    })
}

/// Does what a button asks for. The button must be on its batch's card or in the card's thread.
async fn press(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    message: &str,
    button: PressedButton,
) -> Result<Reply, Error> {
    let id = button.batch;
    let location = ctx.origin.location().ok_or(Conflict::StaleButton)?;
    let ChatLocation { platform, channel, thread } = location;
    if batch_of(tx, ctx, Some(message)).await? != Some(id)
        && batch_of(tx, ctx, thread.as_deref()).await? != Some(id)
        && !card::is_on_its_way(tx, id, platform, channel).await?
    {
        return Err(Conflict::StaleButton.into());
    }
    match button.action {
        ButtonAction::Decide { verdict, seen, reason } => {
            decide::decide(tx, app, ctx, id, verdict, Some(seen), reason.as_deref()).await?;
        }
        ButtonAction::Resume { pause_number } => {
            control::resume(tx, app, ctx, id, Some(pause_number)).await?;
        }
        ButtonAction::Cancel => {
            return Ok(in_its_thread(execute(tx, app, ctx, Command::Cancel(id)).await?));
        }
        ButtonAction::Pause => {
            return Ok(in_its_thread(execute(tx, app, ctx, Command::Pause(id)).await?));
        }
        ButtonAction::Retry => return execute(tx, app, ctx, Command::Retry(id)).await,
    }
    Ok(Reply::Done)
}

/// Finds the batch whose card a message is.
async fn batch_of(
    tx: &mut PgTransaction<'_>,
    ctx: &RequestContext,
    message: Option<&str>,
) -> Result<Option<BatchId>, Error> {
    let (Some(message), Some(at)) = (message, ctx.origin.location()) else { return Ok(None) };
    Ok(card::batch_of_message(tx, &at.platform, &at.channel, message).await?)
}
