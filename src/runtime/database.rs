//! The database of a process: the configured one, or a private cluster.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use sqlx::Connection as _;

use super::private_postgres::{ClusterError, PrivatePostgres};
use metalbot_store::server::{self, Unreachable};
use metalbot_store::{AddressError, DatabaseAddress};

/// The database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("{setting}: {cause}")]
    Address { setting: &'static str, cause: AddressError },
    #[error("{setting}: the database cannot be used: {cause}")]
    Unreachable { setting: &'static str, cause: Unreachable },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "no database is named, and there is no private cluster in {}: set DATABASE_URL or [database] \
         url as `metalbot serve` has it, or state_dir if it has a private cluster", .state_dir.display()
    )]
    NotNamed { state_dir: PathBuf },
    #[error(
        "no database is named, and no `metalbot serve` runs the private cluster of {}: set \
         DATABASE_URL or [database] url as the service has it, or start it first",
        .state_dir.display()
    )]
    NotServing { state_dir: PathBuf },
}

/// An address as it was configured.
#[derive(Clone, Copy)]
pub struct Configured<'a> {
    /// The key or variable that holds it, for messages.
    pub setting: &'static str,
    pub url: &'a SecretString,
}

impl Configured<'_> {
    /// Reads the address; connects to nothing.
    pub fn read(self) -> Result<DatabaseAddress, DatabaseError> {
        DatabaseAddress::read(self.url.expose_secret())
            .map_err(|cause| DatabaseError::Address { setting: self.setting, cause })
    }

    /// Reads the address, and proves that it leads to a database.
    async fn open(self) -> Result<Database, DatabaseError> {
        let address = self.read()?;
        let connection = server::connect(&address)
            .await
            .map_err(|cause| DatabaseError::Unreachable { setting: self.setting, cause })?;
        // It has done its work, however it ends.
        let _ = connection.close().await;
        Ok(Database { address, cluster: None })
    }
}

/// A configured database, or a private cluster that lives as long as this value.
pub struct Database {
    pub address: DatabaseAddress,
    cluster: Option<PrivatePostgres>,
}

impl Database {
    /// Finds the configured database, or starts the private cluster of the state folder, and makes it
    /// first if there is none: for `serve`, `migrate` and the demo alone.
    pub async fn open(
        configured: Option<Configured<'_>>,
        state_dir: &Path,
    ) -> Result<Database, DatabaseError> {
        match configured {
            Some(configured) => configured.open().await,
            None => Database::of_cluster(PrivatePostgres::start(state_dir).await?),
        }
    }

    /// Finds the configured database, or the private cluster of the state folder, and makes none.
    pub async fn existing(
        configured: Option<Configured<'_>>,
        state_dir: &Path,
    ) -> Result<Database, DatabaseError> {
        match configured {
            None if !PrivatePostgres::exists(state_dir) => {
                Err(DatabaseError::NotNamed { state_dir: state_dir.to_owned() })
            }
            _ => Database::open(configured, state_dir).await,
        }
    }

    /// Finds the database of a running `metalbot serve`, and starts none. Fails if the database is
    /// a private cluster that no process runs.
    pub async fn of_service(
        configured: Option<Configured<'_>>,
        state_dir: &Path,
    ) -> Result<Database, DatabaseError> {
        if let Some(configured) = configured {
            return configured.open().await;
        }
        let cluster = PrivatePostgres::join(state_dir).await?;
        let not_serving = || DatabaseError::NotServing { state_dir: state_dir.to_owned() };
        Database::of_cluster(cluster.ok_or_else(not_serving)?)
    }

    fn of_cluster(cluster: PrivatePostgres) -> Result<Database, DatabaseError> {
        let address = DatabaseAddress::read(cluster.url())
            .map_err(|cause| DatabaseError::Address { setting: "the private cluster", cause })?;
        Ok(Database { address, cluster: Some(cluster) })
    }

    /// Stops the private cluster, if this process started it.
    pub async fn close(self) -> Result<(), DatabaseError> {
        match self.cluster {
            Some(cluster) => Ok(cluster.stop().await?),
            None => Ok(()),
        }
    }
}
