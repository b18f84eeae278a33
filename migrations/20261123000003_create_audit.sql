-- Append-only: who did what, when, from where. A task seals the rows into a hash chain.

create table audit (
    id       bigint generated always as identity primary key,
    at       timestamptz not null default now(),
    actor    text not null,
    via      text not null,
    event    text not null,
    batch_id bigint,
    detail   jsonb not null,
    -- The order of sealing: see store::audit::seal.
    xid      xid8 not null default pg_current_xact_id()
);
create index audit_sealing on audit (xid, id);
create index audit_batch on audit (batch_id, id);

create table audit_seal (
    position bigint primary key,
    audit_id bigint not null unique references audit (id),
    -- SHA-256 over the seal before it and the row.
    seal     bytea not null check (octet_length(seal) = 32)
);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name;
end
$$;
create trigger audit_append_only before update or delete or truncate on audit
    for each statement execute function refuse_change();
create trigger audit_seal_append_only before update or delete or truncate on audit_seal
    for each statement execute function refuse_change();
