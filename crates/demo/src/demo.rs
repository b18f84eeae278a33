//! `metalbot-demo`: the real service on a private database, around it a simulated site, which people
//! reach at the console or in a simulated Slack. The only place where people can be switched without
//! a password; no configuration leads here.

use std::convert::Infallible;
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use crate::site::SimSite;
use crate::story;
use metalbot::runtime::database::Database;
use metalbot::runtime::shutdown::stop_signal;
use metalbot::serve::roles::Roles;
use metalbot::serve::service::{Entry, Extras, Service};
use metalbot::telemetry;
use metalbot::web::{self, ConsoleState};
use metalbot_sim::fleet::PEOPLE;
use metalbot_sim::person::ConsoleUser;
use metalbot_sim::slack::SimSlack;

/// Who a visitor is at first.
const FIRST: &str = "alice";
/// Second number of the rack's loopback addresses.
const SUBNET: u8 = 77;

/// Show everything on a simulated rack, with nothing to configure.
#[derive(Debug, clap::Parser)]
#[command(name = "metalbot-demo", version)]
pub struct DemoArgs {
    /// Where the private database and the simulated site live.
    #[arg(long, default_value = "state")]
    state: PathBuf,
    /// Where the console answers.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where people act: at the console, or in a simulated Slack, where the story is told to you.
    #[arg(long, value_enum, default_value = "console")]
    chat: Platform,
    /// Tell the story without a person, print it, and exit with 1 if a step went wrong.
    #[arg(long)]
    script: bool,
    /// Do not open a browser.
    #[arg(long)]
    no_open: bool,
    /// What to log, and how much: `info`, `metalbot=debug`.
    #[arg(long, default_value = "warn")]
    log: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Platform {
    Console,
    SlackSim,
}

/// What the demo adds to the service: the switch between people.
pub fn extras() -> Extras {
    let people = PEOPLE.iter().map(|person| web::Person {
        login: person.login.into(),
        name: person.name.into(),
        role: person.role.into(),
    });
    let entry = Entry { path: "/demo", pages: switch };
    Extras { people: Some(people.collect()), entry: Some(entry), metrics: None }
}

/// Runs the demo until it is stopped, or its story is told.
pub fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    metalbot::use_ring();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(demo(args))
}

async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    telemetry::init(telemetry::LogFormat::Text, &args.log)?;
    let listen = match args.script {
        true => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        false => args.listen,
    };
    ensure!(
        listen.ip().is_loopback(),
        "the demo lets everybody be anybody: it listens on this machine only, not on {listen}"
    );
    let in_slack = args.chat == Platform::SlackSim;
    let folder = match (args.script, in_slack) {
        (true, _) => "script",
        (false, true) => "slack",
        (false, false) => "demo",
    };
    let _alone = alone(&args.state, folder)?;
    let folder = args.state.join(folder);
    if (args.script || in_slack) && folder.exists() {
        // The story begins with batch #1.
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let mut site = SimSite::start(&folder, listen, SUBNET, in_slack).await?;
    site.config.state_dir = folder.clone();
    let database = Database::open(&site.config).await?;
    let extras = Extras { metrics: Some(telemetry::install()?), ..extras() };
    let mut service = Service::start(&site.config, &database.url, Roles::ALL, extras).await?;
    let address = service.address.context("the demo has a web door")?;
    let base = format!("http://{address}");

    let pool = service.pool.clone();
    let told = async {
        let told = match &site.slack {
            Some(slack) => {
                slack.connected(1).await?;
                println!("\nThis happens in a Slack that is simulated on this machine.");
                let seat = async |login: &str| Ok(slack.person(login));
                story::tell(seat, &site.rack, &site.jira, &pool).await
            }
            None => {
                let seat = async |login: &str| ConsoleUser::become_one(&base, login).await;
                story::tell(seat, &site.rack, &site.jira, &pool).await
            }
        };
        told.inspect_err(|error| eprintln!("\nThe story went wrong: {error:#}"))
    };
    let code = if args.script {
        if told.await.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    } else {
        println!("{}", welcome(&base, &site));
        if !args.no_open {
            open_browser(&site.slack.as_ref().map_or(base.clone(), SimSlack::url));
        }
        let stay = async {
            if in_slack && told.await.is_ok() {
                println!("Go on with it in Slack; Ctrl-C stops everything.");
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            signal = stop_signal() => {
                println!("\n{}: stopping.", signal?);
                ExitCode::SUCCESS
            }
            () = service.broken() => ExitCode::FAILURE,
            never = stay => match never {},
        }
    };
    service.stop().await;
    database.close().await?;
    site.stop().await;
    Ok(code)
}

/// Holds a demo's folder for this process. It may be emptied, and its rack has addresses of its own.
fn alone(state: &Path, name: &str) -> anyhow::Result<File> {
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

/// The switch between people: whoever reaches it is whoever they want to be.
fn switch(console: ConsoleState) -> Router {
    Router::new()
        .route("/demo", get(enter))
        .route("/demo/become", post(become_one))
        .with_state(console)
}

async fn enter(State(console): State<ConsoleState>) -> Response {
    match web::open_session(&console, FIRST).await {
        Ok(cookie) => (cookie, Redirect::to("/")).into_response(),
        Err(error) => unavailable(&error),
    }
}

#[derive(Deserialize)]
struct Become {
    login: String,
}

async fn become_one(State(console): State<ConsoleState>, Json(wanted): Json<Become>) -> Response {
    if !PEOPLE.iter().any(|person| person.login == wanted.login) {
        return (StatusCode::NOT_FOUND, "nobody of that name works here\n").into_response();
    }
    match web::open_session(&console, &wanted.login).await {
        Ok(cookie) => (StatusCode::NO_CONTENT, cookie).into_response(),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &sqlx::Error) -> Response {
    tracing::warn!(%error, "cannot open a session");
    (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response()
}
