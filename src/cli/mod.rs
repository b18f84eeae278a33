//! The command line: one file for each composition root.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

mod accounts;
mod audit;
mod bmc;
mod check;
pub mod demo;
mod migrate;
mod relays;
pub mod roles;
mod serve;
pub mod service;
pub mod site;
mod slack;
mod slack_door;
pub mod story;
mod ticketing;
mod tickets;

use roles::Roles;

use crate::domain::ids::BatchId;

/// Metal as a Service from chat: batches of server actions, approved in the thread, driven over
/// IPMI.
#[derive(Debug, Parser)]
#[command(name = "metalbot", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run Metalbot as configured, until it is told to stop.
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// What this process does: some of web, worker and relay.
        #[arg(long, default_value = "web,worker,relay")]
        roles: Roles,
    },
    /// Show everything on a simulated rack, with nothing to configure.
    Demo(demo::DemoArgs),
    /// Bring the database's schema up to date.
    Migrate {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Say what would not work, without starting anything.
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Look at BMCs, or turn hosts on and off, from this shell.
    Bmc {
        #[command(subcommand)]
        command: bmc::BmcCommand,
    },
    /// Look at the audit.
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Look at the triage tickets.
    Tickets {
        #[command(subcommand)]
        command: TicketsCommand,
    },
    /// Set up the Slack app.
    Slack {
        #[command(subcommand)]
        command: SlackCommand,
    },
    /// Read a password from standard input and print what the directory file keeps of it.
    HashPassword,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Recompute the hash chain; exits with 1 when a row was changed or removed.
    Verify {
        #[command(flatten)]
        config: ConfigFile,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum TicketsCommand {
    /// List the tickets that wait for Jira, are refused by it, or are open.
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// Also those that have ended.
        #[arg(long)]
        all: bool,
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Say which rule takes which failed host of a batch, and on which ticket it is or would be.
    Explain {
        #[command(flatten)]
        config: ConfigFile,
        /// Number of the batch.
        #[arg(long)]
        batch: BatchId,
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum SlackCommand {
    /// Print the app's manifest, to be pasted at https://api.slack.com/apps.
    Manifest {
        /// How Slack reaches Metalbot.
        #[arg(long, value_enum, default_value = "socket")]
        mode: slack::Mode,
        /// The public address, for `--mode http`.
        #[arg(long, required_if_eq("mode", "http"))]
        url: Option<String>,
        /// A folder with more actions, as in [commands] of the configuration.
        #[arg(long)]
        commands: Option<PathBuf>,
    },
    /// Ask Slack what the configured tokens may do; exits with 1 when something is missing.
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration; packaging/metalbot.toml explains every key.
    #[arg(long, env = "METALBOT_CONFIG", default_value = "metalbot.toml")]
    config: PathBuf,
}

/// Runs the command line; the process ends with the code.
pub fn run(cli: Cli) -> anyhow::Result<std::process::ExitCode> {
    crate::use_ring();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Serve { config, roles } => serve::serve(&config.config, roles).await,
            Command::Demo(args) => demo::demo(args).await,
            Command::Migrate { config } => migrate::migrate(&config.config).await,
            Command::CheckConfig { config } => check::check(&config.config),
            Command::Bmc { command } => bmc::run(command).await,
            Command::Audit { command: AuditCommand::Verify { config, json } } => {
                audit::verify(&config.config, json).await
            }
            Command::Tickets { command: TicketsCommand::List { config, all, json } } => {
                tickets::list(&config.config, all, json).await
            }
            Command::Tickets { command: TicketsCommand::Explain { config, batch, json } } => {
                tickets::explain(&config.config, batch, json).await
            }
            Command::Slack { command: SlackCommand::Manifest { mode, url, commands } } => {
                slack::manifest(mode, url.as_deref(), commands.as_deref())
            }
            Command::Slack { command: SlackCommand::Check { config } } => {
                slack::check(&config.config).await
            }
            Command::HashPassword => check::hash_password(),
        }
    })
}
