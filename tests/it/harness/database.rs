//! The database of one test, and every question that tests ask of its tables. People cannot see what
//! is asked here: what was never sent, what is still held, what a worker has written.

use std::sync::atomic::{AtomicU32, Ordering};

use metalbot_store::{self as store, DatabaseAddress};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgPool};

use super::template;
use super::wait::{is_soon, until};

/// Most connections of a test itself.
const CONNECTIONS: u32 = 30;

/// A database of the test's own, removed with this value.
pub struct Database {
    pub url: String,
    pub pool: PgPool,
    owned: Option<(PgConnectOptions, String)>,
}

impl Database {
    /// One that has the schema.
    pub async fn new() -> Database {
        let (server, name) = (template::server(), next_name());
        template::create_migrated(&server, &name).await;
        Database::owned(server, name)
    }

    /// One without tables.
    pub async fn empty() -> Database {
        let (server, name) = (template::server(), next_name());
        template::create_empty(&server, &name).await;
        Database::owned(server, name)
    }

    /// A database of the caller, who removes it.
    pub fn at(url: &str) -> Database {
        let address = DatabaseAddress::read(url).unwrap();
        let pool = store::connect_lazy(&address, CONNECTIONS, store::PoolRole::Maintenance);
        Database { url: url.to_owned(), pool, owned: None }
    }

    pub fn address(&self) -> DatabaseAddress {
        DatabaseAddress::read(&self.url).unwrap()
    }

    fn owned(server: PgConnectOptions, name: String) -> Database {
        let url = server.clone().database(&name).to_url_lossy().to_string();
        // Slow tests on a busy machine must not fail for want of a connection.
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect_lazy(&url).unwrap();
        Database { url, pool, owned: Some((server, name)) }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some((server, name)) = self.owned.take() else { return };
        // A runtime cannot be waited for inside another one.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(template::drop_database(&server, &name))
        });
        if let Ok(Err(error)) = dropping.join() {
            eprintln!("a database of a test stays on the server: {error}");
        }
    }
}

fn next_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What can be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    Batches,
    BatchesNotEnded,
    BatchesCancelled,
    /// Batches that somebody or something has moved on from waiting for approval.
    BatchesDecided,
    Decisions,
    JobsPending,
    JobsWaiting,
    JobsSucceeded,
    /// Ends of jobs that were written, each with its audit row.
    JobsEndedInAudit,
    /// What machines have told.
    Reports,
    /// Hosts that no other batch may have.
    HostsHeld,
    HostsQuarantined,
    LiveLeases,
    /// Batches that go on by themselves: they are due to start, or have hosts at work or queued.
    BatchesAtWork,
    AttemptsWithoutOutcome,
    /// Attempts by which something was, or may have been, done to a host.
    AttemptsThatActed,
    /// Pairs of live jobs of one host: there must never be one.
    HostsHeldTwice,
    /// Batches of which only a part was admitted: there must never be one.
    BatchesTorn,
    Deadlocks,
    Deliveries,
    DeliveriesNotDone,
    /// Deliveries that were tried, in vain so far.
    DeliveriesTried,
    /// Deliveries that were not done with at the first try.
    DeliveriesNotDoneAtOnce,
    DeliveriesUnreadable,
    /// Deliveries that still hold the secret address for their answer.
    DeliveriesWithAddress,
    Unsent,
    CardsNotPosted,
    CardsStale,
    CardsRefused,
    CardsNotRefused,
    /// Pages of the app's home that do not show the last change yet.
    HomesStale,
    /// Deliveries, notices and cards that wait.
    ChatWork,
    AuditRowsNotSealed,
    /// Tickets and comments that Jira has not got yet.
    TicketsNotWritten,
    Tickets,
    TicketsFiled,
    TicketsRefused,
    TicketsOpen,
    TicketsClosed,
    TicketsDone,
    TicketsGone,
    /// Tickets that Jira says are open, or are being worked on by somebody.
    TicketsSeenOpen,
    TicketsSeenInProgress,
    TicketsSeen,
    TicketsTriedAgain,
    /// Tickets of which it is not known whether Jira got them.
    TicketsInDoubt,
    HostsWontFix,
    HostsOfTicketsMended,
    BmcsIdentified,
    BmcsSilent,
}

