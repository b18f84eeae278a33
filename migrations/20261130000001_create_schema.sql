-- The schema. Times are the database's own, so that replicas cannot disagree about them; what is
-- counted in another clock says so. Migrations after this one expand first and contract later.

-- Batches: what is asked for, which hosts it is for, what was tried on them, who decided.

create table batch (
    id               bigint generated always as identity primary key,
    action           text not null,
    risk             text not null
        constraint batch_risk_is_known check (risk in ('harmless', 'disruptive', 'destructive')),
    plan             jsonb not null,
    digest           bytea not null
        constraint batch_digest_is_sha256 check (octet_length(digest) = 32),
    plan_changed_at  timestamptz,
    submitter        text not null,
    reason           text,
    origin           jsonb not null
        constraint batch_origin_is_known check (origin ->> 'origin' in (
            'chat', 'api', 'command_line', 'schedule', 'reclaim')),
    platform         text,
    channel          text,
    constraint batch_announced_in_a_channel check ((platform is null) = (channel is null)),
    retry_of         bigint references batch (id),
    state            text not null
        constraint batch_state_is_known check (state in (
            'checking', 'awaiting_approval', 'scheduled', 'running', 'paused',
            'succeeded', 'partly_failed', 'failed',
            'refused', 'rejected', 'expired', 'cancelled')),
    state_reason     text,
    requirements     jsonb not null,
    wave             integer not null default 0,
    not_before       timestamptz,
    needs_reconcile  boolean not null default true,
    blocked_by       text,
    pause_count      integer not null default 0,
    failures_excused integer not null default 0,
    failed_previously_excused boolean not null default false,
    approvers_notified_at     timestamptz,
    approvers_reminded_at     timestamptz,
    failure_notice_count      integer not null default 0,
    next_failure_notice_at    timestamptz not null default '-infinity',
    created_at       timestamptz not null default now(),
    expires_at       timestamptz,
    started_at       timestamptz,
    finished_at      timestamptz
);
comment on table batch is
    'One action on one set of hosts, asked for by one person. Rows are never deleted.';
comment on column batch.plan is
    'What was resolved when it was asked for: parameters, steps, checks, rollout. Never changed.';
comment on column batch.digest is
    'SHA-256 over plan and hosts. Approvals are for a digest; it changes when hosts are taken out '
    'before the approval.';
comment on column batch.plan_changed_at is
    'When the digest changed last; null: never. What people said of the batch before then was '
    'about another plan.';
comment on column batch.submitter is 'Directory login.';
comment on column batch.reason is 'What the submitter gave as the reason; null: nothing.';
comment on column batch.origin is
    'By which way it was asked for, with what names it: channel, token, machine.';
comment on column batch.platform is
    'Where it is announced, with channel: its card and the thread below live there. Null: nowhere; '
    'it can be asked about by its number.';
comment on column batch.channel is 'In the platform''s words; null where platform is.';
comment on column batch.retry_of is
    'The batch whose failed hosts it takes up again; null: it is no retry.';
comment on column batch.state_reason is
    'Why it is in this state, for people; null: there is nothing to add.';
comment on column batch.requirements is
    'One entry for each owner group: who may approve its hosts and how many must.';
comment on column batch.wave is
    'Index of the last wave whose hosts may start, from 0. Raised by the task rollout.';
comment on column batch.not_before is
    'While it is scheduled: when it starts. While it runs: when the open wave may begin. Null: '
    'nothing waits for the clock.';
comment on column batch.needs_reconcile is
    'Something changed since the task rollout looked last. Set by whoever changes batch or jobs, '
    'cleared by that task under the row lock.';
comment on column batch.blocked_by is
    'The cap that keeps hosts from starting although it is their turn, for people; null: none. '
    'Set by the task rollout.';
comment on column batch.pause_count is
    'How often it was paused. A button that resumes carries it: it goes on from the pause that '
    'people saw, not from a later one.';
comment on column batch.failures_excused is
    'Failed hosts that somebody accepted by resuming; they no longer count for the failure '
    'budget.';
comment on column batch.failed_previously_excused is
    'Somebody resumed although hosts had failed in the batch before (job.failed_previously): '
    'these no longer count for the failure budget.';
