//! The database of a process: the configured one, or a private cluster.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::private_postgres::{ClusterError, PrivatePostgres};

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
    /// Finds the configured database, or starts the private cluster of the state folder.
    pub async fn open(
        configured: Option<&SecretString>,
        state_dir: &Path,
    ) -> Result<Database, DatabaseError> {
        match configured {
            Some(url) => Ok(Database { url: url.expose_secret().to_owned(), cluster: None }),
            None => {
                let cluster = PrivatePostgres::start(state_dir).await?;
                Ok(Database { url: cluster.url().to_owned(), cluster: Some(cluster) })
            }
        }
    }

    /// Finds the database of a running `metalbot serve`, and starts none. Fails if the database is
    /// a private cluster that no process runs.
    pub async fn of_service(
        configured: Option<&SecretString>,
        state_dir: &Path,
    ) -> Result<Database, DatabaseError> {
        if let Some(url) = configured {
            return Ok(Database { url: url.expose_secret().to_owned(), cluster: None });
        }
        let cluster = PrivatePostgres::join(state_dir).await?;
        let cluster =
            cluster.ok_or_else(|| DatabaseError::NotServing { state_dir: state_dir.to_owned() })?;
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
