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

use super::decide::DecidingReaction;
use super::identify::{Identity, person};
use super::submit::Submitted;
use super::{App, Ask, Error, channel_access, control, decide, preference, preview, query, submit};
use crate::failpoint::{Point, reach};
use crate::runtime::notifier::Notifier;
use crate::telemetry;
use metalbot_core::command::{self, Command, ThreadReply};
use metalbot_core::domain::approval::Verdict;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::{Inbound, Place, PlatformUser, What};
use metalbot_core::domain::notice::{Audience, Notice};
use metalbot_core::domain::principal::Principal;
use metalbot_core::domain::workflow::Digest;
use metalbot_store::inbox::Delivery;
use metalbot_store::notifier::Topic;
use metalbot_store::{self as store, account, card, inbox, outbox};

/// Turns a platform's raw delivery into what it means; the text says why it means nothing.
pub type Decode = fn(&Value) -> Result<Inbound, String>;

/// The platforms of this process, by name.
pub type Decoders = HashMap<&'static str, Decode>;

/// Tries of a delivery that always fails for a reason of ours; about a quarter of an hour.
const MOST_ATTEMPTS: i32 = 20;

/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long a delivery is left alone while a platform is asked about it: longer than that takes.
const ASKING: Duration = Duration::from_secs(20);

/// After this time what could not be done at first is not done any more: who asked for it sees
/// another world by now. They are told instead.
const TOO_LATE: Duration = Duration::from_secs(15 * 60);

/// How long it may be unknown who sent a delivery.
const LONGEST_DOUBT: Duration = Duration::from_secs(24 * 3600);

/// How long the loop sleeps when nobody wakes it.
const POLL: Duration = Duration::from_secs(1);

/// Works on deliveries until it is stopped. Several may run, here and in other replicas.
pub async fn run_intake(
    pool: PgPool,
    app: Arc<App>,
    decoders: Arc<Decoders>,
    notifier: Arc<Notifier>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let notified = notifier.topic(Topic::Inbox).notified();
        match work_on_next(&pool, &app, &decoders).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the inbox cannot be read"),
        }
        tokio::select! {
            _ = tokio::time::timeout(POLL, notified) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Works on one delivery; `false` when none waits.
pub async fn work_on_next(pool: &PgPool, app: &App, decoders: &Decoders) -> sqlx::Result<bool> {
    let mut tx = pool.begin().await?;
    let Some(delivery) = inbox::take(&mut tx).await? else { return Ok(false) };
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
            tracing::error!(delivery = delivery.id, why, "a delivery could not be read");
            let platform = delivery.platform.clone();
            metrics::counter!(telemetry::INBOX_UNREADABLE, "platform" => platform).increment(1);
            inbox::unreadable(&mut tx, delivery.id, &why).await?;
            tx.commit().await?;
            return Ok(true);
        }
        Ok(Ok(Worked::WhoIs(user))) => {
            // The platform is asked with no transaction open; then the delivery's turn comes again.
            // Meanwhile the other loops work on the others.
            inbox::leave_alone(&mut tx, delivery.id, ASKING).await?;
            tx.commit().await?;
            let Some(find) = app.addresses.get(user.platform.as_str()) else {
                return fail(pool, &delivery, "no platform vouches for this user").await;
            };
            match find(user.clone()).await {
                Ok(email) => {
                    account::remember(pool, &user, email.as_deref()).await?;
                    inbox::go_on(pool, delivery.id).await?;
                    return Ok(true);
                }
                Err(why) => {
                    // The fault is the platform's, for as long as it lasts. Nobody is taken for
                    // somebody meanwhile, by whatever was known of them once.
                    let why = format!("cannot find out who {} is: {why}", user.id);
                    if delivery.age > LONGEST_DOUBT {
                        inbox::give_up(pool, delivery.id, &why).await?;
                    } else {
                        let wait = outbox::wait_after(delivery.attempts, LONGEST_WAIT);
                        inbox::postpone(pool, delivery.id, wait, &why).await?;
                    }
                    tracing::warn!(delivery = delivery.id, why, "a delivery waits");
                    return Ok(true);
                }
            }
        }
        Ok(Ok(Worked::WhereIs(place))) => {
            inbox::leave_alone(&mut tx, delivery.id, ASKING).await?;
            tx.commit().await?;
            channel_access::ask(pool, app, &place).await?;
            inbox::go_on(pool, delivery.id).await?;
            return Ok(true);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "panicked".to_owned(),
    };
    drop(tx);
    fail(pool, &delivery, &failure).await
}