comment on column batch.approvers_notified_at is
    'When its approvers were told, by the task approvers; null: not yet, or nobody has to '
    'approve.';
comment on column batch.approvers_reminded_at is
    'When they were reminded that it expires soon; null: not yet.';
comment on column batch.failure_notice_count is
    'Notices about failures while it goes on; limited, because its end tells all. Raised by the '
    'task failures.';
comment on column batch.next_failure_notice_at is 'The earliest time of the next one.';
comment on column batch.expires_at is
    'When an approval comes too late; null: none was asked for. The task expiry ends what is '
    'late.';
comment on column batch.started_at is 'When the first wave was opened; null: not yet, or never.';
comment on column batch.finished_at is 'When it reached a final state; null: it goes on.';

create index batch_to_reconcile on batch (id)
    where (needs_reconcile or blocked_by is not null)
      and state in ('scheduled', 'running', 'paused', 'cancelled');
create index batch_to_begin on batch (not_before)
    where not_before is not null and state in ('scheduled', 'running');
create index batch_to_expire on batch (expires_at) where state = 'awaiting_approval';
create index batch_to_notify_approvers on batch (id)
    where state = 'awaiting_approval' and approvers_reminded_at is null;
create index batch_running on batch (id) where state = 'running';
create index batch_under_way on batch (id) where state in ('running', 'paused');
create index batch_by_submitter on batch (submitter, id desc);

create table job (
    id               bigint generated always as identity primary key,
    batch_id         bigint not null references batch (id),
    host             text not null,
    owner            text not null,
    datacenter       text not null,
    rack             text not null,
    sku              text not null,
    bmc_address      text not null,
    bmc_credentials  text not null,
    wave             integer not null,
    state            text not null
        constraint job_state_is_known check (state in (
            'pending', 'queued', 'running', 'succeeded', 'failed',
            'quarantined', 'cancelled', 'skipped')),
    step             integer not null default 0,
    epoch            bigint not null default 0,
    worker           text,
    lease_until      timestamptz,
    error_kind       text,
    error            text,
    bmc_events       text[],
    maybe_down       boolean not null default false,
    failed_previously boolean not null default false,
    failure_notified boolean not null default false,
    started_at       timestamptz,
    ended_at         timestamptz
);
comment on table job is
    'One host of a batch. A row whose state is pending, queued, running or quarantined is the '
    'claim on its host.';
comment on column job.owner is
    'With datacenter, rack, sku and the BMC: what the inventory said when the batch was asked '
    'for.';
comment on column job.bmc_address is
    'Where the BMC was then: the people who approved meant that machine. A host whose BMC is '
    'elsewhere by now is not touched.';
comment on column job.bmc_credentials is 'Name of the credentials in the configuration, no secret.';
comment on column job.wave is
    'Index of its wave, from 0. It may start when batch.wave has come so far.';
comment on column job.state is
    'Pending: its turn has not come. Queued: a worker may take it. Skipped: taken out of the '
    'batch. Only domain::job says which changes there are.';
comment on column job.step is 'Index of the step to do next, from 0.';
comment on column job.epoch is
    'Number of its leases so far. What carries an older epoch is not written.';
comment on column job.worker is 'The process that has it; null: none.';
comment on column job.lease_until is
    'Until when the worker has it; afterwards any other may take it. Extended by the worker; '
    'null: nobody has it.';
comment on column job.error_kind is
    'Stable name of what went wrong, such as bmc_unreachable; null: nothing. With state skipped: '
    'why the host did not pass the checks.';
comment on column job.error is 'The error in words; null where error_kind is.';
comment on column job.bmc_events is
    'Last entries of the BMC''s own log when it failed, newest last; null: none could be read, or '
    'nobody asked.';
comment on column job.maybe_down is
    'It failed in the middle, and its host may be down since: it counts for the caps until the '
    'host succeeds at something that is not harmless, or somebody releases it.';
comment on column job.failed_previously is
    'The host had failed in the batch before this one when this one started: it counts for the '
    'failure budget until it is done. Set by the task rollout.';
comment on column job.failure_notified is
    'A notice in the thread has told of its failure. Set by the task failures.';
