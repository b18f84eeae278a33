//! The database of a process: the configured one, or a private cluster.

use std::path::PathBuf;

use secrecy::ExposeSecret;

use super::private_postgres::{ClusterError, PrivatePostgres};
use crate::config::Config;

/// The database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "no `metalbot serve` runs with the state folder {}: start it first", .state_dir.display()
    )]
    NotServing { state_dir: PathBuf },
}

/// A configured database, or a private cluster that lives as long as this value.
pub struct Database {
    pub url: String,
    cluster: Option<PrivatePostgres>,
}

impl Database {
    /// Finds or starts the database.
    pub async fn open(config: &Config) -> Result<Database, DatabaseError> {
        match config.database.url() {
            Some(url) => Ok(Database { url: url.expose_secret().to_owned(), cluster: None }),
            None => {
                let cluster = PrivatePostgres::start(&config.state_dir).await?;
                Ok(Database { url: cluster.url().to_owned(), cluster: Some(cluster) })
            }
        }
    }

    /// Finds the database of a running `metalbot serve`, and starts none. Fails if the database is
    /// a private cluster that no process runs.
    pub async fn of_service(config: &Config) -> Result<Database, DatabaseError> {
        if let Some(url) = config.database.url() {
            return Ok(Database { url: url.expose_secret().to_owned(), cluster: None });
        }
        let cluster = PrivatePostgres::join(&config.state_dir).await?;
        let cluster = cluster
            .ok_or_else(|| DatabaseError::NotServing { state_dir: config.state_dir.clone() })?;
        Ok(Database { url: cluster.url().to_owned(), cluster: Some(cluster) })
    }

    /// Stops the private cluster, if this process started it.
    pub async fn close(self) -> Result<(), DatabaseError> {
        match self.cluster {
            Some(cluster) => Ok(cluster.stop().await?),
            None => Ok(()),
        }
    }
}
