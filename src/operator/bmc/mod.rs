//! `metalbot operator bmc`: BMCs by hand, from a shell.
//!
//! `status`, `sel` and `sensors` ask the BMCs and write nothing; whoever can read the configuration
//! may use them. `power` asks no BMC itself: see [`power`].

mod power;
mod read;
mod show;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::ConfigFile;
use crate::config::Config;
use crate::inventory::Inventory;
use metalbot_core::command::node_set;
use metalbot_core::domain::host::{Host, HostName};

#[derive(Debug, Subcommand)]
pub enum BmcCommand {
    /// Say which hosts are on and which are off, and who made their BMCs.
    Status(ReadArgs),
    /// Turn hosts on or off. For administrators; the workers of `metalbot serve` do it.
    Power(power::PowerArgs),
    /// Show the last entries of the event logs.
    Sel {
        #[command(flatten)]
        args: ReadArgs,
        /// Entries of each host.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
        last: u16,
    },
    /// Show power consumption and inlet temperature.
    Sensors(ReadArgs),
}

#[derive(Debug, Args)]
pub struct ReadArgs {
    #[command(flatten)]
    targets: Targets,
    #[command(flatten)]
    config: ConfigFile,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Which hosts.
#[derive(Debug, Args)]
struct Targets {
    /// Node sets: `web[01-40]`, `@rack:r12`, `web[01-40]!web07`.
    #[arg(required = true, value_name = "HOSTS")]
    hosts: Vec<String>,
}

impl Targets {
    fn names(&self, config: &Config, inventory: &Inventory) -> anyhow::Result<Vec<HostName>> {
        let expression = self.hosts.join(" ");
        let names = node_set(&expression, inventory, config.limits.max_hosts as usize)?;
        Ok(names)
    }
}

pub(super) async fn run(command: BmcCommand) -> anyhow::Result<ExitCode> {
    match command {
        BmcCommand::Status(args) => read::status(&args).await,
        BmcCommand::Sel { args, last } => read::sel(&args, last.into()).await,
        BmcCommand::Sensors(args) => read::sensors(&args).await,
        BmcCommand::Power(args) => power::run(&args).await,
    }
}

/// The configuration, and the hosts that were named.
fn hosts(args: &ReadArgs) -> anyhow::Result<(Config, Vec<Host>)> {
    let config = Config::load(&args.config.config)?;
    let inventory = Inventory::load(&config.inventory.file)?;
    let names = args.targets.names(&config, &inventory)?;
    let hosts: Vec<Host> = names.iter().filter_map(|name| inventory.get(name)).cloned().collect();
    let needed: BTreeSet<&String> = hosts.iter().map(|host| &host.bmc.credentials).collect();
    for name in needed {
        config.credentials.get(name).with_context(|| {
            format!("the inventory names credentials {name:?}: add [credentials.{name}]")
        })?;
    }
    Ok((config, hosts))
}