comment on column job.started_at is
    'When a worker took it first; null again when it was taken back untouched.';
comment on column job.ended_at is
    'When its work was over; null: it is not. A quarantined job has ended, and holds its host.';

-- The database itself cannot hold an overlap (domain::job::JobState::holds_claim).
create unique index job_exclusive_claim on job (host)
    where state in ('pending', 'queued', 'running', 'quarantined');
create index job_by_batch on job (batch_id, state);
create index job_by_host on job (host, id desc);
-- A lease takes the next jobs of each running batch, however many more are queued.
create index job_queued on job (batch_id, id) where state = 'queued';
create index job_leased on job (lease_until) where state = 'running';
create index job_maybe_down on job (host) where maybe_down;

create table attempt (
    id         bigint generated always as identity primary key,
    job_id     bigint not null references job (id),
    step       integer not null,
    try        integer not null,
    epoch      bigint not null,
    worker     text not null,
    intent_at  timestamptz not null default now(),
    outcome    text
        constraint attempt_outcome_is_known check (outcome in ('succeeded', 'failed', 'unknown')),
    outcome_at timestamptz,
    acted      boolean,
    error_kind text,
    error      text,
    constraint attempt_outcome_is_complete
        check ((outcome is null) = (outcome_at is null) and (outcome is null) = (acted is null))
);
comment on table attempt is
    'The journal: one try of one step on one host. The intent is written before the act, the '
    'outcome after it.';
comment on column attempt.try is 'From 1 for each step.';
comment on column attempt.epoch is 'Of the lease under which it was begun.';
comment on column attempt.outcome is
    'Null: under way, or its worker died in it. Whoever takes the job next looks at the host and '
    'writes it.';
comment on column attempt.outcome_at is 'When the outcome was written; null while there is none.';
comment on column attempt.acted is
    'Whether the host was, or may have been, touched by the job so far; null while there is no '
    'outcome.';
comment on column attempt.error_kind is 'As job.error_kind; null: it succeeded, or has no outcome.';
comment on column attempt.error is 'The error in words; null where error_kind is.';

create unique index attempt_one_open_per_job on attempt (job_id) where outcome is null;
create index attempt_by_job on attempt (job_id, id);

create table decision (
    id           bigint generated always as identity primary key,
    batch_id     bigint not null references batch (id),
    digest       bytea not null,
    login        text not null,
    verdict      text not null
        constraint decision_verdict_is_known check (verdict in ('approve', 'reject')),
    owners       text[] not null,
    via          text not null,
    reason       text,
    decided_at   timestamptz not null default now(),
    withdrawn_at timestamptz
);
comment on table decision is 'Approvals and rejections, each for one digest of one batch.';
comment on column decision.digest is
    'batch.digest as the person saw it; only decisions for the digest that stands count.';
comment on column decision.owners is
    'Owner groups whose requirement it counted for when it was given.';
comment on column decision.via is 'Platform and channel through which it came, for people.';
comment on column decision.reason is 'What the person gave as the reason; null: nothing.';
comment on column decision.withdrawn_at is 'When the person took it back; null: it stands.';

create unique index decision_one_standing_per_person on decision (batch_id, digest, login)
    where withdrawn_at is null;

-- What the planner would learn of these columns holds for a moment only: that no job is at work,
-- say, and then it visits every job that is, once for each row that is written. Without statistics
-- it supposes a few in a thousand, and that serves at any time.
alter table job alter column state set statistics 0;
alter table job alter column lease_until set statistics 0;
alter table attempt alter column outcome set statistics 0;

-- Chat: what comes in, what goes out, and what people see of it.

create table inbox (
    id          bigint generated always as identity primary key,
    platform    text not null,
    sender      text not null,
    delivery    text not null,
    body        jsonb not null,
    received_at timestamptz not null default now(),
    due_at      timestamptz not null default now(),
    done_at     timestamptz,
    attempts    integer not null default 0,
    last_error  text,
    constraint inbox_delivery_once unique (platform, delivery)
);
comment on table inbox is
    'Deliveries from chat platforms, stored before they are acknowledged. Kept for a while to '
    'recognise repeats; the task retention deletes them.';
