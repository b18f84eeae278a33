-- The order of the audit is given after the commit, so that it survives dump and restore; numbers of
-- transactions begin anew in another cluster.
alter table audit add column position bigint;
comment on column audit.position is
    'Its place in the order, given by the task audit_seal after the commit, never changed then. '
    'Null: not yet.';
create unique index audit_by_position on audit (position);
create index audit_without_position on audit (id) where position is null;
comment on column audit.xid is
    'The transaction that wrote it. Read by releases before audit.position alone; a later migration '
    'drops it, with its index.';

create function refuse_change_but_position() returns trigger language plpgsql as $$
begin
    if old.position is null then
        old.position := new.position;
    end if;
    if old is distinct from new then
        raise exception '% is append-only', tg_table_name;
    end if;
    return new;
end
$$;
comment on function refuse_change_but_position is
    'Refuses every change of a row, but for giving it its position once.';
drop trigger audit_append_only on audit;
create trigger audit_append_only before delete or truncate on audit
    for each statement execute function refuse_change();
create trigger audit_position_only before update on audit
    for each row execute function refuse_change_but_position();

alter table app_home add column rendered_position bigint not null default -1;
comment on column app_home.rendered_position is
    'Position in the audit up to which the page shows everything; -1: it must be rendered in any '
    'case.';
comment on column app_home.rendered_audit_id is
    'Read by releases before app_home.rendered_position alone; a later migration drops it.';
