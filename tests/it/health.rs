//! What monitoring sees of a process: readiness and metrics, background tasks included.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{PATIENCE, Process, Site};

async fn get(process: &Process, path: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("{}{path}", process.base)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.text().await.unwrap()
}

#[tokio::test]
async fn every_background_task_is_seen_by_whoever_watches() {
    let site = Site::start().await;
    let process = site.serve().await;
    let started = Instant::now();
    let tasks = loop {
        let mut answer: Value = serde_json::from_str(&get(&process, "/readyz").await).unwrap();
        assert_eq!(answer["status"], "ready");
        let tasks: Vec<Value> = serde_json::from_value(answer["tasks"].take()).unwrap();
        if tasks.iter().all(|task| task["last_round_secs"].is_number()) {
            break tasks;
        }
        assert!(started.elapsed() < PATIENCE, "some had no round: {tasks:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let names: Vec<&str> = tasks.iter().map(|task| task["name"].as_str().unwrap()).collect();
    for name in ["preflight", "notices:console", "ticket_relay:default", "retention"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(tasks.iter().all(|task| task["late"] == false), "{tasks:#?}");
    let metrics = get(&process, "/metrics").await;
    for name in names {
        for metric in ["metalbot_task_last_round_age_seconds", "metalbot_task_failures_total"] {
            let line = format!("{metric}{{task=\"{name}\"}} ");
            assert!(metrics.contains(&line), "{line} in\n{metrics}");
        }
    }
    process.terminate().await;
    site.leave().await;
}