comment on column inbox.sender is
    'The deliveries of one sender are worked on in the order in which they came.';
comment on column inbox.delivery is
    'The platform''s id of the delivery, or one made of what identifies it.';
comment on column inbox.body is
    'As it came. An address for its answer (payload.response_url) is a secret and is removed when '
    'no answer can follow.';
comment on column inbox.due_at is 'Nobody takes it before then.';
comment on column inbox.done_at is
    'When its effects were committed, or it was given up with last_error; null: it waits.';
comment on column inbox.last_error is
    'Why the last try failed, or why it was given up; null: it did not fail.';

create index inbox_waiting on inbox (id) where done_at is null;
create index inbox_waiting_by_sender on inbox (platform, sender, id) where done_at is null;

create table outbox (
    id           bigint generated always as identity primary key,
    kind         text not null
        constraint outbox_kind_is_known check (kind in ('notice', 'ticket')),
    key          text not null constraint outbox_key_once unique,
    batch_id     bigint references batch (id),
    audience     jsonb,
    body         jsonb not null,
    ordering_key text,
    no_digest    boolean not null default false,
    digest_id    bigint references outbox (id),
    created_at   timestamptz not null default now(),
    due_at       timestamptz not null default now(),
    attempts     integer not null default 0,
    last_error   text,
    sent_at      timestamptz,
    refused_at   timestamptz,
    constraint outbox_notice_has_audience check (kind <> 'notice' or audience is not null),
    constraint outbox_ticket_has_batch check (kind <> 'ticket' or batch_id is not null)
);
comment on table outbox is
    'What must leave, written in the transaction that it tells of: notices for people, and kinds '
    'of failures that want a ticket. The task retention deletes what was sent long ago.';
comment on column outbox.key is
    'Names what is sent: the same is not queued twice, and the other side can recognise a repeat.';
comment on column outbox.batch_id is
    'The batch in whose thread the notice goes, or whose failures the ticket is for; null: a '
    'notice that goes elsewhere.';
comment on column outbox.audience is 'Who is to see the notice; null for a ticket.';
comment on column outbox.ordering_key is
    'Notices of one key go out one after the other: a thread, a place, a person. Null: it waits '
    'for nothing.';
comment on column outbox.no_digest is
    'It is never put into a digest: it is one itself, or its reader wants none.';
comment on column outbox.digest_id is
    'The digest that it was put into because too many waited; it counts as sent when that is. '
    'Null: none.';
comment on column outbox.due_at is 'The relay does not try it before then.';
comment on column outbox.last_error is 'Why the last try failed; null: it did not.';
comment on column outbox.sent_at is 'When the other side had it; null: not yet.';
comment on column outbox.refused_at is
    'When the other side refused it for good: an operator can see it, nobody waits for it. Null: '
    'it was not refused.';

create index outbox_waiting on outbox (kind, id) where sent_at is null and refused_at is null;
create index outbox_waiting_by_ordering_key on outbox (ordering_key, id)
    where sent_at is null and refused_at is null and digest_id is null;
create index outbox_sent_by_ordering_key on outbox (ordering_key, sent_at)
    where sent_at is not null and digest_id is null;
create index outbox_by_digest on outbox (digest_id) where digest_id is not null;

create table outgoing_post (
    platform   text not null,
    key        text not null,
    message_id text,
    started_at timestamptz not null default now(),
    primary key (platform, key)
);
comment on table outgoing_post is
    'Messages on their way to a platform that cannot recognise a key of ours: written before the '
    'post. The task retention deletes old ones.';
comment on column outgoing_post.key is 'Names the message.';
comment on column outgoing_post.message_id is
    'The platform''s id of the message; null: it was begun, and its outcome is not known. The '
    'platform is asked before it is posted again.';

create table card (
    batch_id         bigint primary key references batch (id),
    message_id       text,
    version          bigint not null default 1,
    rendered_version bigint not null default 0,
    due_at           timestamptz not null default now(),
    attempts         integer not null default 0,
    last_error       text,
    refused_at       timestamptz
);
comment on table card is
    'The message in chat that shows a batch: a projection, rendered again while rendered_version '
    '< version.';
