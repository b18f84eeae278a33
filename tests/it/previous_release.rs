//! The release before this one beside it, on one database. `packaging/previous` names its commit,
//! which is built in a work tree of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use metalbot_sim::person::ConsoleUser;

use crate::harness::wait::until_some;
use crate::harness::{Database, METAL, PATIENCE, Process, Site};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// The commit in `packaging/previous`; `None` where there is no release before.
fn commit() -> Option<String> {
    let file = Path::new(REPOSITORY).join("packaging/previous");
    let text = fs::read_to_string(file).ok()?;
    Some(text.split_whitespace().next().expect("packaging/previous names a commit").to_owned())
}

/// Builds the program as it was at a commit; returns its path.
fn build(commit: &str) -> PathBuf {
    let folder = Path::new(REPOSITORY).join("target/previous");
    let tree = folder.join("tree");
    let run = |command: &mut Command| {
        let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(status.success(), "{command:?} ended with {status}");
    };
    let git = |folder: &Path| {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder);
        git
    };
    if tree.exists() {
        run(git(&tree).args(["checkout", "--quiet", "--detach", commit]));
    } else {
        let mut add = git(Path::new(REPOSITORY));
        run(add.args(["worktree", "add", "--quiet", "--force", "--detach"]).arg(&tree).arg(commit));
    }
    let build = folder.join("build");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--locked", "--bin", "metalbot"]).current_dir(&tree);
    run(cargo.env("CARGO_TARGET_DIR", &build).env("SQLX_OFFLINE", "true"));
    build.join("debug/metalbot")
}

/// A batch that is submitted at one process and approved at another; waits until it has ended.
async fn reboot(site: &Site, submit: &Process, approve: &Process, host: &str) {
    let batch = site.db.newest_batch().await + 1;
    let (alice, bob): (ConsoleUser, ConsoleUser) =
        (submit.sign_in("alice").await, approve.sign_in("bob").await);
    alice.say(METAL, &format!("/metal reboot {host}")).await.unwrap();
    let card = bob.card(METAL, batch, PATIENCE, |card| !card.buttons().is_empty()).await.unwrap();
    bob.react(&card.id, "+1", true).await.unwrap();
    let look = async || site.db.ended_state(batch).await.ok().flatten();
    assert_eq!(until_some("the end of the batch", look).await, "succeeded", "{host}");
    assert_eq!(site.cycles(host), (1, 1), "{}", site.history(host).await);
}

#[tokio::test]
#[ignore = "long: builds the release before"]
async fn the_release_before_works_beside_this_one() {
    let Some(commit) = commit() else {
        eprintln!("packaging/previous names no release before this one: nothing was tested");
        return;
    };
    let binary = tokio::task::spawn_blocking(move || build(&commit)).await.unwrap();
    let db = Database::empty().await;
    let site = Site::on(&db.url, true).await;
    let older = site.serve_release(&binary).await;
    reboot(&site, &older, &older, "web01").await;
    // The newer one brings its schema along, under the older one's feet.
    let newer = site.serve().await;
    reboot(&site, &older, &newer, "web02").await;
    reboot(&site, &newer, &older, "web03").await;
    // The older one starts on the newer schema, and works alone after it.
    older.kill9();
    let older = site.serve_release(&binary).await;
    reboot(&site, &newer, &older, "web04").await;
    newer.kill9();
    reboot(&site, &older, &older, "web05").await;
    site.settled().await;
    older.terminate().await;
    site.finish().await;
}
