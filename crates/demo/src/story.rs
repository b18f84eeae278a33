//! The demo's story, told without a person: everybody acts as at the console or in Slack, and every
//! step is checked.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::PgPool;

use metalbot_sim::actor::{self, ChatUser, SeenMessage};
use metalbot_sim::jira::{SimJira, Ticket};
use metalbot_sim::rack::Rack;
use metalbot_store as store;

/// A silent BMC is given up after some tries.
const PATIENCE: Duration = Duration::from_secs(90);

/// Tells the story with people who take their seats by login; the first step that goes wrong ends
/// it.
pub async fn tell<A: ChatUser>(
    seat: impl AsyncFn(&str) -> anyhow::Result<A>,
    rack: &Rack,
    jira: &SimJira,
    pool: &PgPool,
) -> anyhow::Result<()> {
    let (alice, bob) = (seat("alice").await?, seat("bob").await?);
    let (carol, dave) = (seat("carol").await?, seat("dave").await?);

    chapter("alice asks for twelve reboots");
    let asked = Instant::now();
    command(&alice, "/metal reboot web[01-12] reason=\"kernel CVE-2026-1\"").await?;
    let card = card(&alice, 1, |card| !card.buttons().is_empty()).await?;
    show(&card);
    println!("    (answered after {} ms)", asked.elapsed().as_millis());
    for part in ["web[01-12]", "kernel CVE-2026-1", "cut the power", "web-owners", "until"] {
        ensure!(card.text.contains(part), "the card does not say {part:?}");
    }
    let thread = Some(&card);

    chapter("carol asks for some of the same hosts");
    command(&carol, "/metal reboot web[10-14]").await?;
    let refusal = told(&carol, None, "was refused").await?;
    for part in ["web[10-12]", "#1", "alice", "awaiting approval", "/metal reboot web[13-14]"] {
        ensure!(refusal.text.contains(part), "the refusal does not say {part:?}");
    }
    command(&carol, "/metal status 2").await?;
    told(&carol, None, "#2 reboot ·").await?;

    chapter("alice cannot approve her own batch, dave does not own web");
    said(&alice, "[Approve]");
    alice.press(&card, "Approve").await?;
    told(&alice, None, "somebody else").await?;
    said(&dave, "lgtm, in the thread");
    dave.reply(&card, "lgtm").await?;
    told(&dave, thread, "only members of web-owners").await?;

    chapter("bob owns web and approves with a reaction");
    said(&bob, ":+1: on the card");
    bob.react(&card, "+1").await?;
    heard(&bob, &card, "approved for").await?;

    chapter("the batch runs; web07 is silent and web09 has another password");
    show(&self::card(&alice, 1, |card| card.text.contains("Working on")).await?);
    let done = heard(&carol, &card, "has ended").await?;
    for part in ["partly failed", "10 hosts done", "web07", "does not answer", "web09", "refused"] {
        ensure!(done.text.contains(part), "the completion does not say {part:?}");
    }
    told(&alice, None, "#1 has ended").await?;
    let finished = self::card(&alice, 1, |card| card.text.contains("partly failed")).await?;
    ensure!(finished.buttons() == ["Retry failed"], "buttons: {:?}", finished.buttons());

    chapter("the machines themselves say what was done to them");
    let mut cycled = 0;
    for number in 1..=12 {
        let host = format!("web{number:02}");
        let acts = rack.acts()?;
        let cuts =
            acts.iter().filter(|act| act.host.as_str() == host && act.is_power_off()).count();
        let broken = matches!(number, 7 | 9);
        ensure!(cuts == usize::from(!broken), "{host} was cut off {cuts} times");
        cycled += cuts;
    }
    println!("    {cycled} hosts were power-cycled, each exactly once; web07 and web09 never");

    chapter("two tickets, one for each kind of failure, that tag alice");
    for ticket in &tickets(jira, 2).await? {
        println!("    {} {}", ticket.key, ticket.summary);
        ensure!(ticket.description.contains("[~alice]"), "{} does not tag alice", ticket.key);
        heard(&alice, &card, &ticket.key).await?;
    }

    chapter("alice retries what failed, and bob rejects that until somebody has looked");
    said(&alice, "[Retry failed]");
    alice.press(&finished, "Retry failed").await?;
    let waits =
        |card: &SeenMessage| card.text.contains("retry of #1") && !card.buttons().is_empty();
    let retry = self::card(&bob, 3, waits).await?;
    show(&retry);
    let why = "look at both tickets first";
    said(&bob, &format!("[Reject] because: {why}"));
    bob.answer(&retry, "Reject", why).await?;
    heard(&alice, &retry, why).await?;
    let rejected = self::card(&alice, 3, |card| card.text.contains("rejected")).await?;
    ensure!(rejected.buttons().is_empty(), "buttons: {:?}", rejected.buttons());

    chapter("everything is in the audit");
    let report = verified(pool).await?;
    println!("    {} rows in the hash chain, head {}", report.sealed, &report.head[..16]);
    println!("\nThe story went as it should.");
    Ok(())
}

