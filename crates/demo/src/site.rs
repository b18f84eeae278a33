//! The simulated site that demo and tests are served from: machines, tickets, configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use tokio::net::TcpListener;

use metalbot::config::Config;
use metalbot_sim::fleet;
use metalbot_sim::jira::SimJira;
use metalbot_sim::rack::Rack;
use metalbot_sim::slack::SimSlack;

const JIRA_TOKEN: &str = "demo";

/// The simulated site: machines, ticket system, chat, and the configuration that serves them.
pub struct SimSite {
    pub rack: Rack,
    pub jira: SimJira,
    pub slack: Option<SimSlack>,
    pub config: Config,
}

impl SimSite {
    /// Starts the machines and the ticket system, and Slack where it is wanted, and writes the
    /// configuration into `folder`.
    pub async fn start(
        folder: &Path,
        listen: SocketAddr,
        subnet: u8,
        with_slack: bool,
    ) -> anyhow::Result<SimSite> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let servers = fleet::servers(subnet);
        let rack = Rack::start(&folder.join("rack"), 0, fleet::bmcs(&servers)).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let jira = SimJira::start(listener, JIRA_TOKEN)?;
        let mut toml = fleet::metalbot_toml(listen, &jira.url(), JIRA_TOKEN);
        let slack = if with_slack { Some(SimSlack::start().await?) } else { None };
        if let Some(slack) = &slack {
            toml += &format!("\n{}", slack.toml("socket"));
        }
        let file = folder.join("metalbot.toml");
        std::fs::write(folder.join("hosts.csv"), fleet::inventory_csv(&servers, rack.port()))?;
        std::fs::write(folder.join("people.toml"), fleet::people_toml(None))?;
        std::fs::write(&file, toml)?;
        let config = Config::load(&file)?;
        Ok(SimSite { rack, jira, slack, config })
    }

    /// Stops everything around Metalbot.
    pub async fn stop(self) {
        self.jira.stop().await;
        if let Some(slack) = self.slack {
            slack.stop().await;
        }
        self.rack.stop();
    }
}