impl Count {
    fn query(self) -> &'static str {
        match self {
            Count::Batches => "from batch",
            Count::BatchesNotEnded => "from batch where finished_at is null",
            Count::BatchesCancelled => "from batch where state = 'cancelled'",
            Count::BatchesDecided => "from batch where state <> 'awaiting_approval'",
            Count::Decisions => "from decision",
            Count::JobsPending => "from job where state = 'pending'",
            Count::JobsWaiting => "from job where state = 'waiting'",
            Count::JobsSucceeded => "from job where state = 'succeeded'",
            Count::JobsEndedInAudit => "from audit where event = 'job.ended'",
            Count::Reports => "from job_report",
            Count::HostsHeld => {
                "from job where state not in
                     ('succeeded', 'failed', 'quarantined', 'cancelled', 'skipped')"
            }
            Count::HostsQuarantined => "from job where state = 'quarantined'",
            Count::LiveLeases => "from job where state = 'running' or worker is not null",
            Count::BatchesAtWork => {
                "from batch where state = 'scheduled' and not_before <= now()
                     or state in ('scheduled', 'running', 'paused', 'cancelled')
                        and needs_reconcile
                     or state = 'running' and exists (
                        select from job where job.batch_id = batch.id
                            and job.state in ('queued', 'running', 'waiting'))"
            }
            Count::AttemptsWithoutOutcome => "from attempt where outcome is null",
            Count::AttemptsThatActed => "from attempt where acted or outcome is null",
            Count::HostsHeldTwice => {
                "from (select host from job
                     where state in ('pending', 'queued', 'running', 'waiting', 'quarantined')
                     group by host having count(*) > 1) as twice"
            }
            Count::BatchesTorn => {
                "from (select batch_id from job
                     group by batch_id having count(distinct state) > 1) as torn"
            }
            Count::Deadlocks => {
                "from pg_stat_database where datname = current_database() and deadlocks > 0"
            }
            Count::Deliveries => "from inbox",
            Count::DeliveriesNotDone => "from inbox where done_at is null",
            Count::DeliveriesTried => "from inbox where done_at is null and attempts > 0",
            Count::DeliveriesNotDoneAtOnce => "from inbox where done_at is null or attempts > 0",
            Count::DeliveriesUnreadable => "from inbox where last_error is not null",
            Count::DeliveriesWithAddress => "from inbox where body::text like '%response_url%'",
            Count::Unsent => "from outbox where sent_at is null and refused_at is null",
            Count::CardsNotPosted => "from card where message_id is null",
            Count::CardsStale => "from card where rendered_version < version",
            Count::CardsRefused => "from card where refused_at is not null",
            Count::CardsNotRefused => "from card where refused_at is null",
            Count::HomesStale => {
                "from app_home
                 where rendered_position < (select max(position) from audit_seal)
                     or exists (select from audit where not sealed)"
            }
            Count::ChatWork => {
                "from (select 1 from inbox where done_at is null
                     union all select 1 from outbox
                         where kind = 'notice' and sent_at is null and refused_at is null
                     union all select 1 from card where message_id is null) as work"
            }
            Count::AuditRowsNotSealed => "from audit where not sealed",
            Count::TicketsNotWritten => {
                "from (select 1 from outbox
                         where kind = 'ticket' and sent_at is null and refused_at is null
                     union all select 1 from ticket where refused_at is null and jira_key is null
                         or jira_key is not null
                             and (rendered_version < version or pending_transition is not null)
                     union all select 1 from ticket_comment where sent_at is null) as work"
            }
            Count::Tickets => "from ticket",
            Count::TicketsFiled => "from ticket where jira_key is not null",
            Count::TicketsRefused => "from ticket where refused_at is not null",
            Count::TicketsOpen => "from ticket where closed_as is null",
            Count::TicketsClosed => "from ticket where closed_as is not null",
            Count::TicketsDone => "from ticket where closed_as = 'done'",
            Count::TicketsGone => "from ticket where closed_as = 'gone'",
            Count::TicketsSeenOpen => "from ticket where status = 'Open'",
            Count::TicketsSeenInProgress => {
                "from ticket where status = 'In Progress' and assignee is not null"
            }
            Count::TicketsSeen => "from ticket where status is not null",
            Count::TicketsTriedAgain => "from ticket where attempts > 1",
            Count::TicketsInDoubt => "from ticket where create_sent_at is not null",
            Count::HostsWontFix => "from host_wont_fix",
            Count::HostsOfTicketsMended => "from ticket_host where resolved_at is not null",
            Count::BmcsIdentified => {
                "from bmc_identity where vendor <> '' and firmware like vendor || ' 0x%'"
            }
            Count::BmcsSilent => "from bmc_identity where vendor = ''",
        }
    }
}

