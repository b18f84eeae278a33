//! The database of a process: the configured one, or a private cluster.

use anyhow::Context;
use secrecy::ExposeSecret;

use super::private_postgres::PrivatePostgres;
use crate::config::Config;

/// A configured database, or a private cluster that lives as long as this value.
pub struct Database {
    pub url: String,
    cluster: Option<PrivatePostgres>,
}

impl Database {
    /// Finds or starts the database.
    pub async fn open(config: &Config) -> anyhow::Result<Database> {
        match config.database.url() {
            Some(url) => Ok(Database { url: url.expose_secret().to_owned(), cluster: None }),
            None => {
                let cluster = PrivatePostgres::start(&config.state_dir).await?;
                Ok(Database { url: cluster.url().to_owned(), cluster: Some(cluster) })
            }
        }
    }

    /// The database that `metalbot serve` works with. Starts none.
    pub async fn of_service(config: &Config) -> anyhow::Result<Database> {
        if let Some(url) = config.database.url() {
            return Ok(Database { url: url.expose_secret().to_owned(), cluster: None });
        }
        let cluster = PrivatePostgres::join(&config.state_dir).await?;
        let cluster = cluster.with_context(|| {
            format!(
                "no `metalbot serve` runs with the state folder {}: start it first",
                config.state_dir.display()
            )
        })?;
        Ok(Database { url: cluster.url().to_owned(), cluster: Some(cluster) })
    }

    /// Stops what was started.
    pub async fn close(self) -> anyhow::Result<()> {
        match self.cluster {
            Some(cluster) => Ok(cluster.stop().await?),
            None => Ok(()),
        }
    }
}
