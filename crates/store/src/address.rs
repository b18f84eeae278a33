//! The database's address, as psql takes it: an URI or `key=value` pairs (PostgreSQL 15, 34.1.1).
//!
//! Invariant: no error and no text made of an address holds a value that could be a secret: host, port
//! and database are named, and parameters by their names alone.
//!
//! ```text
//! postgres[ql]://[USER[:PASSWORD]@][HOST][:PORT][/DATABASE][?KEY=VALUE[&...]]
//! HOST      a name, 192.0.2.1, [2001:db8::1], [fe80::1%25eth0], %2Frun%2Fpostgresql, or nothing
//! KEY=VALUE ...     VALUE may stand in '...'; a backslash escapes
//! ```
//!
//! What is not given comes from `PGHOST` and its like, and from the password file, as for psql.

use std::fmt;
use std::fs::File;
use std::path::Path;

use sqlx::postgres::PgConnectOptions;

/// Parameters that the driver has.
const KNOWN: [&str; 16] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "sslkey",
    "statement-cache-capacity",
];
/// Parameters of psql that change nothing of what is promised when they are left out: Metalbot has its
/// own limits, and never works on a server that only reads.
const LEFT_OUT: [&str; 16] = [
    "connect_timeout",
    "client_encoding",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "sslcompression",
    "sslsni",
    "sslnegotiation",
    "target_session_attrs",
    "load_balance_hosts",
];
/// Parameters of psql that ask for what the driver cannot do.
const CANNOT: [&str; 14] = [
    "passfile",
    "require_auth",
    "channel_binding",
    "replication",
    "requiressl",
    "requirepeer",
    "sslpassword",
    "sslcertmode",
    "sslcrl",
    "sslcrldir",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "gssdelegation",
    "service",
];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
const FILES: [&str; 5] = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "sslkey"];

/// What is wrong in an address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    #[error("begins with {0}://, and must begin with postgres:// or postgresql://")]
    Scheme(String),
    #[error("is neither postgres://... nor key=value pairs")]
    Form,
    #[error(
        "the port is not a number from 1 to 65535; in user and password write / as %2F, : as %3A, \
         @ as %40, ? as %3F"
    )]
    Port,
    #[error("an @ stands where none may: in user, password and database write @ as %40, / as %2F")]
    At,
    #[error("the host is not one: a name, an address, [an IPv6 address] or the folder of a socket")]
    Host,
    #[error("names several hosts: name one, such as a proxy that leads to the primary")]
    SeveralHosts,
    #[error("a % is not followed by two hexadecimal digits: write % as %25")]
    Percent,
    #[error("a parameter has no =, or a value with a space lacks its quotes")]
    NoValue,
    #[error("a quote is not closed")]
    Quote,
    #[error("the parameter {0} is not known")]
    UnknownParameter(String),
    #[error("the parameter {0} is not supported")]
    Unsupported(String),
    #[error("the parameter {0} has a value that it cannot have")]
    Value(String),
    #[error("{parameter}: cannot read {file}: {cause}")]
    File { parameter: String, file: String, cause: String },
}

/// An address that has been read.
#[derive(Clone)]
pub struct DatabaseAddress {
    options: PgConnectOptions,
}

type Pairs = Vec<(String, String)>;

impl DatabaseAddress {
    /// Reads an address; certificates that it names must be there.
    pub fn read(text: &str) -> Result<DatabaseAddress, AddressError> {
        let mut pairs = match text.split_once("://") {
            Some(("postgres" | "postgresql", rest)) => of_uri(rest)?,
            Some((scheme, _)) if is_word(scheme) => {
                return Err(AddressError::Scheme(scheme.into()));
            }
            _ if text.contains('=') => of_pairs(text)?,
            _ => return Err(AddressError::Form),
        };
        pairs.retain(|(_, value)| !value.is_empty());
        for (key, value) in &pairs {
            check(key, value)?;
        }
        pairs.retain(|(key, _)| !LEFT_OUT.contains(&&**key));
        // What is given as `system` is what the driver trusts by itself.
        let system = |(key, value): &(String, String)| key == "sslrootcert" && value == "system";
        if pairs.iter().any(system) {
            pairs.retain(|pair| !system(pair));
            if !pairs.iter().any(|(key, _)| key == "sslmode") {
                pairs.push(("sslmode".into(), "verify-full".into()));
            }
        }
        // The driver reads what cannot be mistaken, and looks the password up for this very host.
        let query: Vec<String> = pairs
            .iter()
            .map(|(key, value)| format!("{}={}", encoded(key), encoded(value)))
            .collect();
        let options: PgConnectOptions =
            format!("postgres:/?{}", query.join("&")).parse().map_err(|_| AddressError::Form)?;
        // The server's own default, which some poolers refuse to be told.
        Ok(DatabaseAddress { options: options.extra_float_digits(None) })
    }

    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }
}

