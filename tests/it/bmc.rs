//! `metalbot operator bmc` as a process of its own, beside `metalbot serve` and the rack; and what the BMC's
//! log says when a host fails.

use std::collections::BTreeSet;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use metalbot::bmc::Power;
use metalbot_sim::rack::{self, BmcFault, Rack};

use crate::harness::process::{said, signal};
use crate::harness::{Count, METAL, PATIENCE, Site, World, until};

/// The user that this test, and what it starts, runs as.
fn me() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// alice is the user of this machine, and SREs are administrators.
fn alice_is_at_the_shell(site: &Site) {
    let account = format!("jira = \"alice\"\naccounts = {{ shell = \"{}\" }}", me());
    site.change("people.toml", |toml| toml.replace("jira = \"alice\"", &account));
    site.change("metalbot.toml", |toml| toml + "\n[admin]\ngroups = [\"sre\"]\n");
}

#[tokio::test]
async fn bmcs_are_asked_without_a_database_or_a_service() {
    let site = Site::start().await;
    let status = site.metalbot(&["operator", "bmc", "status", "web[01-10]", "db01!web02"]).await;
    assert_eq!(status.status.code(), Some(1), "two of them failed");
    insta::assert_snapshot!(said(&status).0, @r"
    HOSTS                     POWER  VENDOR  PRODUCT  FIRMWARE
    db01,web[01,03-06,08,10]  on     Lenovo  0x0f02   9.08
    web07                     the BMC does not answer
    web09                     the BMC refused the user name or password
    ");
    let json = site.metalbot(&["operator", "bmc", "status", "web07,web08", "--json"]).await;
    insta::assert_snapshot!(
        said(&json).0.trim(),
        @r#"{"hosts":[{"error":"the BMC does not answer","host":"web07","kind":"bmc_unreachable"},{"firmware":"9.08","host":"web08","power":"on","product":"0x0f02","vendor":"Lenovo"}]}"#
    );
    let sel = site.metalbot(&["operator", "bmc", "sel", "web[01-02]", "--last", "3"]).await;
    assert!(sel.status.success());
    assert_eq!(said(&sel).0, "web[01-02]: the log is empty\n");
    let sensors = site.metalbot(&["operator", "bmc", "sensors", "web01"]).await;
    assert_eq!(said(&sensors).0, "web01: power unknown, inlet unknown\n");
    let mut status = site.command(&["operator", "bmc", "status", "web01"]);
    let mut unread = status.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    let unread = output(unread).await;
    assert!(unread.status.success(), "a closed pipe is no failure: {}", said(&unread).1);
    let nobody = site.metalbot(&["operator", "bmc", "status", "web[41-42]"]).await;
    let (out, error) = said(&nobody);
    assert!(!nobody.status.success() && out.is_empty() && error.contains("web"), "{error}");
    site.leave().await;
}

#[tokio::test]
async fn power_by_hand_is_for_administrators_and_takes_a_claim() {
    let site = Site::sound().await;
    let power = async |args: &[&str]| {
        let output = site.metalbot(&[&["operator", "bmc", "power"][..], args].concat()).await;
        let (out, error) = said(&output);
        (output.status.success(), out, error)
    };
    let (done, _, why) = power(&["off", "web01", "--yes"]).await;
    assert!(!done && why.contains("nobody of the directory has the account shell"), "{why}");
    let account = format!("jira = \"alice\"\naccounts = {{ shell = \"{}\" }}", me());
    site.change("people.toml", |toml| toml.replace("jira = \"alice\"", &account));
    let (done, _, why) = power(&["off", "web01", "--yes"]).await;
    assert!(!done && why.contains("only members of no group may act by hand"), "{why}");
    site.change("metalbot.toml", |toml| toml + "\n[admin]\ngroups = [\"sre\"]\n");
    let (done, _, why) = power(&["off", "web01"]).await;
    assert!(!done && why.contains("give --yes"), "{why}");
    let alone = site
        .command(&["operator", "bmc", "power", "off", "web01", "--yes"])
        .env_remove("DATABASE_URL")
        .current_dir(site.folder())
        .output()
        .unwrap();
    let (_, why) = said(&alone);
    assert!(!alone.status.success() && why.contains("start it first"), "{why}");
    assert!(!site.folder().join("state").exists(), "it started a database");

    let process = site.serve().await;
    let carol = process.sign_in("carol").await;
    carol.say(METAL, "/metal reboot web[01-02]").await.unwrap();
    let waits = |card: &metalbot_sim::actor::SeenMessage| !card.buttons().is_empty();
    carol.card(METAL, 1, PATIENCE, waits).await.unwrap();
    let (done, out, why) = power(&["off", "web[02-03]", "--yes"]).await;
    assert!(!done && out.is_empty(), "{out}");
    assert!(why.contains("web02: held by #1 of carol, awaiting approval"), "{why}");
    assert_eq!(site.cycles("web03"), (0, 0), "all or nothing");

    let args = ["cycle", "web[03-05]", "--yes", "--reason", "hung"];
    let (done, out, progress) = power(&args).await;
    assert!(done, "{progress}");
    assert_eq!(out, "web[03-05]: done\n");
    assert!(progress.contains("#3 succeeded: 3 of 3 hosts"), "{progress}");
    assert!(["web03", "web04", "web05"].iter().all(|host| site.cycles(host) == (1, 1)));
    // Everybody can ask what was done at the shell, and the audit says who did it.
    carol.say(METAL, "/metal status 3").await.unwrap();
    let answer = carol.wait_for(METAL, None, PATIENCE, "the state of #3", |message| {
        message.only_you && message.text.contains("bmc-power")
    });
    let status = answer.await.unwrap().text;
    assert!(status.contains("succeeded") && status.contains("@alice"), "{status}");
    let (actor, via) = site.db.submitted_by(3).await;
    assert!(actor == "alice" && via.starts_with("command line on "), "{actor} by {via}");
    let (done, out, _) = power(&["off", "web06", "--yes", "--json"]).await;
    assert!(done);
    assert_eq!(out.trim(), r#"{"hosts":[{"batch":4,"host":"web06","state":"succeeded"}]}"#);
    site.finish().await;
}

#[tokio::test]
async fn power_by_hand_does_what_was_asked_for_and_no_more() {
    let site = Site::sound().await;
    alice_is_at_the_shell(&site);
    let _process = site.serve().await;
    for (to, host, log) in [
        ("soft", "web01", &["shutdown 1"][..]),
        ("on", "web01", &["shutdown 1", "power 1"]),
        ("reset", "web02", &["reset 1"]),
    ] {
        let output = site.metalbot(&["operator", "bmc", "power", to, host, "--yes"]).await;
        let (out, error) = said(&output);
        assert!(output.status.success(), "{to}: {error}");
        assert_eq!(out, format!("{host}: done\n"), "{to}");
        assert_eq!(site.acts(host), log, "{to}");
        let power = site.rack().power(&host.parse().unwrap()).unwrap();
        assert_eq!(power, if to == "soft" { Power::Off } else { Power::On }, "{to}");
    }
    let touched: BTreeSet<_> =
        site.rack().acts().unwrap().into_iter().map(|act| act.host).collect();
    assert_eq!(touched.len(), 2, "{touched:?}");
    site.finish().await;
}

/// `bmc power` of a few hosts, running.
fn start_power(site: &Site, to: &str, hosts: &str) -> Child {
    let mut command = site.command(&["operator", "bmc", "power", to, hosts, "--yes"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn output(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

/// Every one of `web[01-08]` was cycled once, and is free for the next batch.
async fn cycled_once_and_free(site: &Site) {
    site.db.until(Count::HostsHeld, 0).await;
    let states = site.db.job_states(1).await;
    assert_eq!(states, ["succeeded"]);
    for number in 1..=8 {
        let host = format!("web{number:02}");
        let cycles = site.cycles(&host);
        assert_eq!(cycles, (1, 1), "{host}:\n{}", site.history(&host).await);
    }
    let again = site.metalbot(&["operator", "bmc", "power", "reset", "web[01-08]", "--yes"]).await;
    assert_eq!(said(&again).0, "web[01-08]: done\n", "{}", said(&again).1);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_workers_while_power_is_given_by_hand() {
    let site = Site::sound().await;
    alice_is_at_the_shell(&site);
    let process = site.serve().await;
    let child = start_power(&site, "cycle", "web[01-08]");
    // Eight hosts are sixteen acts.
    site.acts_reach(rand::random_range(1..12)).await;
    process.kill9();
    let _process = site.serve().await;
    let output = output(child).await;
    assert_eq!(said(&output).0, "web[01-08]: done\n", "{}", said(&output).1);
    assert!(output.status.success());
    cycled_once_and_free(&site).await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_command_leaves_the_rest_to_the_workers() {
    let site = Site::sound().await;
    alice_is_at_the_shell(&site);
    let _process = site.serve().await;
    let mut child = start_power(&site, "cycle", "web[01-08]");
    site.acts_reach(rand::random_range(1..12)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    cycled_once_and_free(&site).await;
    site.finish().await;
}

#[tokio::test]
async fn without_a_worker_the_hosts_are_held_until_it_is_interrupted() {
    let site = Site::sound().await;
    alice_is_at_the_shell(&site);
    for (number, name) in ["INT", "TERM", "HUP"].iter().enumerate() {
        let mut child = start_power(&site, "off", "web01");
        site.db.until(Count::HostsHeld, 1).await;
        // When its terminal is closed, nobody reads what it says any more.
        let unread = (*name == "HUP").then(|| (child.stdout.take(), child.stderr.take()));
        drop(unread);
        signal(name, child.id());
        let output = output(child).await;
        assert!(!output.status.success() && output.status.code().is_some(), "{name}");
        assert_ne!(output.status.code(), Some(101), "it panicked at {name}");
        if *name != "HUP" {
            let told = format!("#{} cancelled", number + 1);
            assert!(said(&output).1.contains(&told), "{}", said(&output).1);
        }
        assert_eq!(site.db.count(Count::HostsHeld).await, 0, "{name}");
    }
    assert_eq!(site.db.count(Count::BatchesCancelled).await, 3);
    assert_eq!(site.cycles("web01"), (0, 0));
    site.leave().await;
}

#[tokio::test]
async fn what_nohup_starts_outlives_its_terminal() {
    let site = Site::sound().await;
    alice_is_at_the_shell(&site);
    let plain = site.command(&["operator", "bmc", "power", "off", "web01", "--yes"]);
    let mut nohup = Command::new("nohup");
    nohup.arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
    nohup.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = nohup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    site.db.until(Count::HostsHeld, 1).await;
    signal("HUP", child.id());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(site.db.count(Count::HostsHeld).await, 1, "the closed terminal cancelled it");
    signal("TERM", child.id());
    let output = output(child).await;
    assert!(said(&output).1.contains("#1 cancelled"), "{}", said(&output).1);
    site.leave().await;
}

#[tokio::test]
async fn a_failed_host_keeps_what_its_bmc_has_logged() {
    let t = World::builder().rack().fault("web04", BmcFault::IgnoresSoftOff).start().await;
    log_a_lost_power_supply(t.rack(), "web04");
    t.says(&t.alice, "/metal power-off web[04,07] wait=10s").await;
    t.replies(&t.bob, 1, "approve").await;
    t.ended(1).await;
    let reads = async || {
        let answer = t.says(&t.alice, "/metal status host web04").await;
        answer.contains("Power Supply 0x64: Power Supply input lost (AC/DC), asserted")
    };
    until("the log of web04 in its status", reads).await;
    let answer = t.says(&t.alice, "/metal status host web04").await;
    assert!(answer.contains("the host is still on at the deadline"), "{answer}");
    let silent = t.says(&t.alice, "/metal status host web07").await;
    assert!(!silent.contains("Power Supply"), "a BMC that does not answer has nothing to say");
    t.finish().await;
}

fn log_a_lost_power_supply(rack: &Rack, host: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events");
    std::fs::write(&file, "0x04 0x08 0x64 0x6f 0x03 0xff 0xff # power supply\n").unwrap();
    let address = rack.address(&host.parse().unwrap()).unwrap();
    let (ip, port) = address.split_once(':').unwrap();
    let output = Command::new("ipmitool")
        .args(["-I", "lanplus", "-C", "3", "-U", rack::USER, "-P", rack::PASSWORD])
        .args(["-H", ip, "-p", port, "sel", "add"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output).1);
}

#[tokio::test]
async fn every_bmc_of_the_fleet_is_asked_who_it_is() {
    let t = World::builder()
        .rack()
        .replace("[executor]", "[executor]\nbmc_inventory_interval = \"1s\"")
        .start()
        .await;
    t.db.until(Count::BmcsIdentified, 46).await;
    let silent = t.db.count(Count::BmcsSilent).await;
    assert_eq!(silent, 2, "web07 does not answer, web09 has another password");
    t.finish().await;
}
