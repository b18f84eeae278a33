//! `metalbot-demo`: the real service on a private database, around it a simulated site, which people
//! reach at the console or in a simulated Slack.

use std::convert::Infallible;
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use sqlx::PgPool;

use crate::site::SimSite;
use crate::{story, switch};
use metalbot::runtime::database::Database;
use metalbot::runtime::shutdown::stop_signal;
use metalbot::serve::roles::Roles;
use metalbot::serve::service::{Service, StartOptions};
use metalbot::telemetry;
use metalbot_sim::person::ConsoleUser;
use metalbot_sim::slack::SimSlack;

/// Second number of the rack's loopback addresses.
const SUBNET: u8 = 77;

/// Show everything on a simulated rack, with nothing to configure.
#[derive(Debug, clap::Parser)]
#[command(name = "metalbot-demo", version)]
pub struct DemoArgs {
    /// Folder of the private database and the simulated site.
    #[arg(long, default_value = "state")]
    state: PathBuf,
    /// Address of the console.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Front door: the console, or a simulated Slack in which the story is played for you.
    #[arg(long, value_enum, default_value = "console")]
    chat: Platform,
    /// Tell the story without a person, print it, and exit with 1 if a step went wrong.
    #[arg(long)]
    script: bool,
    /// Do not open a browser.
    #[arg(long)]
    no_open: bool,
    /// Log filter: `info`, `metalbot=debug`.
    #[arg(long, default_value = "warn")]
    log: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Platform {
    Console,
    SlackSim,
}

impl DemoArgs {
    fn in_slack(&self) -> bool {
        self.chat == Platform::SlackSim
    }

    /// Address of the console; any free port where nobody is to find it.
    fn address(&self) -> anyhow::Result<SocketAddr> {
        if self.script {
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        }
        ensure!(
            self.listen.ip().is_loopback(),
            "the demo lets everybody be anybody: it listens on this machine only, not on {}",
            self.listen
        );
        Ok(self.listen)
    }

    /// Name of the folder in the state folder.
    fn folder(&self) -> &'static str {
        match (self.script, self.in_slack()) {
            (true, _) => "script",
            (false, true) => "slack",
            (false, false) => "demo",
        }
    }
}

/// Runs the demo until it is stopped, or its story is told.
pub fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    metalbot::use_ring();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(demo(args))
}

async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    telemetry::init(telemetry::LogFormat::Text, &args.log)?;
    let listen = args.address()?;
    let _lock = lock(&args.state, args.folder())?;
    let folder = args.state.join(args.folder());
    if (args.script || args.in_slack()) && folder.exists() {
        // The story begins with batch #1.
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let mut site = SimSite::start(&folder, listen, SUBNET, args.in_slack()).await?;
    site.config.state_dir = folder;
    let database =
        Database::open(site.config.database.configured(), &site.config.state_dir).await?;
    let options = StartOptions { metrics: Some(telemetry::install()?), ..switch::options() };
    let mut service = Service::start(&site.config, &database.address, Roles::ALL, options).await?;
    let address = service.address.context("the demo serves the console")?;
    let base = format!("http://{address}");
    let code = match args.script {
        true if story_is_told(&site, &base, &service.pool).await? => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
        false => stay(&args, &site, &base, &mut service).await?,
    };
    service.stop().await;
    database.close().await?;
    site.stop().await;
    Ok(code)
}

/// Tells the story where people act, and says whether all of it went as it should.
async fn story_is_told(site: &SimSite, base: &str, pool: &PgPool) -> anyhow::Result<bool> {
    let (rack, jira) = (&site.rack, &site.jira);
    let told = match &site.slack {
        Some(slack) => {
            slack.connected(1).await?;
            println!("\nThis happens in a Slack that is simulated on this machine.");
            story::tell(async |login: &str| Ok(slack.person(login)), rack, jira, pool).await
        }
        None => {
            let seat = async |login: &str| ConsoleUser::become_one(base, login).await;
            story::tell(seat, rack, jira, pool).await
        }
    };
    if let Err(error) = &told {
        eprintln!("\nThe story went wrong: {error:#}");
    }
    Ok(told.is_ok())
}

/// Serves visitors until a signal comes or the service breaks.
async fn stay(
    args: &DemoArgs,
    site: &SimSite,
    base: &str,
    service: &mut Service,
) -> anyhow::Result<ExitCode> {
    println!("{}", welcome(base, site));
    if !args.no_open {
        open_browser(&site.slack.as_ref().map_or(base.to_owned(), SimSlack::url));
    }
    let pool = service.pool.clone();
    let story = async {
        if args.in_slack() && story_is_told(site, base, &pool).await? {
            println!("Go on with it in Slack; Ctrl-C stops everything.");
        }
        std::future::pending::<anyhow::Result<Infallible>>().await
    };
    tokio::select! {
        signal = stop_signal() => {
            println!("\n{}: stopping.", signal?);
            Ok(ExitCode::SUCCESS)
        }
        () = service.broken() => Ok(ExitCode::FAILURE),
        never = story => match never? {},
    }
}

/// Holds a demo's folder for this process. It may be emptied, and its rack has addresses of its own.
fn lock(state: &Path, name: &str) -> anyhow::Result<File> {
    std::fs::create_dir_all(state).with_context(|| format!("cannot make {}", state.display()))?;
    // Beside the folder, since that goes away.
    let path = state.join(format!("{name}.lock"));
    let lock = File::options().create(true).append(true).open(&path);
    let lock = lock.with_context(|| format!("cannot write {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another `metalbot-demo` works in {}: stop that one first, or give this one a folder \
             of its own with --state FOLDER",
            state.join(name).display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn welcome(base: &str, site: &SimSite) -> String {
    let jira = site.jira.url();
    let servers = "48 simulated servers: web[01-40] and db[01-08]; web07 and web09 are broken.";
    match &site.slack {
        None => format!(
            r#"
  Metalbot is ready:  {base}
  Its tickets are at  {jira}

  {servers}
  You are alice. Switch to bob (owns web), dave (owns db) or carol on the left. Try:

    /metal reboot web[01-12] reason="kernel CVE-2026-1"     then approve it as bob
    /metal reboot web[10-14]                                as carol, while #1 waits
    /metal help

  Ctrl-C stops everything.
"#
        ),
        Some(slack) => format!(
            r#"
  Metalbot is ready in a simulated Slack:  {slack}
  Its own console is at                    {base}
  Its tickets are at                       {jira}

  {servers}
  A story is told in Slack now, and here. Then it is yours: there you are whom you like.
  Ctrl-C stops everything.
"#,
            slack = slack.url()
        ),
    }
}

/// Opens the page where there is a desktop; elsewhere the printed address has to do.
fn open_browser(base: &str) {
    if std::env::var_os("DISPLAY").is_some() || std::env::var_os("WAYLAND_DISPLAY").is_some() {
        let opener = std::process::Command::new("xdg-open").arg(base).spawn();
        if let Err(error) = opener {
            tracing::debug!(%error, "no browser was opened");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_demo_leaves_the_first_one_its_folder() {
        let state = tempfile::tempdir().unwrap();
        let _first = lock(state.path(), "script").unwrap();
        let second = lock(state.path(), "script").unwrap_err().to_string();
        assert!(second.contains("--state FOLDER"), "{second}");
        assert!(lock(state.path(), "slack").is_ok());
    }
}