/// Where the database is, without user and password.
impl fmt::Display for DatabaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        match (options.get_socket(), options.get_host()) {
            (Some(folder), _) => write!(f, "socket folder {}", folder.display())?,
            (None, host) if host.starts_with('/') => write!(f, "socket folder {host}")?,
            (None, host) => write!(f, "host {host}")?,
        }
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        write!(f, ", port {}, database {database}", options.get_port())
    }
}

impl fmt::Debug for DatabaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `rest` is what follows `://`. User and password end at the first @ before any /, as for psql.
fn of_uri(rest: &str) -> Result<Pairs, AddressError> {
    let mut pairs = Pairs::new();
    let mut add = |key: &str, value: &str| -> Result<(), AddressError> {
        pairs.push((key.to_owned(), decoded(value)?));
        Ok(())
    };
    let (user, rest) = match rest.find(['@', '/']) {
        Some(end) if rest[end..].starts_with('@') => (&rest[..end], &rest[end + 1..]),
        _ => ("", rest),
    };
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    add("user", user)?;
    add("password", password)?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    if authority.contains('@') || database.contains('@') {
        return Err(AddressError::At);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(inside) => {
            let (host, after) = inside.split_once(']').ok_or(AddressError::Host)?;
            let port = if after.is_empty() { Some("") } else { after.strip_prefix(':') };
            (host, port.ok_or(AddressError::Host)?)
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    if authority.contains(',') {
        return Err(AddressError::SeveralHosts);
    }
    add("host", host)?;
    add("port", port)?;
    add("dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(AddressError::NoValue)?;
        add(&decoded(key)?, value)?;
    }
    Ok(pairs)
}

fn of_pairs(text: &str) -> Result<Pairs, AddressError> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(AddressError::NoValue)?;
        let key = key.trim_end();
        if key.contains(char::is_whitespace) {
            return Err(AddressError::NoValue);
        }
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut value = String::new();
        let mut characters = after.char_indices().skip(usize::from(quoted));
        let end = loop {
            match characters.next() {
                None if quoted => return Err(AddressError::Quote),
                None => break after.len(),
                Some((at, '\'')) if quoted => break at + 1,
                Some((at, one)) if !quoted && one.is_whitespace() => break at,
                Some((_, '\\')) => value.extend(characters.next().map(|(_, one)| one)),
                Some((_, one)) => value.push(one),
            }
        };
        pairs.push((key.to_owned(), value));
        rest = after[end..].trim_start();
    }
    Ok(pairs)
}

fn check(key: &str, value: &str) -> Result<(), AddressError> {
    let of_options = key.strip_prefix("options[").and_then(|key| key.strip_suffix(']'));
    if LEFT_OUT.contains(&key) || of_options.is_some_and(is_word) {
        return Ok(());
    }
    if CANNOT.contains(&key) {
        return Err(AddressError::Unsupported(key.to_owned()));
    }
    if !KNOWN.contains(&key) {
        let name = if is_word(key) { key } else { "that is not a word" };
        return Err(AddressError::UnknownParameter(name.to_owned()));
    }
    let wrong = || AddressError::Value(key.to_owned());
    match key {
        "host" if value.starts_with('/') => Ok(()),
        "host" if value.contains(',') => Err(AddressError::SeveralHosts),
        "host" => {
            let fits = |one: char| one.is_alphanumeric() || "._-:%".contains(one);
            if value.chars().all(fits) { Ok(()) } else { Err(AddressError::Host) }
        }
        "hostaddr" => value.parse::<std::net::IpAddr>().map(drop).map_err(|_| wrong()),
        "port" if value.contains(',') => Err(AddressError::SeveralHosts),
        "port" => match value.parse::<u16>() {
            Ok(1..) => Ok(()),
            _ => Err(AddressError::Port),
        },
        "sslmode" | "ssl-mode" if !SSL_MODES.contains(&value) => Err(wrong()),
        "statement-cache-capacity" => value.parse::<usize>().map(drop).map_err(|_| wrong()),
        "sslrootcert" if value == "system" => Ok(()),
        _ if FILES.contains(&key) => match File::open(Path::new(value)) {
            Ok(_) => Ok(()),
            Err(cause) => Err(AddressError::File {
                parameter: key.to_owned(),
                file: value.to_owned(),
                cause: cause.to_string(),
            }),
        },
        _ => Ok(()),
    }
}

