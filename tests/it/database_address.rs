//! What a shell with a right or a wrong address of the database is told, before a real PostgreSQL.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

use std::net::Ipv6Addr;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::Site;
use crate::harness::process::said;

const SECRET: &str = "s3cret/word";

/// `metalbot operator check-config --connect` with this address: whether all is well, and what it says.
async fn check(site: &Site, url: &str) -> (bool, String) {
    let mut command = site.command(&["operator", "check-config", "--connect"]);
    command.env("DATABASE_URL", url).env("METALBOT_AUDIT__KEY", "k".repeat(32));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.success(), said(&output).1)
}

/// The parts of the test's own address.
struct Parts {
    user: String,
    password: String,
    host: String,
    port: u16,
    database: String,
}

fn parts(site: &Site) -> Parts {
    let options: PgConnectOptions = site.db.url.parse().unwrap();
    let (_, rest) = site.db.url.split_once("://").unwrap();
    let (user, _) = rest.split_once('@').unwrap();
    let (user, password) = user.split_once(':').unwrap();
    Parts {
        user: user.to_owned(),
        password: password.to_owned(),
        host: options.get_host().to_owned(),
        port: options.get_port(),
        database: options.get_database().unwrap().to_owned(),
    }
}

/// The server as an IPv6 address has it; returns its port there.
async fn on_ipv6(host: String, port: u16) -> u16 {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let its_port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let server = (host.clone(), port);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    its_port
}

#[tokio::test]
async fn what_psql_takes_leads_to_the_database() {
    let site = Site::sound().await;
    let Parts { user, password, host, port, database } = parts(&site);
    let sockets: String =
        sqlx::query_scalar("show unix_socket_directories").fetch_one(&site.db.pool).await.unwrap();
    let at_ipv6 = on_ipv6(host.clone(), port).await;
    let mut urls = vec![
        format!("postgresql://{user}:{password}@{host}:{port}/{database}"),
        format!("postgres:///{database}?host={host}&port={port}&user={user}&password={password}"),
        format!("postgres://{user}:{password}@/{database}?host={host}&port={port}"),
        format!("postgres://{user}:{password}@[::1]:{at_ipv6}/{database}?connect_timeout=3"),
        format!("postgres://{user}:{password}@/{database}?host=::1&port={at_ipv6}"),
        format!("host={host} port={port} user={user} password='{password}' dbname={database}"),
    ];
    if let Some(folder) = sockets.split(',').map(str::trim).find(|folder| !folder.is_empty()) {
        let in_host = folder.replace('/', "%2F");
        urls.push(format!("postgres://{user}:{password}@{in_host}:{port}/{database}"));
        urls.push(format!("postgres://{user}:{password}@/{database}?host={folder}&port={port}"));
    }
    for url in urls {
        assert_eq!(check(&site, &url).await, (true, String::new()), "{url}");
    }
    site.leave().await;
}

#[tokio::test]
async fn what_is_wrong_is_named_with_its_place_and_without_secrets() {
    let site = Site::sound().await;
    let Parts { user, password, host, port, database } = parts(&site);
    let full = format!("full_{database}");
    let make = format!("create role {full} login password '{password}' connection limit 0");
    site.db.pool.execute(AssertSqlSafe(make)).await.unwrap();
    let refused = TcpListener::bind((host.as_str(), 0)).await.unwrap().local_addr().unwrap().port();
    let place =
        |port: u16, database: &str| format!("host {host}, port {port}, database {database}");
    let here = place(port, &database);
    let wrong_password = SECRET.replace('/', "%2F");
    let server = format!("{host}:{port}");
    for (url, expected) in [
        (
            format!("postgres://{user}:{password}@{host}:{refused}/{database}"),
            vec![place(refused, &database), "the connection is refused".into()],
        ),
        (
            format!("postgres://{user}:{wrong_password}@{server}/{database}"),
            vec![here.clone(), format!("password authentication failed for user \"{user}\"")],
        ),
        (
            format!("postgres://{full}:{password}@{server}/{database}"),
            vec![here, format!("too many connections for role \"{full}\"")],
        ),
        (
            format!("postgres://{user}:{password}@{server}/nowhere"),
            vec![place(port, "nowhere"), "database \"nowhere\" does not exist".into()],
        ),
        (
            format!("postgres://{user}:{password}@db.invalid:{port}/{database}"),
            vec![format!("host db.invalid, port {port}, database {database}")],
        ),
        (
            format!("postgres://{user}:{password}@/{database}?host=/nowhere"),
            vec!["socket folder /nowhere".into(), "there is no socket".into()],
        ),
        (
            format!("postgres://{user}:{password}@{server}/{database}?sslrootcert=/nowhere/ca.pem"),
            vec!["sslrootcert: cannot read /nowhere/ca.pem: No such file".into()],
        ),
        (
            format!("postgres://{user}:{password}@{server}/{database}?pasword={SECRET}"),
            vec!["the parameter pasword is not known".into()],
        ),
        (
            format!("postgres://{user}:{SECRET}@{server}/{database}"),
            vec!["an @ stands where none may".into(), "/ as %2F".into()],
        ),
        (
            format!("mysql://{user}:{SECRET}@{server}/{database}"),
            vec!["begins with mysql://".into()],
        ),
    ] {
        let (right, message) = check(&site, &url).await;
        assert!(!right, "{url} is right");
        assert!(message.starts_with("metalbot: DATABASE_URL: "), "{message}");
        for part in expected {
            assert!(message.contains(&part), "{part} in {message}");
        }
        for secret in [&*password, SECRET, &*wrong_password] {
            assert!(!message.contains(secret), "{message}");
        }
    }
    site.db.pool.execute(AssertSqlSafe(format!("drop role {full}"))).await.unwrap();
    site.leave().await;
}

#[tokio::test]
async fn only_what_serves_makes_a_private_cluster() {
    let site = Site::sound().await;
    let state = site.folder().join("elsewhere");
    for args in [
        &["operator", "tickets", "list"][..],
        &["operator", "tickets", "explain", "--batch", "1"],
        &["operator", "audit", "verify"],
        &["operator", "check-config", "--connect"],
    ] {
        let mut command = site.command(args);
        command.env_remove("DATABASE_URL").env("METALBOT_STATE_DIR", &state);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let message = said(&output).1;
        assert!(message.contains("no database is named, and there is no private"), "{message}");
        assert!(message.contains(&format!("{}", state.display())), "{message}");
        assert!(message.contains("set DATABASE_URL or [database] url"), "{message}");
        assert!(!state.exists(), "{args:?} has made {}", state.display());
    }
    site.leave().await;
}
