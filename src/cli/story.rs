//! The demo's story, told without a person: everybody acts over HTTP as their browser would, and
//! every step is checked.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sqlx::PgPool;

use super::site::Site;
use crate::sim::person::{Person, Seen};
use crate::store;

const METAL: &str = "metal";
const SOON: Duration = Duration::from_secs(5);
/// A silent BMC is given up after some tries.
const LONG: Duration = Duration::from_secs(90);

/// Tells the story at the console of this address; the first step that goes wrong ends it.
pub async fn tell(base: &str, site: &Site, pool: &PgPool) -> anyhow::Result<()> {
    let alice = Person::become_one(base, "alice").await?;
    let bob = Person::become_one(base, "bob").await?;
    let carol = Person::become_one(base, "carol").await?;
    let dave = Person::become_one(base, "dave").await?;

    chapter("alice asks for twelve reboots");
    let command = "/metal reboot web[01-12] reason=\"kernel CVE-2026-1\"";
    said(&alice, command);
    let asked = Instant::now();
    alice.say(METAL, command).await?;
    let card = alice.card(METAL, 1, SOON, |card| !card.buttons().is_empty()).await?;
    show(&card);
    println!("    (answered after {} ms)", asked.elapsed().as_millis());
    for part in ["web[01-12]", "kernel CVE-2026-1", "cut the power", "web-owners", "until"] {
        ensure!(card.text.contains(part), "the card does not say {part:?}");
    }

    chapter("carol asks for some of the same hosts");
    said(&carol, "/metal reboot web[10-14]");
    carol.say(METAL, "/metal reboot web[10-14]").await?;
    let refusal = answer(&carol, None, "the refusal", |text| text.contains("refused")).await?;
    for part in ["web[10-12]", "#1", "alice", "awaiting approval", "/metal reboot web[13-14]"] {
        ensure!(refusal.text.contains(part), "the refusal does not say {part:?}");
    }
    carol.say(METAL, "/metal status 2").await?;
    answer(&carol, None, "the status of #2", |text| text.starts_with("#2 reboot ·")).await?;

    chapter("alice cannot approve her own batch, dave does not own web");
    let approve = card.button("Approve").context("there is no button")?;
    for (person, why) in [(&alice, "somebody else"), (&dave, "only members of web-owners")] {
        said(person, "[Approve]");
        person.press(&card.id, &approve).await?;
        answer(person, None, "why not", |text| text.contains(why)).await?;
    }

    chapter("bob owns web and approves with a reaction");
    said(&bob, ":+1: on the card");
    bob.react(&card.id, "+1", true).await?;
    let thread = Some(card.id.as_str());
    let approved = bob
        .wait_for(METAL, thread, SOON, "the approval", |m| m.text.contains("approved for"))
        .await?;
    show(&approved);

    chapter("the batch runs; web07 is silent and web09 has another password");
    let running = |card: &Seen| card.text.contains("Working on");
    show(&alice.card(METAL, 1, SOON, running).await?);
    let done = alice
        .wait_for(METAL, thread, LONG, "the completion", |m| m.text.contains("has ended"))
        .await?;
    show(&done);
    for part in ["partly failed", "10 hosts done", "web07", "does not answer", "web09", "refused"] {
        ensure!(done.text.contains(part), "the completion does not say {part:?}");
    }
    let finished = alice.card(METAL, 1, SOON, |card| card.text.contains("partly failed")).await?;
    ensure!(finished.buttons() == ["Retry failed"], "buttons: {:?}", finished.buttons());

    chapter("the machines themselves say what was done to them");
    let mut cycled = 0;
    for number in 1..=12 {
        let host = format!("web{number:02}");
        let acts = site.rack.acts()?;
        let cuts =
            acts.iter().filter(|act| act.host.as_str() == host && act.is_power_off()).count();
        let broken = matches!(number, 7 | 9);
        ensure!(cuts == usize::from(!broken), "{host} was cut off {cuts} times");
        cycled += cuts;
    }
    println!("    {cycled} hosts were power-cycled, each exactly once; web07 and web09 never");

    chapter("two tickets, one for each kind of failure, that tag alice");
    let tickets = wait_for_tickets(site, 2).await?;
    for ticket in &tickets {
        println!("    {} {}", ticket.key, ticket.summary);
        ensure!(ticket.description.contains("[~alice]"), "{} does not tag alice", ticket.key);
        let key = ticket.key.clone();
        alice
            .wait_for(METAL, thread, SOON, "the ticket in the thread", |m| m.text.contains(&key))
            .await?;
    }

    chapter("alice retries what failed, then thinks better of it");
    said(&alice, "/metal retry 1");
    alice.say(METAL, "/metal retry 1").await?;
    let retry = alice.card(METAL, 3, SOON, |card| card.text.contains("retry of #1")).await?;
    show(&retry);
    said(&alice, "/metal cancel 3");
    alice.say(METAL, "/metal cancel 3").await?;
    alice.card(METAL, 3, SOON, |card| card.text.contains("cancelled by alice")).await?;

    chapter("everything is in the audit");
    let report = verified(pool).await?;
    println!("    {} rows in the hash chain, head {}", report.sealed, &report.head[..16]);
    println!("\nThe story went as it should.");
    Ok(())
}

async fn wait_for_tickets(
    site: &Site,
    number: usize,
) -> anyhow::Result<Vec<crate::sim::jira::Ticket>> {
    let started = Instant::now();
    while site.jira.issues().len() < number && started.elapsed() < SOON {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let tickets = site.jira.issues();
    ensure!(tickets.len() == number, "there are {} tickets", tickets.len());
    Ok(tickets)
}

/// The chain, once the sealing task has caught up.
async fn verified(pool: &PgPool) -> anyhow::Result<store::audit::ChainReport> {
    let started = Instant::now();
    loop {
        let report = store::audit::verify(&mut *pool.acquire().await?).await?;
        ensure!(report.broken.is_none(), "the audit is broken: {:?}", report.broken);
        if report.unsealed == 0 || started.elapsed() > LONG {
            ensure!(report.unsealed == 0, "{} rows were never sealed", report.unsealed);
            return Ok(report);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What Metalbot says to this person alone.
async fn answer(
    person: &Person,
    thread: Option<&str>,
    what: &str,
    wanted: impl Fn(&str) -> bool,
) -> anyhow::Result<Seen> {
    let found =
        person.wait_for(METAL, thread, SOON, what, |m| m.only_you && wanted(&m.text)).await?;
    show(&found);
    Ok(found)
}

fn chapter(title: &str) {
    println!("\n== {title}");
}

fn said(person: &Person, what: &str) {
    println!("  {}> {what}", person.login);
}

fn show(message: &Seen) {
    let private = if message.only_you { " (only to them)" } else { "" };
    println!("  metalbot{private}:");
    for line in message.text.lines() {
        println!("    | {line}");
    }
}
