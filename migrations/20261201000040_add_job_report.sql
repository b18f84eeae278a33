-- Lets a machine tell of an attempt while it works on itself, and wakes the job that waits for it.

create table report_token (
    id                  bigint generated always as identity primary key,
    attempt_id          bigint not null references attempt (id),
    token_hash          bytea not null
        constraint report_token_hash_is_sha256 check (octet_length(token_hash) = 32),
    revoked_by_takeover boolean not null default false,
    issued_at           timestamptz not null default now(),
    revoked_at          timestamptz,
    report_count        integer not null default 0,
    late_count          integer not null default 0,
    constraint report_token_is_unique unique (token_hash)
);
comment on table report_token is
    'What a machine that has claimed an attempt reports with. It is good for that attempt, until the '
    'attempt has its outcome.';
comment on column report_token.token_hash is 'SHA-256 of the token, which is nowhere but on the machine.';
comment on column report_token.revoked_by_takeover is
    'A worker that takes the job over revokes it: the machine has to begin anew.';
comment on column report_token.revoked_at is 'When it was revoked; null: it was not.';
comment on column report_token.report_count is 'Reports of the attempt, under this token or one before it.';
comment on column report_token.late_count is 'Reports that came when the attempt had ended.';
create unique index report_token_of_attempt on report_token (attempt_id) where revoked_at is null;

create table job_report (
    id          bigint generated always as identity primary key,
    attempt_id  bigint not null references attempt (id),
    key         text not null,
    kind        text not null,
    body        jsonb not null,
    at          timestamptz,
    received_at timestamptz not null default now(),
    constraint job_report_key_is_unique unique (attempt_id, key)
);
comment on table job_report is 'What machines and outside services have told of an attempt.';
comment on column job_report.key is 'Chosen by who reports: the same report sent twice is one.';
comment on column job_report.kind is
    'A word. failed: the machine has failed. progress: how far it is, which wakes no job.';
comment on column job_report.at is 'When it happened, by the clock of who reports; null: not said.';
create index job_report_of_progress on job_report (received_at) where kind = 'progress';
create index job_report_by_kind on job_report (attempt_id, kind, id desc) where kind <> 'progress';

alter table job
    add column news integer not null default 0,
    add column progress_percent smallint,
    add column progress_phase text,
    add constraint job_progress_is_a_percentage check (progress_percent between 0 and 100);
comment on column job.news is
    'Counts what happens to it from outside that whoever works on it must see before it is parked: '
    'reports, and stops of its batch.';
comment on column job.progress_percent is
    'How far its machine says that it is with the step under way; null: it has not said.';
comment on column job.progress_phase is 'What its machine says that it does; null: it has not said.';
