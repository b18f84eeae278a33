//! The database of a configuration, for commands that work without `metalbot serve`.

use std::path::Path;

use sqlx::PgPool;

use crate::config::Config;
use crate::runtime::database::Database;
use metalbot_store::{self as store, PoolRole};

/// Connections of one command.
const CONNECTIONS: u32 = 2;

/// An open database. A private cluster that was started for it stops with it.
pub(super) struct OpenDatabase {
    pub config: Config,
    pub pool: PgPool,
    database: Database,
}

impl OpenDatabase {
    /// Reads the configuration and opens its database, which must be there; starts the private
    /// cluster where nobody has.
    pub async fn open(file: &Path) -> anyhow::Result<OpenDatabase> {
        let config = Config::load(file)?;
        let database = Database::existing(config.database.configured(), &config.state_dir).await?;
        Ok(OpenDatabase::of(config, database))
    }

    /// The same, and makes the private cluster if there is none.
    pub async fn open_or_make(file: &Path) -> anyhow::Result<OpenDatabase> {
        let config = Config::load(file)?;
        let database = Database::open(config.database.configured(), &config.state_dir).await?;
        Ok(OpenDatabase::of(config, database))
    }

    fn of(config: Config, database: Database) -> OpenDatabase {
        let pool = store::connect_lazy(&database.address, CONNECTIONS, PoolRole::Maintenance);
        OpenDatabase { config, pool, database }
    }

    pub async fn close(self) -> anyhow::Result<()> {
        self.pool.close().await;
        Ok(self.database.close().await?)
    }
}
