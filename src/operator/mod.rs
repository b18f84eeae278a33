//! `metalbot operator`: whatever needs the site's configuration or database.

mod audit;
mod bmc;
mod check_config;
mod database;
mod hash_password;
mod migrate;
mod output;
mod slack;
mod tickets;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use metalbot_core::domain::ids::BatchId;
use metalbot_store::audit::Checkpoint;

/// Commands for an operator on the machine that has the configuration.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Bring the database's schema up to date.
    Migrate {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Check the configuration and the files that it names, without starting anything.
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
        /// Also connect to the database, and look whether it can be used.
        #[arg(long)]
        connect: bool,
    },
    /// Ask BMCs, or turn hosts on and off, from this shell.
    Bmc {
        #[command(subcommand)]
        command: bmc::BmcCommand,
    },
    /// Check the audit.
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// List triage tickets, or say why a failure goes where.
    Tickets {
        #[command(subcommand)]
        command: TicketsCommand,
    },
    /// Set up the Slack app, or check its tokens.
    Slack {
        #[command(subcommand)]
        command: SlackCommand,
    },
    /// Read a password from standard input and print the hash that the directory file keeps of it.
    HashPassword,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Recompute the hash chain; exits with 1 when a row was changed, removed or slipped in.
    Verify {
        #[command(flatten)]
        config: ConfigFile,
        /// A checkpoint from the log or from an earlier check, which the chain must go through.
        #[arg(long, value_name = "COUNT:HEAD")]
        expect: Option<Checkpoint>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum TicketsCommand {
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
pub enum SlackCommand {
    /// Print the app's manifest, to be pasted at <https://api.slack.com/apps>.
    Manifest {
        /// Transport by which Slack reaches Metalbot.
        #[arg(long, value_enum, default_value = "socket")]
        mode: slack::Mode,
        /// The public address, for `--mode http`.
        #[arg(long, required_if_eq("mode", "http"))]
        url: Option<String>,
        /// A folder with more actions, as in `[commands]` of the configuration.
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
pub struct ConfigFile {
    /// The configuration; packaging/metalbot.toml explains every key.
    #[arg(long, env = "METALBOT_CONFIG", default_value = "metalbot.toml")]
    pub config: PathBuf,
}

/// Carries the command out; the process ends with the code.
pub async fn run(command: OperatorCommand) -> anyhow::Result<ExitCode> {
    match command {
        OperatorCommand::Migrate { config } => migrate::migrate(&config.config).await,
        OperatorCommand::CheckConfig { config, connect } => {
            check_config::check(&config.config, connect).await
        }
        OperatorCommand::Bmc { command } => bmc::run(command).await,
        OperatorCommand::Audit { command: AuditCommand::Verify { config, expect, json } } => {
            audit::verify(&config.config, expect.as_ref(), json).await
        }
        OperatorCommand::Tickets { command: TicketsCommand::List { config, all, json } } => {
            tickets::list(&config.config, all, json).await
        }
        OperatorCommand::Tickets { command: TicketsCommand::Explain { config, batch, json } } => {
            tickets::explain(&config.config, batch, json).await
        }
        OperatorCommand::Slack { command: SlackCommand::Manifest { mode, url, commands } } => {
            slack::manifest(mode, url.as_deref(), commands.as_deref())
        }
        OperatorCommand::Slack { command: SlackCommand::Check { config } } => {
            slack::check(&config.config).await
        }
        OperatorCommand::HashPassword => hash_password::hash_password(),
    }
}