impl Database {
    pub async fn count(&self, what: Count) -> i64 {
        let query = format!("select count(*) {}", what.query());
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until there are so many.
    pub async fn until(&self, what: Count, wanted: i64) {
        let enough = async || self.count(what).await == wanted;
        if !is_soon(enough).await {
            let rows = self.rows(what).await;
            panic!("never {wanted} of {what:?}, but {}: {rows:#?}", rows.len());
        }
    }

    /// What is counted, for a test that fails.
    async fn rows(&self, what: Count) -> Vec<Value> {
        let query = format!("select to_jsonb(found) from (select * {}) as found", what.query());
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&self.pool).await.unwrap()
    }

    /// The same of at least so many.
    pub async fn until_at_least(&self, what: Count, wanted: i64) {
        let enough = async || self.count(what).await >= wanted;
        until(&format!("at least {wanted} of {what:?}"), enough).await;
    }

    async fn texts(&self, query: &'static str, batch: i64) -> Vec<String> {
        sqlx::query_scalar(query).bind(batch).fetch_all(&self.pool).await.unwrap()
    }

    /// The number of the newest batch; 0 without one.
    pub async fn newest_batch(&self) -> i64 {
        let query = "select coalesce(max(id), 0) from batch";
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    pub async fn batch_state(&self, batch: i64) -> String {
        self.texts("select state from batch where id = $1", batch).await.remove(0)
    }

    /// The state of a batch that has ended. An error when the database is away.
    pub async fn ended_state(&self, batch: i64) -> sqlx::Result<Option<String>> {
        let query = "select state from batch where id = $1 and finished_at is not null";
        sqlx::query_scalar(query).bind(batch).fetch_optional(&self.pool).await
    }

    /// Where a batch was submitted, as its platform names the channel.
    pub async fn channel(&self, batch: i64) -> String {
        self.texts("select channel from batch where id = $1", batch).await.remove(0)
    }

    pub async fn plan(&self, batch: i64) -> Value {
        let query = "select plan from batch where id = $1";
        sqlx::query_scalar(query).bind(batch).fetch_one(&self.pool).await.unwrap()
    }

    /// Number, state and submitter of the newest batches.
    pub async fn newest_batches(&self, count: usize) -> Vec<(i64, String, String)> {
        let query = "select id, state, submitter from batch order by id desc limit $1";
        sqlx::query_as(query).bind(count as i64).fetch_all(&self.pool).await.unwrap()
    }

    /// How the jobs of a batch stand: `web01 pending`.
    pub async fn jobs(&self, batch: i64) -> Vec<String> {
        let query = "select host || ' ' || state from job where batch_id = $1 order by host";
        self.texts(query, batch).await
    }

    /// Index of the step that a host's newest job has come to.
    pub async fn step(&self, host: &str) -> i32 {
        let query = "select step from job where host = $1 order by id desc limit 1";
        sqlx::query_scalar(query).bind(host).fetch_one(&self.pool).await.unwrap()
    }

    /// The states in which a batch has jobs, each once.
    pub async fn job_states(&self, batch: i64) -> Vec<String> {
        self.texts("select distinct state from job where batch_id = $1 order by 1", batch).await
    }

    /// Host, state and kind of error of each job of a batch.
    pub async fn outcomes(&self, batch: i64) -> Vec<(String, String, Option<String>)> {
        let query = "select host, state, error_kind from job where batch_id = $1 order by host";
        sqlx::query_as(query).bind(batch).fetch_all(&self.pool).await.unwrap()
    }

    /// Each host of a batch that waits with its wave, counted from 0: `web02 1`.
    pub async fn waves(&self, batch: i64) -> Vec<String> {
        let query = "select host || ' ' || wave from job
             where batch_id = $1 and state = 'pending' order by host";
        self.texts(query, batch).await
    }

    /// Jobs of a batch without an end, and attempts without an outcome.
    pub async fn unfinished(&self, batch: i64) -> Vec<String> {
        let query = "select host || ' ' || state from job
             left join attempt on job_id = job.id and outcome is null
             where batch_id = $1 and (ended_at is null or attempt.id is not null)";
        self.texts(query, batch).await
    }

    /// What was tried on a host: intent, outcome and error of each attempt, with their times.
    pub async fn attempts(&self, host: &str) -> Vec<String> {
        let query = "select concat_ws(' ', (extract(epoch from intent_at) * 1000)::bigint, 'step',
                 attempt.step, 'try', try, 'epoch', attempt.epoch, 'by', attempt.worker, outcome,
                 (extract(epoch from outcome_at) * 1000)::bigint, attempt.error)
             from attempt join job on job.id = job_id where host = $1";
        sqlx::query_scalar(query).bind(host).fetch_all(&self.pool).await.unwrap()
    }

