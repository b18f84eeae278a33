//! A file that is read again when it changes, while the process runs.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::telemetry;

/// Time of the last change and size in bytes, by which a new version of a file is recognised.
type Stamp = Option<(SystemTime, u64)>;
/// A file cannot be used; the error of its reader, of any type.
type LoadError = Box<dyn Error + Send + Sync>;
/// Reads a file.
type Load<T> = Box<dyn Fn(&Path) -> Result<T, LoadError> + Send + Sync>;

/// The newest version of a file that could be read.
pub struct HotReload<T> {
    /// File and its reader; `None` for a value that never changes.
    file: Option<(PathBuf, Load<T>)>,
    current: RwLock<Arc<T>>,
    /// Version of the file that was last tried, even if it could not be used.
    tried: Mutex<Stamp>,
}

impl<T> HotReload<T> {
    /// Reads the file, for [`HotReload::reload`] to read it again.
    pub fn open<E: Into<LoadError>>(
        file: &Path,
        load: impl Fn(&Path) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Taken before the file is read, so that a change during the reading counts as a new
        // version.
        let tried = Mutex::new(stamp(file));
        let current = RwLock::new(Arc::new(load(file)?));
        let load: Load<T> = Box::new(move |file| load(file).map_err(Into::into));
        Ok(HotReload { file: Some((file.into(), load)), current, tried })
    }

    /// A value that never changes.
    pub fn fixed(value: T) -> Self {
        let (current, tried) = (RwLock::new(Arc::new(value)), Mutex::new(None));
        HotReload { file: None, current, tried }
    }

    /// Newest value that could be read.
    pub fn current(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again when it changed since the last try, and says whether there is a new
    /// value. A broken file leaves the old one and is logged once. Blocks.
    pub fn reload(&self) -> bool {
        let Some((file, load)) = &self.file else { return false };
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(file);
        if *tried == now {
            return false;
        }
        *tried = now;
        match load(file) {
            Ok(value) => {
                tracing::info!(file = %file.display(), "a changed file was read again");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                true
            }
            Err(error) => {
                tracing::error!(%error, "a changed file cannot be used; the version read before is kept");
                metrics::counter!(telemetry::RELOADS_FAILED).increment(1);
                false
            }
        }
    }
}

impl<T: Send + Sync + 'static> HotReload<T> {
    /// Checks for a new version once in every `every`, on a thread for blocking work. Never
    /// returns.
    pub async fn run_reload(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.reload()).await {
                tracing::error!(%error, "a changed file was not read again");
            }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for HotReload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HotReload").field(&self.current()).finish()
    }
}

fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_holds_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        let read = |file: &Path| {
            let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
            text.parse::<i32>().map_err(|error| error.to_string())
        };
        write("1");
        let number = HotReload::open(&file, read).unwrap();
        assert!(!number.reload(), "it did not change");
        write("22");
        assert_eq!(*number.current(), 1, "nobody looked");
        assert!(number.reload());
        assert_eq!(*number.current(), 22);
        write("many");
        assert!(!number.reload());
        std::fs::remove_file(&file).unwrap();
        assert!(!number.reload());
        assert_eq!(*number.current(), 22);
        write("333");
        assert!(number.reload());
        assert_eq!(*number.current(), 333);
        assert!(!HotReload::fixed(1).reload());
    }
}