comment on column card.message_id is
    'The platform''s id of the message; null: it was not posted yet.';
comment on column card.version is 'Raised with every change that the card should show.';
comment on column card.rendered_version is
    'The version that the platform shows. Written by the notice relay.';
comment on column card.due_at is 'The relay does not edit it before then.';
comment on column card.last_error is 'Why the last try failed; null: it did not.';
comment on column card.refused_at is 'The platform will never show it. Null: it was not refused.';

create index card_to_render on card (due_at)
    where rendered_version < version and refused_at is null;
create index card_by_message on card (message_id);

create table card_reaction (
    batch_id   bigint not null references batch (id),
    login      text not null,
    name       text not null,
    standing   boolean not null default true,
    changed_at timestamptz not null,
    primary key (batch_id, login, name)
);
comment on table card_reaction is
    'Reactions on cards that count as decisions. Who has several on a card may take one away.';
comment on column card_reaction.name is 'Of the emoji, as the platform calls it.';
comment on column card_reaction.standing is
    'False: it was taken away. The row stays, since a platform may deliver a reaction after its '
    'removal.';
comment on column card_reaction.changed_at is
    'By the platform''s clock, ours where it tells no time. What is older changes nothing.';

create table app_home (
    platform          text not null,
    platform_user_id  text not null,
    opened_at         timestamptz not null default now(),
    rendered_audit_id bigint not null default -1,
    digest            bytea,
    due_at            timestamptz not null default now(),
    attempts          integer not null default 0,
    last_error        text,
    primary key (platform, platform_user_id)
);
comment on table app_home is
    'A person''s own page on a platform: a projection, rendered again when the audit has grown '
    'since. Whose page it is, is asked each time.';
comment on column app_home.opened_at is
    'When the person looked at it last; it is kept up to date for a while after that.';
comment on column app_home.rendered_audit_id is
    'The newest row of the audit that the page shows; -1: it must be rendered in any case.';
comment on column app_home.digest is
    'Of what the platform shows, so that the same is not sent again; null: unknown.';
comment on column app_home.due_at is 'It is not rendered before then.';
comment on column app_home.last_error is 'Why the last try failed; null: it did not.';

create index app_home_to_render on app_home (platform, due_at);

create table draft (
    key        text primary key,
    login      text not null,
    body       jsonb not null,
    created_at timestamptz not null default now()
);
comment on table draft is
    'Forms that a person looked at and has not sent yet; deleted after a day.';
comment on column draft.login is 'The only person who may send it.';

create index draft_by_age on draft (created_at);

create table dedup_key (
    key     text primary key,
    seen_at timestamptz not null default now()
);
comment on table dedup_key is
    'What any replica saw a moment ago and must not act on again: replayed requests, double '
    'clicks. A task deletes old ones.';

create index dedup_key_by_age on dedup_key (seen_at);

-- People and channels: what platforms say about them, and what they prefer.

create table account (
    platform         text not null,
    platform_user_id text not null,
    email            text,
    checked_at       timestamptz not null default now(),
    primary key (platform, platform_user_id)
);
comment on table account is 'What a platform says about its users, believed for a while.';
comment on column account.email is
    'Only an address that the platform has verified, of a user that it vouches for as one of its '
    'own; null: it has none.';
comment on column account.checked_at is 'When the platform was asked.';

create table channel_access (
    platform   text not null,
    channel    text not null,
    closed     text,
    checked_at timestamptz not null default now(),
    primary key (platform, channel)
);
comment on table channel_access is
    'Whether a platform shows in a channel what Metalbot says there, believed for a while.';
comment on column channel_access.closed is
    'What has to be done first, for people; null: it is shown.';

create table preference (
    login     text primary key,
    complete  text not null
        constraint preference_complete_is_known check (complete in ('dm', 'thread', 'off')),
    failures  text not null
        constraint preference_failures_is_known check (failures in ('dm', 'thread', 'off')),
    waves     text not null
        constraint preference_waves_is_known check (waves in ('dm', 'thread', 'off')),
    approvals text not null
        constraint preference_approvals_is_known check (approvals in ('dm', 'thread', 'off')),
    digest    boolean not null
);
comment on table preference is
    'What a person wants to be told of and where; who has no row gets the defaults of '
    'domain::notify.';
