//! The demo as a program: two of them at once.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::process::Command;

#[test]
fn a_second_demo_leaves_the_first_one_its_folder() {
    let state = tempfile::tempdir().unwrap();
    let theirs = state.path().join("script/postgres");
    std::fs::create_dir_all(&theirs).unwrap();
    let lock = std::fs::File::create(state.path().join("script.lock")).unwrap();
    lock.lock().unwrap();
    let second = Command::new(env!("CARGO_BIN_EXE_metalbot-demo"))
        .args(["--script", "--state", state.path().to_str().unwrap()])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && told.contains("--state FOLDER"), "{told}");
    assert!(theirs.exists());
}
