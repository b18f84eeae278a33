//! The command line: what `metalbot` can be told at a shell.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::operator::{self, ConfigFile, OperatorCommand};
use crate::serve::{self, roles::Roles};

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
    /// Serve chat, drive machines and send notices as configured, until a signal comes.
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// Roles of this process, separated by commas: `web` (console and deliveries), `worker`
        /// (drives machines), `relay` (sends notices and tickets).
        #[arg(long, default_value = "web,worker,relay")]
        roles: Roles,
    },
    /// Look after a site, with its configuration or database at hand.
    Operator {
        #[command(subcommand)]
        command: OperatorCommand,
    },
}

/// Runs the command line; the process ends with the code.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    crate::use_ring();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Serve { config, roles } => serve::serve(&config.config, roles).await,
            Command::Operator { command } => operator::run(command).await,
        }
    })
}