comment on column preference.digest is 'Whether many direct messages at once may become one.';

create index preference_approvals_by_dm on preference (login) where approvals = 'dm';

create table channel_setting (
    platform  text not null,
    channel   text not null,
    actions   text[] constraint channel_setting_actions_not_empty check (cardinality(actions) > 0),
    verbosity text not null
        constraint channel_setting_verbosity_is_known
        check (verbosity in ('all', 'failures', 'summary')),
    primary key (platform, channel)
);
comment on table channel_setting is
    'What is told in a channel; one without a row gets the defaults of domain::notify.';
comment on column channel_setting.actions is 'Actions whose course is told in full; null: all.';

-- The console: its channels and its sessions.

create table console_message (
    id         bigint generated always as identity primary key,
    rev        bigint not null default 1,
    channel    text not null,
    thread     bigint references console_message (id),
    author     text not null,
    bot        boolean not null,
    body       text not null,
    card       jsonb,
    only_to    text,
    key        text not null constraint console_message_key_once unique,
    created_at timestamptz not null default now(),
    edited_at  timestamptz,
    constraint console_message_card_is_of_bot check (bot or card is null)
);
comment on table console_message is
    'Messages of the console''s own channels. Every change raises rev and is announced by NOTIFY '
    'console_message with the id.';
comment on column console_message.rev is
    'Raised by whatever changes how the message looks: its text, its reactions, its number of '
    'replies.';
comment on column console_message.thread is
    'The message at the head of its thread; null: it stands in the channel.';
comment on column console_message.author is 'Directory login of a person, or the bot''s name.';
comment on column console_message.body is 'Plain text of a person; Markdown of the bot.';
comment on column console_message.card is
    'Tone, progress and buttons of a message of the bot; null: it has none.';
comment on column console_message.only_to is
    'Login of the one person who may see it; null: everybody.';
comment on column console_message.key is 'Names the message: the same is not posted twice.';
comment on column console_message.edited_at is 'Null: never edited.';

create index console_message_heads on console_message (channel, id) where thread is null;
create index console_message_replies on console_message (thread, id) where thread is not null;

create table console_reaction (
    message    bigint not null references console_message (id),
    login      text not null,
    name       text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (message, name, login)
);
comment on table console_reaction is 'Reactions on messages of the console.';
comment on column console_reaction.name is 'Of the emoji.';

create table session (
    token_hash bytea primary key
        constraint session_token_hash_is_sha256 check (length(token_hash) = 32),
    login      text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);
comment on table session is 'Who is signed in to the console.';
comment on column session.token_hash is
    'SHA-256 of the cookie: a copy of this table opens nothing.';

create index session_by_expiry on session (expires_at);

create table login_attempt (
    key           text primary key,
    failures      integer not null,
    last_at       timestamptz not null default now(),
    blocked_until timestamptz not null default '-infinity'
);
comment on table login_attempt is
    'Sign-ins that failed, counted by login and by address; an hour of quiet forgets them.';
comment on column login_attempt.key is '`login:<SHA-256>` or `addr:<address>`.';
comment on column login_attempt.blocked_until is 'No attempt is looked at before then.';

create index login_attempt_by_age on login_attempt (last_at);

-- Triage tickets: the truth about which exist and what they are for.