    /// Attempts of batch 1 before the time that its thread was told it starts at.
    pub async fn attempts_before_the_start(&self) -> i64 {
        let query = "select count(*) from attempt
             where intent_at < (select (body ->> 'starts_at')::timestamptz from outbox
                                where key = 'batch:1:scheduled')";
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// Whether a batch expires at the very time at which it is to start.
    pub async fn expires_at_its_start(&self, batch: i64) -> bool {
        let query = "select expires_at = (plan #>> '{rollout,start,at}')::timestamptz
             from batch where id = $1";
        sqlx::query_scalar(query).bind(batch).fetch_one(&self.pool).await.unwrap()
    }

    /// Keys of a batch's notices that were sent to its thread, in their order.
    pub async fn told_in_the_thread(&self, batch: i64) -> Vec<String> {
        let query = "select key from outbox where batch_id = $1 and kind = 'notice'
             and audience->>'to' = 'thread' and sent_at is not null order by id";
        self.texts(query, batch).await
    }

    /// Keys of all notices of a batch that were sent.
    pub async fn told(&self, batch: i64) -> Vec<String> {
        let query = "select key from outbox
             where batch_id = $1 and kind = 'notice' and sent_at is not null order by 1";
        self.texts(query, batch).await
    }

    /// The notices of a batch, sent or not, whose key goes on like this.
    pub async fn notices(&self, batch: i64, key: &str) -> usize {
        let query = "select key from outbox where starts_with(key, concat('batch:', $1, ':'))";
        let keys = self.texts(query, batch).await;
        keys.iter().filter(|one| one.starts_with(&format!("batch:{batch}:{key}"))).count()
    }

    /// Waits until a notice of a batch, whose key goes on like this, is on its way.
    pub async fn until_announced(&self, batch: i64, key: &str) {
        let there = async || self.notices(batch, key).await > 0;
        until(&format!("a notice {key} of batch {batch}"), there).await;
    }

    /// Keys of what the bot has said in a batch's thread at the console.
    pub async fn said_in_the_thread(&self, batch: i64) -> Vec<String> {
        let query = "select key from console_message where bot and thread = (
                 select message_id::bigint from card where batch_id = $1) order by 1";
        self.texts(query, batch).await
    }

    /// How many cards of a batch are at the console.
    pub async fn cards(&self, batch: i64) -> usize {
        let query = "select key from console_message where key = 'bot:card:' || $1::text";
        self.texts(query, batch).await.len()
    }