async fn tickets(jira: &SimJira, number: usize) -> anyhow::Result<Vec<Ticket>> {
    let started = Instant::now();
    while jira.issues().len() < number && started.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let tickets = jira.issues();
    ensure!(tickets.len() == number, "there are {} tickets", tickets.len());
    Ok(tickets)
}

/// The chain, once the sealing task has caught up.
async fn verified(pool: &PgPool) -> anyhow::Result<store::audit::ChainReport> {
    let started = Instant::now();
    loop {
        let report = store::audit::verify(&mut *pool.acquire().await?, None, None).await?;
        ensure!(report.broken.is_none(), "the audit is broken: {:?}", report.broken);
        if report.unsealed == 0 || started.elapsed() > PATIENCE {
            ensure!(report.unsealed == 0, "{} rows were never sealed", report.unsealed);
            return Ok(report);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn command(person: &impl ChatUser, text: &str) -> anyhow::Result<()> {
    said(person, text);
    person.command(text).await
}

/// Waits for a message to this person alone, with these words.
async fn told(
    person: &impl ChatUser,
    head: Option<&SeenMessage>,
    words: &str,
) -> anyhow::Result<SeenMessage> {
    let found = see(person, head, words, |m| m.only_you && m.text.contains(words)).await?;
    show(&found);
    Ok(found)
}

/// Waits for a message to everybody in a card's thread, with these words.
async fn heard(
    person: &impl ChatUser,
    card: &SeenMessage,
    words: &str,
) -> anyhow::Result<SeenMessage> {
    let is = |m: &SeenMessage| m.thread.is_some() && !m.only_you && m.text.contains(words);
    let found = see(person, Some(card), words, |m| m.author == "metalbot" && is(m)).await?;
    show(&found);
    Ok(found)
}

/// The card of a batch, once it is as wanted.
async fn card(
    person: &impl ChatUser,
    batch: i64,
    wanted: impl Fn(&SeenMessage) -> bool,
) -> anyhow::Result<SeenMessage> {
    let title = format!("#{batch} ");
    let is = |m: &SeenMessage| m.text.lines().next().is_some_and(|line| line.contains(&title));
    let all = |m: &SeenMessage| m.card.is_some() && !m.only_you && is(m) && wanted(m);
    see(person, None, &format!("the card of #{batch} as it should be"), all).await
}

async fn see(
    person: &impl ChatUser,
    head: Option<&SeenMessage>,
    what: &str,
    wanted: impl Fn(&SeenMessage) -> bool,
) -> anyhow::Result<SeenMessage> {
    let look = async || person.messages(head).await.unwrap_or_default();
    let text = |message: &SeenMessage| format!("{}: {}", message.author, message.text);
    actor::wait_for(person.login(), what, PATIENCE, look, text, wanted).await
}

fn chapter(title: &str) {
    println!("\n== {title}");
}

fn said(person: &impl ChatUser, what: &str) {
    println!("  {}> {what}", person.login());
}

fn show(message: &SeenMessage) {
    let thread = if message.thread.is_some() { ", in the thread" } else { "" };
    let private = if message.only_you { ", only to them" } else { "" };
    println!("  metalbot{thread}{private}:");
    for line in message.text.lines() {
        println!("    | {line}");
    }
    if !message.buttons().is_empty() {
        println!("    | [{}]", message.buttons().join("] ["));
    }
}