create table ticket (
    id                 bigint generated always as identity primary key,
    fingerprint        text not null constraint ticket_fingerprint_once unique,
    batch_id           bigint not null references batch (id),
    error_kind         text not null,
    target             jsonb not null,
    rule               text not null,
    signature          text not null,
    shared             jsonb,
    created_at         timestamptz not null default now(),
    last_failed_at     timestamptz not null default now(),
    version            bigint not null default 1,
    rendered_version   bigint not null default 0,
    due_at             timestamptz not null default now(),
    attempts           integer not null default 0,
    last_error         text,
    refused_at         timestamptz,
    create_sent_at     timestamptz,
    rejected_fields    text,
    unknown_accounts   text[] not null default '{}',
    watchers           text[] not null default '{}',
    pending_transition text
        constraint ticket_pending_transition_is_known
        check (pending_transition in ('open', 'closed')),
    last_comment       text,
    jira_key           text,
    url                text,
    status             text,
    resolution         text,
    assignee           text,
    closed_as          text
        constraint ticket_closed_as_is_known check (closed_as in ('done', 'declined', 'gone')),
    closed_at          timestamptz,
    polled_at          timestamptz not null default '-infinity',
    verify_at          timestamptz,
    constraint ticket_closed_at_is_complete check ((closed_as is null) = (closed_at is null)),
    constraint ticket_filed_is_complete check ((jira_key is null) = (url is null))
);
comment on table ticket is
    'A ticket for one cause: hosts of any number of batches, in any Jira. It is here before Jira '
    'has it, and is a projection like a card: written again while rendered_version < version.';
comment on column ticket.fingerprint is
    'Names it in Jira, too, as a label: by it a ticket is found whose create was sent and never '
    'answered.';
comment on column ticket.batch_id is 'The first batch that failed for it.';
comment on column ticket.target is
    'Where it goes and with which fields (domain::triage::Target), from the rule that matched.';
comment on column ticket.rule is 'The rule of the configuration that chose the target, for people.';
comment on column ticket.signature is 'Equal for failures of one kind (ticket::signature).';
comment on column ticket.shared is
    'What the hosts have in common (domain::common_cause::Shared); null: nothing is known.';
comment on column ticket.last_failed_at is 'When a host was put onto it last.';
comment on column ticket.version is 'Raised with every change that Jira should show.';
comment on column ticket.rendered_version is
    'The version that Jira shows; 0: none. Written by the ticket relay.';
comment on column ticket.due_at is 'The ticket relay does not try it before then.';
comment on column ticket.last_error is 'Why the last try failed; null: it did not.';
comment on column ticket.refused_at is
    'When Jira refused it first; it is tried again from time to time. Null: it is not refused.';
comment on column ticket.create_sent_at is
    'When a create was sent whose outcome was never seen; null: there is no doubt.';
comment on column ticket.rejected_fields is
    'What Jira did not take of it, for people; null: it took all.';
comment on column ticket.unknown_accounts is
    'Directory logins of people concerned whom Jira does not know.';
comment on column ticket.watchers is 'Accounts that watch it because we said so.';
comment on column ticket.pending_transition is
    'Where the ticket relay is to move it in its workflow; null: nowhere.';
comment on column ticket.last_comment is
    'Facts of the last comment: one that says the same is not made. Null: there was none.';
comment on column ticket.jira_key is 'Such as OPS-17; null: it is not filed yet.';
comment on column ticket.url is 'Of the ticket, for people; null: it is not filed yet.';
comment on column ticket.status is 'In Jira''s words, as polled last; null: not polled yet.';
comment on column ticket.resolution is 'In Jira''s words, as polled last; null: it has none.';
comment on column ticket.assignee is 'Whom Jira names, as polled last; null: nobody.';
comment on column ticket.closed_as is
    'done, declined (nobody will fix it) or gone (Jira has it no more, or not for us); null: it '
    'is open, as far as we know.';
comment on column ticket.closed_at is 'When that was seen; null while it is open.';
comment on column ticket.polled_at is
    'When Jira was asked about it last; -infinity: as soon as possible.';
comment on column ticket.verify_at is
    'When it was seen to be done: its hosts are to be looked at, and people to be told what was '
    'found. Null: there is nothing to verify.';

create index ticket_by_signature on ticket (signature, id desc);
create index ticket_to_write on ticket (due_at)
    where jira_key is null or rendered_version < version or pending_transition is not null;
create index ticket_to_poll on ticket (polled_at) where jira_key is not null;
create index ticket_to_verify on ticket (verify_at) where verify_at is not null;
create index ticket_by_batch on ticket (batch_id);

create table ticket_host (
    ticket_id   bigint not null references ticket (id),
    job_id      bigint not null references job (id),
    batch_id    bigint not null references batch (id),
    source      jsonb not null,
    error_kind  text not null,
    error       text not null,
    resolved_at timestamptz,
    primary key (ticket_id, job_id)
);
comment on table ticket_host is 'The hosts of a ticket, each as it failed in one batch.';
comment on column ticket_host.source is
    'A step''s `run` and title, or the name of a check (domain::triage::Source).';