/// Tries the delivery again later, or never.
async fn fail(pool: &PgPool, delivery: &Delivery, failure: &str) -> sqlx::Result<bool> {
    let attempts = delivery.attempts;
    tracing::error!(delivery = delivery.id, attempts, error = failure, "a delivery failed");
    if attempts < MOST_ATTEMPTS {
        inbox::postpone(pool, delivery.id, outbox::wait_after(attempts, LONGEST_WAIT), failure)
            .await?;
    } else {
        // It would hold up everything that its sender says from now on.
        inbox::give_up(pool, delivery.id, failure).await?;
    }
    Ok(true)
}

/// What became of a delivery whose transaction may be committed.
enum Worked {
    Done,
    /// It means nothing; kept in the inbox for a person to look at. Nobody can be answered.
    Unreadable(String),
    /// Nothing was done: the platform must say first who this is.
    WhoIs(PlatformUser),
    /// Nothing was done: the platform must say first whether we are heard there.
    WhereIs(Place),
}

async fn work_on(
    tx: &mut PgTransaction<'_>,
    app: &App,
    decoders: &Decoders,
    delivery: &Delivery,
) -> sqlx::Result<Worked> {
    let Some(decode) = decoders.get(delivery.platform.as_str()) else {
        return Err(sqlx::Error::Protocol(format!("no door for {}", delivery.platform)));
    };
    let inbound = match decode(&delivery.body) {
        Ok(inbound) => inbound,
        Err(why) => return Ok(Worked::Unreadable(why)),
    };
    if is_talk(app, &inbound.what) {
        return Ok(Worked::Done);
    }
    let key = format!("{}:{}", inbound.who.platform, inbound.delivery);
    let only = |user: &str| Audience::Only { place: inbound.place.clone(), user: user.to_owned() };
    let who = match person(tx, app, &inbound.who).await? {
        Identity::Person(who) => Some(who),
        Identity::Nobody => None,
        Identity::AskPlatform => return Ok(Worked::WhoIs(inbound.who)),
    };
    let answer_key = format!("{key}:answer");
    let Some(who) = who else {
        if asks_for_something(tx, &inbound).await? {
            let user = inbound.who.id.clone();
            let platform = inbound.who.platform.clone();
            let audience = only(&user);
            let admins = app.policy.admins.iter().cloned().collect();
            let notice = Notice::Unbound { platform, user, admins };
            outbox::notice(tx, &answer_key, &audience, &notice).await?;
        }
        return Ok(Worked::Done);
    };
    if delivery.attempts > 0 && delivery.age > TOO_LATE && !holds_back(app, &inbound.what) {
        let notice = late(&inbound.what, delivery.received_at);
        outbox::notice(tx, &answer_key, &only(&inbound.who.id), &notice).await?;
        return Ok(Worked::Done);
    }
    // What a refused request wrote before it was refused goes away with the savepoint.
    let mut attempt = sqlx::Acquire::begin(&mut **tx).await?;
    let at = inbound.what.at().or(Some(delivery.received_at));
    let ask = Ask { who: &who, place: &inbound.place, key: &key, at };
    let answer = match carry_out(&mut attempt, app, ask, &inbound.what).await {
        Ok(answer) => {
            attempt.commit().await?;
            answer
        }
        Err(Error::Internal(error)) => return Err(error),
        Err(Error::AskWhere) => {
            attempt.rollback().await?;
            return Ok(Worked::WhereIs(inbound.place));
        }
        Err(error) => {
            attempt.rollback().await?;
            Some(apology(&inbound.what, &error))
        }
    };
    if let Some(notice) = answer {
        outbox::notice(tx, &answer_key, &only(&inbound.who.id), &notice).await?;
    }
    Ok(Worked::Done)
}

/// Whether somebody whom we do not know asks for something, and must learn that they are not known.
/// In threads they may talk, but not believe that they have decided.
async fn asks_for_something(tx: &mut PgTransaction<'_>, inbound: &Inbound) -> sqlx::Result<bool> {
    let head = match &inbound.what {
        What::Command { .. } | What::Button { .. } => return Ok(true),
        What::Reaction { added: false, .. } => return Ok(false),
        What::Reaction { message, .. } => Some(message),
        What::ThreadReply { .. } => inbound.place.thread.as_ref(),
    };
    let Place { platform, channel, .. } = &inbound.place;
    Ok(match head {
        Some(head) => card::batch_of_message(tx, platform, channel, head).await?.is_some(),
        None => false,
    })
}

