//! The fleet changes while Metalbot runs.

use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, World};

/// Says it until the answer has the text: the file is read again once in a while.
async fn answered(t: &World, command: &str, text: &str) {
    let started = Instant::now();
    loop {
        let answer = t.says(&t.alice, command).await;
        if answer.contains(text) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{command}: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn hosts_come_and_go_while_it_runs() {
    let t = World::start().await;
    t.change_hosts(|hosts| {
        let gone = |line: &&str| !line.starts_with("web02,");
        hosts.lines().filter(gone).collect::<Vec<_>>().join("\n")
    });
    answered(&t, "/metal status host web02", "has no host web02").await;
    // A file that cannot be used changes nothing.
    t.change_hosts(|hosts| hosts.replace("web01,", "web 01,"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    answered(&t, "/metal status host web01", "web01 · web-owners").await;
    t.change_hosts(|hosts| hosts.replace("web 01,", "web01,").replace("web-owners", "web-owner"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    answered(&t, "/metal status host web01", "web01 · web-owners").await;
    t.change_hosts(|hosts| {
        hosts.replace(",web-owner,", ",web-owners,").replace("web01,", "web001,")
    });
    answered(&t, "/metal status host web001", "web001 · web-owners").await;
    t.finish().await;
}

#[tokio::test]
async fn a_host_whose_bmc_has_moved_is_left_alone() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web[01-02]").await;
    // What was web40's is web02's now: the people who approve mean the other machine.
    t.change_hosts(|hosts| {
        let bmc = |name: &str| {
            let line = hosts.lines().find(|line| line.starts_with(&format!("{name},"))).unwrap();
            line.split(',').find(|word| word.starts_with("127.")).unwrap().to_owned()
        };
        let (here, there) = (bmc("web02"), bmc("web40"));
        hosts
            .replace(&format!(",{there},"), ",127.0.0.9:9,")
            .replace(&format!(",{here},"), &format!(",{there},"))
    });
    let file = t.hosts_file();
    let changed = std::fs::metadata(file).unwrap().modified().unwrap();
    // Longer than it takes to look.
    while changed.elapsed().unwrap() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    t.replies(&t.bob, 1, "approve").await;
    let ended = t.ended(1).await;
    assert!(ended.contains("1 host done"), "{ended}");
    let why: String = sqlx::query_scalar(
        "select state || ' ' || error_kind || ': ' || error from job where host = 'web02'",
    )
    .fetch_one(&t.pool)
    .await
    .unwrap();
    assert!(why.starts_with("failed inventory_changed: the BMC of web02 was 127."), "{why}");
    assert_eq!(t.acts("web01"), ["power 0", "power 1"]);
    assert!(t.acts("web02").is_empty() && t.acts("web40").is_empty(), "neither was touched");
    t.tickets(1).await;
    t.finish().await;
}