comment on column ticket_host.resolved_at is
    'When it was seen that the same action has succeeded on the host since; null: it has not.';

create index ticket_host_by_batch on ticket_host (batch_id);
create index ticket_host_unresolved on ticket_host (job_id) where resolved_at is null;

create table ticket_comment (
    id         bigint generated always as identity primary key,
    ticket_id  bigint not null references ticket (id),
    body       jsonb not null,
    created_at timestamptz not null default now(),
    tried_at   timestamptz,
    sent_at    timestamptz
);
comment on table ticket_comment is
    'Comments on tickets, in the order in which they are to be made.';
comment on column ticket_comment.body is
    'What it is about (ticket::comment::Comment), not its wording.';
comment on column ticket_comment.tried_at is
    'When it was sent; with sent_at null its outcome was never seen, and it is not repeated.';
comment on column ticket_comment.sent_at is 'When it was made, or given up; null: it waits.';

create index ticket_comment_waiting on ticket_comment (ticket_id, id) where sent_at is null;

create table host_wont_fix (
    host      text primary key,
    ticket_id bigint not null references ticket (id),
    marked_at timestamptz not null default now()
);
comment on table host_wont_fix is
    'Hosts whose ticket was closed as one that nobody will fix. The row goes when the host '
    'succeeds at something, or the ticket is opened again.';

-- The fleet.

create table bmc_identity (
    host     text primary key,
    vendor   text not null default '',
    firmware text not null default '',
    asked_at timestamptz not null default now()
);
comment on table bmc_identity is
    'Who each BMC says it is, from the last time that it was asked and answered: one that is '
    'silent now still has a vendor and a firmware, and a ticket may be about these.';
comment on column bmc_identity.vendor is 'With firmware: empty when it never answered.';
comment on column bmc_identity.asked_at is 'When it was asked last, whether it answered or not.';

-- The service itself.

create table task_lease (
    name        text primary key,
    owner       text,
    epoch       bigint not null default 0,
    lease_until timestamptz not null default '-infinity'
);
comment on table task_lease is 'One row for each background task: which process runs it now.';
comment on column task_lease.owner is 'The process that ran it last; null: none ever did.';
comment on column task_lease.epoch is 'Raised with every new owner.';
comment on column task_lease.lease_until is
    'Until when it is its owner''s; afterwards any process may take it.';

create table audit (
    id       bigint generated always as identity primary key,
    at       timestamptz not null default now(),
    actor    text not null,
    via      text not null,
    event    text not null,
    batch_id bigint,
    detail   jsonb not null,
    xid      xid8 not null default pg_current_xact_id()
);
comment on table audit is
    'Append-only: who did what, when, from where. Written in the transaction that it tells of.';
comment on column audit.actor is
    'Directory login of a person, or the name of what acted by itself.';
comment on column audit.via is
    'Platform and channel through which it was asked for, the worker, or the task.';
comment on column audit.batch_id is 'Null: it is about no batch.';
comment on column audit.xid is
    'The transaction that wrote it, for the order of sealing: see store::audit::seal.';

create index audit_to_seal on audit (xid, id);
create index audit_by_batch on audit (batch_id, id);

create table audit_seal (
    position bigint primary key,
    audit_id bigint not null references audit (id) constraint audit_seal_row_once unique,
    seal     bytea not null constraint audit_seal_is_sha256 check (octet_length(seal) = 32)
);
comment on table audit_seal is
    'Append-only: the hash chain over the audit, written by the task audit_seal after the commit.';
comment on column audit_seal.position is 'From 1, without gaps.';
comment on column audit_seal.seal is
    'SHA-256 over the seal before it and the row''s canonical JSON.';

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name;
end
$$;
comment on function refuse_change is 'Refuses every change of a table that is append-only.';
create trigger audit_append_only before update or delete or truncate on audit
    for each statement execute function refuse_change();
create trigger audit_seal_append_only before update or delete or truncate on audit_seal
    for each statement execute function refuse_change();
