//! Metalbot as processes of their own on a site, which can be killed, frozen and started again.
//!
//! Invariant: no process outlives its test, not even one that panics.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use metalbot_sim::person::ConsoleUser;

use super::site::{PASSWORD, Site};
use super::tcp_proxy::TcpProxy;
use super::wait::until_some;

impl Site {
    /// Starts `metalbot serve` and returns when its web door is open.
    pub async fn serve(&self) -> Process {
        self.start_process(self.command(&["serve"])).await
    }

    /// The same, to die at a fail-point.
    pub async fn serve_until(&self, failpoint: Option<&str>) -> Process {
        let mut command = self.command(&["serve"]);
        command.envs(failpoint.map(|point| ("METALBOT_FAILPOINT", point)));
        self.start_process(command).await
    }

    /// A worker alone, to do that.
    pub async fn worker_until(&self, failpoint: &str) -> Process {
        let mut command = self.command(&["serve", "--roles", "worker"]);
        command.env("METALBOT_FAILPOINT", failpoint);
        self.start_process(command).await
    }

    /// Starts `serve` with some of its roles. Without `web` it has no address.
    pub async fn serve_roles(&self, roles: &str) -> Process {
        self.start_process(self.command(&["serve", "--roles", roles])).await
    }

    /// The same, with these variables in its environment.
    pub async fn serve_with(&self, environment: &[(&str, &str)]) -> Process {
        let mut command = self.command(&["serve"]);
        command.envs(environment.iter().copied());
        self.start_process(command).await
    }

    /// Starts `serve` of another release, by its program.
    pub async fn serve_release(&self, program: &Path) -> Process {
        self.start_process(self.command_of(program, &["serve"])).await
    }

    /// The same, which reaches its database by way of a proxy.
    pub async fn serve_through(&self, proxy: &TcpProxy) -> Process {
        let mut command = self.command(&["serve"]);
        command.env("DATABASE_URL", &proxy.url);
        self.start_process(command).await
    }

    /// The same of a worker alone, which has no address.
    pub async fn worker_through(&self, proxy: &TcpProxy) -> Process {
        let mut command = self.command(&["serve", "--roles", "worker"]);
        command.env("DATABASE_URL", &proxy.url);
        self.start_process(command).await
    }

    async fn start_process(&self, mut command: Command) -> Process {
        let log = self.log_of(self.processes.fetch_add(1, Ordering::Relaxed));
        let child = command
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .expect("metalbot starts");
        let mut process = Process { child, log, base: String::new() };
        process.wait_until_open().await;
        process
    }

    /// `metalbot` with the site's configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_metalbot")), args)
    }

    fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("METALBOT_CONFIG", self.config_file())
            .env("DATABASE_URL", &self.db.url)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs `metalbot` to its end.
    pub async fn metalbot(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

/// What a program has written: to its output, and to its errors.
pub fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Sends a signal by its name: `TERM`.
pub fn signal(name: &str, process: u32) {
    let command = format!("kill -s {name} {process}");
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

/// A running `metalbot serve`.
pub struct Process {
    child: Child,
    log: PathBuf,
    pub base: String,
}

impl Process {
    async fn wait_until_open(&mut self) {
        self.base = until_some("an open web door", async || {
            let log = self.log();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("metalbot ended at once ({status}):\n{log}");
            }
            if log.contains("metalbot has started, without a web address") {
                return Some(String::new());
            }
            let (_, rest) = log.split_once("metalbot has started and is serving address=")?;
            let (address, _) = rest.split_once(' ')?;
            Some(format!("http://{address}"))
        })
        .await;
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a process has ended that was told to.
    pub async fn ends(mut self) {
        until_some("the end of a process", async || self.child.try_wait().unwrap()).await;
    }

    /// Memory of its own that it has, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub async fn sign_in(&self, login: &str) -> ConsoleUser {
        self.try_sign_in(login).await.unwrap()
    }

    /// The same of a process that may die meanwhile.
    pub async fn try_sign_in(&self, login: &str) -> anyhow::Result<ConsoleUser> {
        ConsoleUser::sign_in(&self.base, login, PASSWORD).await
    }

    /// Nothing of the process is asked: it is gone at once.
    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end; returns how it did and how long that took.
    pub async fn terminate(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        self.signal("TERM");
        let ended = async || self.child.try_wait().unwrap();
        let status = until_some("the end of a process that was asked to end", ended).await;
        (status, started.elapsed())
    }

    /// The process stands still, as in a long pause of its machine.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
