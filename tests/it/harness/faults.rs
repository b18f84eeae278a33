//! What tests do to the tables that no person can do: time passes, rows are as another version or a
//! broken world would leave them. Each says why the test cannot wait for it or bring it about.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::database::Database;

impl Database {
    async fn change(&self, statement: &str) {
        let query = sqlx::query(AssertSqlSafe(statement.to_owned()));
        query.execute(&self.pool).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// As if the waits after failed tries were over: they grow to minutes.
    pub async fn tries_are_due(&self) {
        for table in ["outbox", "card", "inbox"] {
            self.change(&format!("update {table} set due_at = now() where due_at > now()")).await;
        }
    }

    /// As if the time had come at which a batch, or its next wave, may begin: it is hours away.
    pub async fn start_comes(&self, batch: i64) {
        self.change(&format!("update batch set not_before = now() where id = {batch}")).await;
    }

    /// As if nothing had run at the time at which a batch was to start, nor for a while after it.
    pub async fn start_goes_by(&self, batch: i64) {
        let before = "now() - interval '11 minutes'";
        self.change(&format!("update batch set not_before = {before} where id = {batch}")).await;
    }

    /// As if it was long ago that the platform said who people are: it is asked once an hour.
    pub async fn accounts_grow_old(&self) {
        self.change("update account set checked_at = now() - interval '2 hours'").await;
    }

    /// As if the platform had never said who anybody is.
    pub async fn forget_accounts(&self) {
        self.change("delete from account").await;
    }

    /// As if the deliveries that wait had been tried many times and came so many minutes ago; those
    /// of a sender whose id ends like this, 20 minutes ago. People are told after 15.
    pub async fn deliveries_waited(&self, minutes: u32, long_for: &str) {
        self.change(&format!(
            "update inbox set attempts = 40, due_at = now(), received_at = received_at
                 - case when sender like '%{long_for}' then interval '20 min'
                        else interval '{minutes} min' end
             where done_at is null"
        ))
        .await;
    }

    /// The deliveries that cannot be read are expected: they do not count at the end.
    pub async fn expect_unreadable(&self) {
        self.change("update inbox set last_error = null").await;
    }

    /// The cards that cannot be posted are expected: nothing waits for them at the end.
    pub async fn expect_unposted_cards(&self) {
        self.change(
            "update card set rendered_version = version, message_id = '1.1'
             where message_id is null",
        )
        .await;
    }

    /// The notices that were given up are expected: they do not count at the end.
    pub async fn expect_refused_notices(&self) {
        self.change("update outbox set refused_at = null, sent_at = now() where sent_at is null")
            .await;
    }

    /// As if the cards were due to be tried again.
    pub async fn cards_are_due(&self) {
        self.change("update card set due_at = now()").await;
    }

    /// Writes what a batch needs to be approved, as a newer version might.
    pub async fn change_requirements(&self, batch: i64, requirements: &Value) {
        let query = "update batch set requirements = $2 where id = $1";
        sqlx::query(query).bind(batch).bind(requirements).execute(&self.pool).await.unwrap();
    }

    /// As if nobody had opened the app's home.
    pub async fn forget_homes(&self) {
        self.change("delete from app_home").await;
    }

    /// As if the survey had found this firmware: there is no BMC behind the host.
    pub async fn bmc_has_firmware(&self, host: &str, firmware: &str) {
        let query = "insert into bmc_identity (host, vendor, firmware) values ($1, 'Dell', $2)
             on conflict (host) do update set firmware = $2";
        sqlx::query(query).bind(host).bind(firmware).execute(&self.pool).await.unwrap();
    }

    /// As if the step that a host's newest job has come to had been begun that long ago: a step that
    /// waits may do so for hours.
    pub async fn step_began(&self, host: &str, ago: &str) {
        self.change(&format!(
            "update job set step_began_at = now() - interval '{ago}'
             where id = (select max(id) from job where host = '{host}')"
        ))
        .await;
    }

    /// A batch like this one with so many jobs that wait for a day, as the executor parks them: no rack of
    /// a test has as many hosts.
    pub async fn park_like(&self, batch: i64, jobs: i64) -> i64 {
        let query = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             select action, risk, plan, digest, submitter, 'running', requirements, origin, platform,
                 channel from batch where id = $1
             returning id";
        let id = sqlx::query_scalar(query).bind(batch).fetch_one(&self.pool).await.unwrap();
        self.change(&format!(
            "insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state, epoch, step, started_at, step_began_at, wake_at)
             select {id}, 'parked' || n, 'web-owners', 'sim1', 'r1', 'sim', '127.0.0.1', 'rack', 0,
                 'waiting', 1, 1, now(), now(), now() + interval '1 day'
             from generate_series(1, {jobs}) as n"
        ))
        .await;
        id
    }

    /// As if there had never been this batch, which only a test has made.
    pub async fn forget_batch(&self, batch: i64) {
        self.change(&format!("delete from card where batch_id = {batch}")).await;
        self.change(&format!("delete from job where batch_id = {batch}")).await;
        self.change(&format!("delete from batch where id = {batch}")).await;
    }

    /// From now on the database refuses the first intents with this error: no test can fill its disk.
    /// Sequences count them, which nothing rolls back.
    pub async fn refuse_intents(&self, first: i64, sqlstate: &str) {
        self.change("create sequence intent_asked").await;
        self.change("create sequence intent_asked_first_ms").await;
        self.change("create sequence intent_asked_last_ms").await;
        self.change(&format!(
            "create function refuse_intent() returns trigger language plpgsql as $$
             declare asked bigint := nextval('intent_asked');
                 ms bigint := extract(epoch from clock_timestamp()) * 1000;
             begin
                 if asked - 1 <= {first} then perform setval('intent_asked_last_ms', ms); end if;
                 if asked = 1 then perform setval('intent_asked_first_ms', ms); end if;
                 if asked <= {first} then raise sqlstate '{sqlstate}'; end if;
                 return new;
             end $$"
        ))
        .await;
        self.change(
            "create trigger refuse_intent before insert on attempt
             for each row when (new.outcome is null) execute function refuse_intent()",
        )
        .await;
    }

    /// How many intents have been asked for since then, and how many milliseconds it took until the first
    /// one that was not refused.
    pub async fn intents_asked(&self) -> (i64, i64) {
        let query = "select case when is_called then last_value else 0 end,
                 (select last_value from intent_asked_last_ms)
                     - (select last_value from intent_asked_first_ms)
             from intent_asked";
        sqlx::query_as(query).fetch_one(&self.pool).await.unwrap()
    }

    /// A batch as the executor leaves it: its row, without jobs. Ticket tests have no executor.
    pub async fn insert_ended_batch(
        conn: &mut sqlx::PgConnection,
        submitter: &str,
        state: &str,
        plan: &impl serde::Serialize,
    ) -> i64 {
        let query = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             values ('reboot', 'disruptive', $1, sha256(''), $2, $3, '[]',
                 jsonb_build_object('origin', 'reclaim'), 'console', 'metal')
             returning id";
        let query = sqlx::query_scalar(query).bind(json!(plan)).bind(submitter).bind(state);
        query.fetch_one(conn).await.unwrap()
    }

    /// A job of it that has ended, by host, datacenter, rack and model, with the kind of its error
    /// and its text.
    pub async fn insert_ended_job(
        conn: &mut sqlx::PgConnection,
        batch: i64,
        (host, datacenter, rack, sku): (&str, &str, &str, &str),
        state: &str,
        failure: Option<(&str, &str)>,
    ) {
        sqlx::query(
            "insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state, error_kind, error, bmc_events, ended_at)
             values ($1, $2, 'web-owners', $3, $4, $5, '10.0.0.1', 'default', 0, $6, $7, $8, $9,
                 now())",
        )
        .bind(batch)
        .bind(host)
        .bind(datacenter)
        .bind(rack)
        .bind(sku)
        .bind(state)
        .bind(failure.map(|(kind, _)| kind))
        .bind(failure.map(|(_, error)| error.replace("HOST", host)))
        .bind(failure.map(|_| vec!["14:02 PSU 1: input lost".to_owned()]))
        .execute(conn)
        .await
        .unwrap();
    }
}
