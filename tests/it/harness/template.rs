//! How the databases of tests are made: the schema is applied once a server, to a template, which
//! each test copies. A copy takes a fraction of the time of the migrations.

use std::str::FromStr as _;

use metalbot_store as store;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};

/// Key of the advisory lock under which a template is made.
const LOCK: i64 = 0x6d65_7461_6c62_6f74;

/// The server of `DATABASE_URL`.
pub fn server() -> PgConnectOptions {
    let Ok(url) = std::env::var("DATABASE_URL") else {
        panic!(
            "DATABASE_URL names no PostgreSQL server: run `make test`, \
             or `.ci/with-postgres cargo test --test it`"
        );
    };
    PgConnectOptions::from_str(&url).expect("DATABASE_URL is a PostgreSQL URL")
}

/// Makes an empty database of this name.
pub async fn create_empty(server: &PgConnectOptions, name: &str) {
    let mut conn = server.connect().await.expect("the server of DATABASE_URL answers");
    run(&mut conn, &format!("create database {name}")).await;
}

/// Makes a database of this name that has the schema.
pub async fn create_migrated(server: &PgConnectOptions, name: &str) {
    let mut conn = server.connect().await.expect("the server of DATABASE_URL answers");
    let template = template(server, &mut conn).await;
    run(&mut conn, &format!("create database {name} template {template}")).await;
}

/// Removes a database, whoever is connected to it.
pub async fn drop_database(server: &PgConnectOptions, name: &str) -> sqlx::Result<()> {
    let mut conn = server.connect().await?;
    let drop = format!("drop database if exists {name} with (force)");
    conn.execute(AssertSqlSafe(drop)).await.map(|_| ())
}

/// The name of the template of this schema. It is made by the first test that asks; others wait.
async fn template(server: &PgConnectOptions, conn: &mut PgConnection) -> String {
    let name = template_name();
    if is_complete(conn, &name).await {
        return name;
    }
    run(conn, &format!("select pg_advisory_lock({LOCK})")).await;
    if !is_complete(conn, &name).await {
        run(conn, &format!("drop database if exists {name}")).await;
        run(conn, &format!("create database {name}")).await;
        let mut inside = server.clone().database(&name).connect().await.unwrap();
        store::MIGRATIONS.run(&mut inside).await.expect("the schema applies");
        inside.close().await.unwrap();
        run(conn, &format!("alter database {name} is_template true")).await;
    }
    run(conn, &format!("select pg_advisory_unlock({LOCK})")).await;
    name
}

/// It names the schema, so that an older one on a server that stays is never taken for it.
fn template_name() -> String {
    let mut digest = Sha256::new();
    for migration in store::MIGRATIONS.iter() {
        digest.update(&migration.checksum);
    }
    format!("metalbot_template_{}", &hex::encode(digest.finalize())[..12])
}

async fn is_complete(conn: &mut PgConnection, name: &str) -> bool {
    let query = "select exists (select from pg_database where datname = $1 and datistemplate)";
    sqlx::query_scalar(query).bind(name).fetch_one(conn).await.unwrap()
}

async fn run(conn: &mut PgConnection, statement: &str) {
    let done = conn.execute(AssertSqlSafe(statement.to_owned())).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}
