//! Finds PostgreSQL's server programs on the machine, and recognises processes that are servers.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Searched folders, for the error message.
pub(super) const LOOKED: &str = "/usr/lib/postgresql/*/bin, /usr/pgsql-*/bin, Homebrew's folders, \
                                 pg_config --bindir and PATH";

/// Folders that hold one folder per version, and the prefix of the latter's names.
const PLACES: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/usr/lib", "postgresql"),
    ("/opt/homebrew/opt", "postgresql"),
    ("/usr/local/opt", "postgresql"),
];

/// A folder with `initdb`, `postgres` and `pg_ctl` of one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Binaries {
    pub(super) folder: PathBuf,
    /// Major and minor version.
    version: (u32, u32),
}

impl Binaries {
    fn at(folder: PathBuf) -> Option<Self> {
        if !["initdb", "postgres", "pg_ctl"].iter().all(|name| folder.join(name).is_file()) {
            return None;
        }
        let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Binaries { folder, version })
    }

    /// Major version in the form of a cluster's `PG_VERSION`.
    pub(super) fn major(&self) -> String {
        match self.version {
            // Before version 10 the second number was part of the major version.
            (major @ 0..10, minor) => format!("{major}.{minor}"),
            (major, _) => major.to_string(),
        }
    }
}

/// Every installed version, newest first.
pub(super) fn find() -> Vec<Binaries> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for (place, prefix) in PLACES {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let fitting = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
        folders.extend(fitting.map(|entry| entry.path().join("bin")));
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output() {
        folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    let mut found: Vec<Binaries> = folders.into_iter().filter_map(Binaries::at).collect();
    found.sort_by_key(|one| std::cmp::Reverse(one.version));
    found
}

/// Reads `postgres (PostgreSQL) 17.6 (Debian 17.6-1)`, also `18beta1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let major = numbers.next().filter(|&major| major > 0)?;
    Some((major, numbers.next().unwrap_or(0)))
}

/// Returns whether the process is the PostgreSQL server of this data folder.
pub(super) fn is_server_of(pid: u32, data: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    if process.exists() {
        // A server's working folder is its data folder. Another program there has another name; a
        // zombie has no folder.
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        return matches!(name.trim(), "postgres" | "postmaster")
            && fs::read_link(process.join("cwd")).is_ok_and(|folder| folder == data);
    }
    let named = |word: &OsStr| word == "postgres" || word == "postmaster";
    ps(pid).is_some_and(|program| Path::new(&program).file_name().is_some_and(named))
}

/// Returns whether any process has this pid.
pub(super) fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() || ps(pid).is_some()
}

/// Name of a process on systems without `/proc`.
fn ps(pid: u32) -> Option<String> {
    if Path::new("/proc/self").exists() {
        return None;
    }
    let output = Command::new("ps").args(["-o", "comm=", "-p", &pid.to_string()]).output().ok()?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let table = [
            ("postgres (PostgreSQL) 17.6 (Debian 17.6-0+deb13u1)", Some((17, 6))),
            ("postgres (PostgreSQL) 18beta1", Some((18, 0))),
            ("postgres (PostgreSQL) 9.6.24", Some((9, 6))),
            ("postgres (PostgreSQL) devel", None),
            ("bash 5.2", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }

    #[test]
    fn other_programs_are_no_server() {
        let own = std::process::id();
        let here = std::env::current_dir().unwrap();
        assert!(is_alive(own));
        assert!(!is_server_of(own, &here));
    }
}