/// Whether it can only keep something from being done: that is never too late.
fn holds_back(app: &App, what: &What) -> bool {
    let said = match what {
        What::Reaction { name, added, .. } => {
            return !added || verdict_of(app, name) == Some(Verdict::Reject);
        }
        What::Command { text } | What::ThreadReply { text, .. } => text,
        What::Button { value, .. } => value,
    };
    let verb = said.split_whitespace().next().unwrap_or_default();
    ["cancel", "stop", "pause", "reject", "drop"].iter().any(|word| verb.eq_ignore_ascii_case(word))
}

/// What is said to who asked for something that could not be done in time.
fn late(what: &What, at: OffsetDateTime) -> Notice {
    let asked = match what {
        What::Command { text } => format!("/metal {text}"),
        What::ThreadReply { text, .. } => text.clone(),
        What::Reaction { name, .. } => format!(":{name}:"),
        What::Button { value, .. } => value.split(' ').next().unwrap_or_default().to_owned(),
    };
    let message = format!(
        "what you asked for at {:02}:{:02} UTC ({asked}) could not be done then, and was not done \
         later. Ask again if you still want it",
        at.hour(),
        at.minute()
    );
    Notice::NotDone { message }
}

/// What is not for us, whoever says it.
fn is_talk(app: &App, what: &What) -> bool {
    match what {
        What::ThreadReply { text, .. } => command::thread_reply(text).is_none(),
        What::Reaction { name, .. } => verdict_of(app, name).is_none(),
        What::Command { .. } | What::Button { .. } => false,
    }
}

/// What a reaction says, if anything.
fn verdict_of(app: &App, reaction: &str) -> Option<Verdict> {
    let among = |names: &[String]| names.iter().any(|name| name == reaction);
    match (among(&app.reactions.approve), among(&app.reactions.reject)) {
        (true, _) => Some(Verdict::Approve),
        (false, true) => Some(Verdict::Reject),
        (false, false) => None,
    }
}

/// What an error looks like to the person.
fn apology(what: &What, error: &Error) -> Notice {
    match (what, error) {
        (What::Command { text }, Error::Invalid(error)) => Notice::Error {
            message: error.message(),
            input: error.column.map(|_| text.clone()),
            column: error.column,
            hint: error.hint(),
        },
        _ => Notice::NotDone { message: error.to_string() },
    }
}

/// Does what the person asked for. The answer, if any, is for them alone.
async fn carry_out(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ask: Ask<'_>,
    what: &What,
) -> Result<Option<Notice>, Error> {
    match what {
        What::Command { text } => {
            let now = store::now(tx).await?;
            let inventory = app.inventory.current();
            let (catalog, limits) = (&app.catalog, &app.limits);
            let command = command::understand(text, catalog, inventory.as_ref(), limits, now)?;
            run_command(tx, app, ask, command).await
        }
        What::ThreadReply { text, .. } => {
            let Some(reply) = command::thread_reply(text) else { return Ok(None) };
            let Some(id) = batch_of(tx, ask, ask.place.thread.as_deref()).await? else {
                return Ok(None);
            };
            let command = match reply {
                ThreadReply::Approve => Command::Approve(id),
                ThreadReply::Reject { reason } => Command::Reject { batch: id, reason },
                ThreadReply::Cancel => Command::Cancel(id),
                ThreadReply::Status => Command::Status(id),
                ThreadReply::Retry => Command::Retry(id),
            };
            run_command(tx, app, ask, command).await
        }
        What::Reaction { message, name, added, at } => {
            let Some(verdict) = verdict_of(app, name) else { return Ok(None) };
            let Some(id) = batch_of(tx, ask, Some(message)).await? else { return Ok(None) };
            let reaction = DecidingReaction { name, verdict, at: *at };
            match added {
                true => decide::react(tx, app, ask, id, reaction).await?,
                false => decide::take_back(tx, app, ask, id, reaction).await?,
            }
            Ok(None)
        }
        What::Button { message, value, answer } => {
            press(tx, app, ask, message, value, answer.as_deref()).await
        }
    }
}

