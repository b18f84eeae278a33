//! `metalbot demo`: the real service on a private database, around it a simulated site. The only
//! place where people can be switched without a password; no configuration leads here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::roles::Roles;
use super::serve::{Database, stop_signal};
use super::service::{Entry, Extras, Service};
use super::site::Site;
use super::story;
use crate::console::{self, ConsoleState};
use crate::sim::fleet::PEOPLE;
use crate::telemetry;

/// Who a visitor is at first.
const FIRST: &str = "alice";
/// Second number of the rack's loopback addresses.
const SUBNET: u8 = 77;

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Where the private database and the simulated site live.
    #[arg(long, default_value = "state")]
    state: PathBuf,
    /// Where the console answers.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
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

/// What the demo adds to the service: the switch between people.
pub fn extras() -> Extras {
    let people = PEOPLE.iter().map(|person| console::Person {
        login: person.login.into(),
        name: person.name.into(),
        role: person.role.into(),
    });
    let entry = Entry { path: "/demo", pages: switch };
    Extras { people: Some(people.collect()), entry: Some(entry), metrics: None }
}

pub(super) async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    telemetry::init(telemetry::LogFormat::Text, &args.log)?;
    let listen = match args.script {
        true => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        false => args.listen,
    };
    ensure!(
        listen.ip().is_loopback(),
        "the demo lets everybody be anybody: it listens on this machine only, not on {listen}"
    );
    let folder = args.state.join(if args.script { "script" } else { "demo" });
    if args.script && folder.exists() {
        // The story begins with batch #1.
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let mut site = Site::start(&folder, listen, SUBNET).await?;
    site.config.state_dir = folder.clone();
    let database = Database::open(&site.config).await?;
    let extras = Extras { metrics: Some(telemetry::install()?), ..extras() };
    let mut service = Service::start(&site.config, &database.url, Roles::ALL, extras).await?;
    let address = service.address.context("the demo has a web door")?;
    let base = format!("http://{address}");

    let code = if args.script {
        match story::tell(&base, &site, &service.pool).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("\nThe story went wrong: {error:#}");
                ExitCode::FAILURE
            }
        }
    } else {
        println!("{}", welcome(&base, &site.jira.url()));
        if !args.no_open {
            open_browser(&base);
        }
        tokio::select! {
            signal = stop_signal() => {
                println!("\n{}: stopping.", signal?);
                ExitCode::SUCCESS
            }
            () = service.broken() => ExitCode::FAILURE,
        }
    };
    service.stop().await;
    database.close().await?;
    site.jira.stop().await;
    site.rack.stop();
    Ok(code)
}

fn welcome(base: &str, jira: &str) -> String {
    format!(
        r#"
  Metalbot is ready:  {base}
  Its tickets are at  {jira}

  48 simulated servers: web[01-40] and db[01-08]; web07 and web09 are broken.
  You are alice. Switch to bob (owns web), dave (owns db) or carol on the left. Try:

    /metal reboot web[01-12] reason="kernel CVE-2026-1"     then approve it as bob
    /metal reboot web[10-14]                                as carol, while #1 waits
    /metal help

  Ctrl-C stops everything.
"#
    )
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
    match console::open_session(&console, FIRST).await {
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
    match console::open_session(&console, &wanted.login).await {
        Ok(cookie) => (StatusCode::NO_CONTENT, cookie).into_response(),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &sqlx::Error) -> Response {
    tracing::warn!(%error, "cannot open a session");
    (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response()
}
