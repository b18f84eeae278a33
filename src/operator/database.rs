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
    /// Reads the configuration and opens its database; starts the private cluster where nobody has.
    pub async fn open(file: &Path) -> anyhow::Result<OpenDatabase> {
        let config = Config::load(file)?;
        let database = Database::open(config.database.url(), &config.state_dir).await?;
        let pool = store::connect_lazy(&database.url, CONNECTIONS, PoolRole::Maintenance)?;
        Ok(OpenDatabase { config, pool, database })
    }

    pub async fn close(self) -> anyhow::Result<()> {
        self.pool.close().await;
        Ok(self.database.close().await?)
    }
}