async fn run_command(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ask: Ask<'_>,
    command: Command,
) -> Result<Option<Notice>, Error> {
    match command {
        Command::Help { topic } => {
            let page = command::help(&app.catalog, topic.as_deref());
            let page = serde_json::to_value(page).unwrap_or_default();
            return Ok(Some(Notice::Help { page }));
        }
        Command::Submit(request) => {
            channel_access::must_be_open(tx, app, ask.place).await?;
            return Ok(answer(submit::submit(tx, app, ask, &request, None).await?));
        }
        Command::Retry(id) => {
            channel_access::must_be_open(tx, app, ask.place).await?;
            return Ok(answer(submit::retry(tx, app, ask, id).await?));
        }
        Command::Status(id) => return query::batch(tx, id).await.map(Some),
        Command::HostStatus(hosts) => return query::hosts(tx, app, &hosts).await.map(Some),
        Command::List { mine } => {
            let of = mine.then_some(ask.who.login.as_str());
            return query::list(tx, of).await.map(Some);
        }
        Command::Hosts { expression, hosts } => {
            return Ok(Some(Notice::Hosts { expression, hosts }));
        }
        Command::Whoami => return Ok(Some(whoami(ask.who))),
        Command::DryRun(request) => {
            return preview::dry_run(tx, app, ask.who, &request).await.map(Some);
        }
        Command::Notify(change) => {
            return preference::notify(tx, app, ask, change).await.map(Some);
        }
        Command::Cancel(id) => control::cancel(tx, app, ask, id).await?,
        Command::Pause(id) => control::pause(tx, app, ask, id).await?,
        Command::Resume(id) => control::resume(tx, app, ask, id, None).await?,
        Command::Drop { batch, hosts } => control::drop_hosts(tx, app, ask, batch, &hosts).await?,
        Command::Release(hosts) => {
            control::release(tx, app, ask, &hosts).await?;
        }
        Command::Approve(id) => {
            decide::decide(tx, app, ask, id, Verdict::Approve, None, None).await?;
        }
        Command::Reject { batch, reason } => {
            let reason = reason.as_deref();
            decide::decide(tx, app, ask, batch, Verdict::Reject, None, reason).await?;
        }
    }
    Ok(None)
}

fn answer(submitted: Submitted) -> Option<Notice> {
    match submitted {
        Submitted::Accepted(_) => None,
        Submitted::Refused(notice) => Some(notice),
    }
}

fn whoami(who: &Principal) -> Notice {
    Notice::Whoami {
        login: who.login.clone(),
        name: who.name.clone(),
        groups: who.groups.iter().cloned().collect(),
    }
}

/// A button's value is `verb batch [seen]`: what the person saw when they pressed it, which is the
/// plan's digest or the pause's number. It must sit on that batch's card or in the thread under it.
async fn press(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ask: Ask<'_>,
    message: &str,
    value: &str,
    answer: Option<&str>,
) -> Result<Option<Notice>, Error> {
    let stale = || Error::Conflict("that button is not valid here any more".into());
    let mut words = value.split(' ');
    let verb = words.next().unwrap_or_default();
    let id: BatchId = words.next().and_then(|id| id.parse().ok()).ok_or_else(stale)?;
    let Place { platform, channel, thread } = ask.place;
    if batch_of(tx, ask, Some(message)).await? != Some(id)
        && batch_of(tx, ask, thread.as_deref()).await? != Some(id)
        && !card::is_on_its_way(tx, id, platform, channel).await?
    {
        return Err(stale());
    }
    let seen = words.next();
    match verb {
        "approve" | "reject" => {
            let verdict = if verb == "approve" { Verdict::Approve } else { Verdict::Reject };
            let seen = Some(seen.and_then(Digest::parse).ok_or_else(stale)?);
            let reason = answer.filter(|_| verdict == Verdict::Reject).and_then(command::rejection);
            decide::decide(tx, app, ask, id, verdict, seen, reason.as_deref()).await?;
            Ok(None)
        }
        "cancel" => run_command(tx, app, ask, Command::Cancel(id)).await,
        "pause" => run_command(tx, app, ask, Command::Pause(id)).await,
        "resume" => {
            let seen = seen.and_then(|pause| pause.parse().ok()).ok_or_else(stale)?;
            control::resume(tx, app, ask, id, Some(seen)).await?;
            Ok(None)
        }
        "retry" => run_command(tx, app, ask, Command::Retry(id)).await,
        _ => Err(stale()),
    }
}

/// The batch whose card this message is.
async fn batch_of(
    tx: &mut PgTransaction<'_>,
    ask: Ask<'_>,
    message: Option<&str>,
) -> Result<Option<BatchId>, Error> {
    let Some(message) = message else { return Ok(None) };
    let place = ask.place;
    Ok(card::batch_of_message(tx, &place.platform, &place.channel, message).await?)
}
