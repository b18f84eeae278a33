//! The task that seals the audit, and tells its checkpoint to places outside of the database: there it
//! proves later that nothing was changed or removed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::Config;
use crate::failpoint::{Point, reach};
use metalbot_store::audit::{self, AuditKey, Checkpoint, KeyTooShort, Sealed};

/// Rows sealed in one transaction.
const AT_ONCE: i64 = 1_000;
/// Time between two checkpoints, if anything was sealed meanwhile.
const TELL_EVERY: Duration = Duration::from_secs(600);

/// The key of the configuration, if it has one.
pub fn key(config: &Config) -> Result<Option<AuditKey>, KeyTooShort> {
    config.audit.key().map(|key| AuditKey::new(key.expose_secret())).transpose()
}

/// State of the task in this process.
#[derive(Clone)]
pub(super) struct AuditSealer {
    pool: PgPool,
    key: Option<AuditKey>,
    file: Option<PathBuf>,
    told: Arc<Mutex<Option<(Instant, Checkpoint)>>>,
}

impl AuditSealer {
    pub fn new(config: &Config, pool: PgPool) -> anyhow::Result<AuditSealer> {
        let (key, file) = (key(config).context("audit.key")?, config.audit.checkpoint_file.clone());
        Ok(AuditSealer { pool, key, file, told: Arc::default() })
    }

    pub async fn run_once(self) -> anyhow::Result<bool> {
        let mut tx = self.pool.begin().await?;
        let Sealed { rows, checkpoint } = audit::seal(&mut tx, self.key.as_ref(), AT_ONCE).await?;
        if rows > 0 {
            reach(Point::SealBeforeCommit);
        }
        tx.commit().await?;
        self.tell(checkpoint)?;
        Ok(rows > 0)
    }

    fn tell(&self, checkpoint: Checkpoint) -> anyhow::Result<()> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = match &*told {
            None => true,
            Some((at, before)) => at.elapsed() >= TELL_EVERY && *before != checkpoint,
        };
        if !is_due || checkpoint.count == 0 {
            return Ok(());
        }
        tracing::info!(%checkpoint, "the audit is sealed up to this checkpoint");
        let written = self.file.as_deref().map(|file| append(file, &checkpoint));
        // A file that cannot be written is tried again with the next one: sealing goes on.
        *told = Some((Instant::now(), checkpoint));
        written.transpose().map(drop)
    }
}

/// Appends a line: time and checkpoint.
#[expect(clippy::disallowed_methods, reason = "a line of a log has the time of its machine")]
fn append(file: &Path, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    let at = OffsetDateTime::now_utc().format(&Rfc3339)?;
    let mut open = File::options()
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| format!("audit.checkpoint_file: cannot write {}", file.display()))?;
    // In one piece: other processes append, too.
    Ok(open.write_all(format!("{at} {checkpoint}\n").as_bytes())?)
}