    /// As if so many workers had ended in the middle of the host's newest job.
    pub async fn taken_over(&self, host: &str, times: i32) {
        let query = "update job set takeovers = $2 where id = (
             select max(id) from job where host = $1)";
        sqlx::query(query).bind(host).bind(times).execute(&self.pool).await.unwrap();
    }

    /// The batch after this one and its card, once it waits for approval and its card is posted. Its
    /// number need not be the next: a process that dies before it commits has used one up.
    pub async fn card_after(&self, batch: i64) -> Option<(i64, String)> {
        let query = "select id, message_id from card join batch on batch.id = batch_id
             where state = 'awaiting_approval' and message_id is not null and id > $1";
        sqlx::query_as(query).bind(batch).fetch_optional(&self.pool).await.unwrap()
    }

    /// The last thing that the bot has said at the console.
    pub async fn last_word(&self) -> String {
        let query = "select body from console_message where bot order by id desc limit 1";
        let said: Option<String> =
            sqlx::query_scalar(query).fetch_optional(&self.pool).await.unwrap();
        said.unwrap_or_default()
    }

    /// Number of the newest message at the console.
    pub async fn newest_message(&self) -> i64 {
        let query = "select coalesce(max(id), 0) from console_message";
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// What the bot has said at the console since a message and this person can see, except what
    /// batches and tickets report by themselves.
    pub async fn answers_since(&self, message: i64, login: &str) -> Vec<i64> {
        let query = "select id from console_message
             where id > $1 and bot and (only_to is null or only_to = $2)
               and key not like 'bot:batch:%' and key not like 'bot:ticket:%' order by id";
        let query = sqlx::query_scalar(query).bind(message).bind(login);
        query.fetch_all(&self.pool).await.unwrap()
    }

    /// Whether a batch's card shows its newest state.
    pub async fn card_is_current(&self, batch: i64) -> bool {
        let query = "select not exists
             (select from card where batch_id = $1 and rendered_version < version)";
        sqlx::query_scalar(query).bind(batch).fetch_one(&self.pool).await.unwrap()
    }

    /// Deliveries that cannot be read: what came, in order.
    pub async fn unreadable(&self) -> Vec<Value> {
        let query = "select body from inbox where last_error is not null order by id";
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap()
    }

    /// The notices, with all their words, in order.
    pub async fn notice_bodies(&self) -> Vec<Value> {
        let query = "select body from outbox where kind = 'notice' order by id";
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap()
    }

    /// The keys by which tickets are known.
    pub async fn ticket_keys(&self) -> Vec<String> {
        let query = "select jira_key from ticket where jira_key is not null order by id";
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap()
    }

    /// The audit of a batch as `who event`, in order.
    pub async fn audit(&self, batch: i64) -> String {
        let query = "select actor || ' ' || event from audit where batch_id = $1 order by id";
        self.texts(query, batch).await.join("\n")
    }

    /// Who submitted a batch, and by which way.
    pub async fn submitted_by(&self, batch: i64) -> (String, String) {
        let query = "select actor, via from audit
             where batch_id = $1 and event = 'batch.submitted'";
        sqlx::query_as(query).bind(batch).fetch_one(&self.pool).await.unwrap()
    }

    /// What was refused for good or could not be read, with the reason.
    pub async fn refused(&self) -> Vec<String> {
        let query = "select 'chat: ' || key || ': ' || last_error from outbox
                 where refused_at is not null
             union all select 'Jira: ' || fingerprint || ': ' || last_error from ticket
                 where refused_at is not null
             union all select 'delivery: ' || delivery || ': ' || last_error from inbox
                 where last_error is not null";
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap()
    }

    /// Everything that is decided: equal as long as no batch, job or decision was made or changed.
    /// When approvers were notified is left out: that happens when it happens.
    pub async fn decided(&self) -> String {
        let query = "select concat_ws('|',
            (select string_agg(
                (to_jsonb(batch) - '{approvers_notified_at,approvers_reminded_at}'::text[])::text,
                E'\\n' order by id) from batch),
            (select string_agg(job::text, E'\\n' order by id) from job),
            (select string_agg(decision::text, E'\\n' order by id) from decision))";
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// Everything that a worker writes, as one text.
    pub async fn written_by_workers(&self) -> String {
        let query = "select concat(
             (select json_agg(j order by id) from job j), (select json_agg(a order by id) from attempt a),
             (select json_agg(b order by id) from batch b), (select count(*) from audit),
             (select json_agg(t order by id) from ticket t), (select count(*) from console_message))";
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// Whether the chain of the audit is whole.
    pub async fn check_audit(&self) {
        let mut conn = self.pool.acquire().await.unwrap();
        let report = store::audit::verify(&mut conn, None, None).await.unwrap();
        assert_eq!(report.broken, None, "the audit");
    }
}