/// What may be shown of something that may be a part of a secret: names of parameters and schemes.
fn is_word(text: &str) -> bool {
    let fits = |one: char| one.is_ascii_lowercase() || one == '_' || one == '-';
    !text.is_empty() && text.len() <= 32 && text.chars().all(fits)
}

fn decoded(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).ok_or(AddressError::Percent)?;
        let mut byte = [0];
        hex::decode_to_slice(digits, &mut byte).map_err(|_| AddressError::Percent)?;
        bytes.extend(byte);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| AddressError::Percent)
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_psql_takes_is_taken() {
        for (text, place) in [
            ("postgres://u:p@db/metal", "host db, port 5432, database metal"),
            ("postgresql://u@db:6432/metal", "host db, port 6432, database metal"),
            ("postgres://u:p@[2001:db8::1]:6432/m", "host 2001:db8::1, port 6432, database m"),
            ("postgres://u@[::1]/m", "host ::1, port 5432, database m"),
            ("postgres://u@[fe80::1%25eth0]/m", "host fe80::1%eth0, port 5432, database m"),
            ("postgres://u@/m?host=db&port=7", "host db, port 7, database m"),
            ("postgres:///m?host=db&user=u&password=p", "host db, port 5432, database m"),
            ("postgres://u@/m?host=::1", "host ::1, port 5432, database m"),
            ("postgres://u@/m?host=/run/pg", "socket folder /run/pg, port 5432, database m"),
            ("postgres://u@%2Frun%2Fpg:7/m", "socket folder /run/pg, port 7, database m"),
            ("postgres://u:12?p:q#r@db/m", "host db, port 5432, database m"),
            ("postgres://u%40x:p%2Fq%3A@db", "host db, port 5432, database u@x"),
            ("postgres://u@db/m?connect_timeout=3&keepalives=1", "host db, port 5432, database m"),
            ("postgres://u@db/m?target_session_attrs=read-write", "host db, port 5432, database m"),
            ("postgres://u@name/m?hostaddr=192.0.2.1", "host 192.0.2.1, port 5432, database m"),
            ("host=db port = 7 dbname='a b' user=u", "host db, port 7, database a b"),
            (
                r"host=/run/pg user=u dbname='it\'s'",
                "socket folder /run/pg, port 5432, database it's",
            ),
            ("postgres://u@db/m?sslrootcert=system", "host db, port 5432, database m"),
        ] {
            let read =
                DatabaseAddress::read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read.to_string(), place, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_without_a_value_that_may_be_secret() {
        for (text, message) in [
            ("mysql://u:s3cret@db/m", "begins with mysql://, and must begin with postgres"),
            ("s3cret", "is neither postgres://... nor key=value pairs"),
            ("postgres://u:s3/cret@db/m", "an @ stands where none may"),
            ("postgres://u:12/s3cret@db/m", "an @ stands where none may"),
            ("postgres://u:p@s3cret@db/m", "an @ stands where none may"),
            ("postgres://u@db/m?s3cret", "a parameter has no ="),
            ("postgres://u:s3cret%@db/m", "a % is not followed by two hexadecimal digits"),
            ("postgres://u@db:0/m", "the port is not a number from 1 to 65535"),
            ("postgres://u@[::1/m", "the host is not one"),
            ("postgres://u@d b/m", "the host is not one"),
            ("postgres://u@a,b/m", "names several hosts"),
            ("postgres://u@db/m?pasword=s3cret", "the parameter pasword is not known"),
            ("postgres://u@db/m?S3cret=1", "the parameter that is not a word is not known"),
            ("postgres://u@db/m?sslmode=s3cret", "the parameter sslmode has a value"),
            ("postgres://u@db/m?sslcrl=/s3cret", "the parameter sslcrl is not supported"),
            ("host=db password=my s3cret", "a parameter has no ="),
            ("host=db password='s3cret", "a quote is not closed"),
            (
                "postgres://u@db/m?sslrootcert=/nowhere/ca.pem",
                "sslrootcert: cannot read /nowhere/ca.pem: No such file",
            ),
        ] {
            let error = DatabaseAddress::read(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
            assert!(!error.to_lowercase().contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let read = DatabaseAddress::read("postgres://u:s3cret@db/m").unwrap();
        assert!(!format!("{read} {read:?}").contains("s3cret"));
    }
}
