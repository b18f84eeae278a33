//! A file that is read again when it changes, while the process runs.

use std::error::Error;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::telemetry;

/// Of so many checks for a new version one reads the file, whatever it looks like.
const READ_EACH: u64 = 30;

/// A version of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    stamp: Stamp,
    /// Of the content, which decides: deployments that keep times, or turn a link, change nothing else.
    digest: Option<[u8; 32]>,
}

/// Which file it is, its size, and the times of its last change in seconds and nanoseconds: if none of
/// them has changed, no change is to be expected.
type Stamp = Option<[i64; 7]>;
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
    tried: Mutex<Version>,
}

impl<T> HotReload<T> {
    /// Reads the file, for [`HotReload::reload`] to read it again.
    pub fn open<E: Into<LoadError>>(
        file: &Path,
        load: impl Fn(&Path) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Taken before the file is read, so that a change during the reading counts as a new
        // version.
        let tried = Mutex::new(Version::of(file));
        let current = RwLock::new(Arc::new(load(file)?));
        let load: Load<T> = Box::new(move |file| load(file).map_err(Into::into));
        Ok(HotReload { file: Some((file.into(), load)), current, tried })
    }

    /// A value that never changes.
    pub fn fixed(value: T) -> Self {
        let (current, tried) =
            (RwLock::new(Arc::new(value)), Mutex::new(Version { stamp: None, digest: None }));
        HotReload { file: None, current, tried }
    }

    /// Newest value that could be read.
    pub fn current(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again if its content is another one than at the last try, and says whether there
    /// is a new value. A broken file leaves the old one and is logged once. Blocks.
    pub fn reload(&self) -> bool {
        let Some((file, load)) = &self.file else { return false };
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Version::of(file);
        let before = std::mem::replace(&mut *tried, now);
        if before.digest == now.digest {
            return false;
        }
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

    /// The same, if the file looks as if it might have changed: fit to be asked often. Blocks, also
    /// while another thread reads the file, so that what follows sees what was read.
    pub fn refresh(&self) -> bool {
        let Some((file, _)) = &self.file else { return false };
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner).stamp;
        stamp(file) != tried && self.reload()
    }
}

impl<T: Send + Sync + 'static> HotReload<T> {
    /// Checks for a new version once in every `every`, on a thread for blocking work. Never
    /// returns.
    pub async fn run_reload(self: Arc<Self>, every: Duration) {
        for round in 1_u64.. {
            tokio::time::sleep(every).await;
            let this = Arc::clone(&self);
            // Not every file system says at once that a file has changed.
            let look = move || if round % READ_EACH == 0 { this.reload() } else { this.refresh() };
            if let Err(error) = tokio::task::spawn_blocking(look).await {
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

impl Version {
    fn of(file: &Path) -> Version {
        // In this order, so that a change in between counts as a new version.
        let stamp = stamp(file);
        let content = std::fs::read(file).ok();
        Version { stamp, digest: content.map(|content| Sha256::digest(content).into()) }
    }
}

fn stamp(file: &Path) -> Stamp {
    let now = std::fs::metadata(file).ok()?;
    let (device, inode, size) = (now.dev() as i64, now.ino() as i64, now.size() as i64);
    Some([device, inode, size, now.mtime(), now.mtime_nsec(), now.ctime(), now.ctime_nsec()])
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

    /// Each way by which a deployment changes a file without another size or time.
    #[test]
    fn a_version_of_the_same_size_and_time_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let write = |name: &str, text: &str| {
            std::fs::write(at(name), text).unwrap();
            std::fs::File::options()
                .write(true)
                .open(at(name))
                .unwrap()
                .set_modified(then)
                .unwrap();
        };
        let turn = |link: &str, to: &str| {
            std::os::unix::fs::symlink(to, at("new")).unwrap();
            std::fs::rename(at("new"), at(link)).unwrap();
        };
        for folder in ["v1", "v2"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        for (name, text) in [("a", "1"), ("b", "2"), ("v1/file", "1"), ("v2/file", "2")] {
            write(name, text);
        }
        type Change<'a> = (&'a str, &'a dyn Fn());
        let prepare = || {
            write("plain", "1");
            write("other", "2");
            turn("link", "a");
            turn("folder", "v1");
        };
        let changes: [Change<'_>; 5] = [
            ("plain", &|| write("plain", "2")),
            ("plain", &|| std::fs::rename(at("other"), at("plain")).unwrap()),
            ("plain", &|| {
                std::fs::remove_file(at("plain")).unwrap();
                std::fs::hard_link(at("b"), at("plain")).unwrap();
            }),
            ("link", &|| turn("link", "b")),
            ("folder/file", &|| turn("folder", "v2")),
        ];
        let load = |file: &Path| std::fs::read_to_string(file);
        for (number, (name, change)) in changes.iter().enumerate() {
            for ask in [HotReload::refresh, HotReload::reload] {
                let _ = std::fs::remove_file(at("plain"));
                prepare();
                let value = HotReload::open(&at(name), load).unwrap();
                assert!(!ask(&value) && *value.current() == "1", "change {number}");
                change();
                assert!(ask(&value) && *value.current() == "2", "change {number}");
                assert!(!ask(&value), "change {number}");
            }
        }
        // What only looks changed is no new version.
        let value = HotReload::open(&at("b"), load).unwrap();
        write("b", "2");
        assert!(!value.refresh() && !value.reload());
    }
}
