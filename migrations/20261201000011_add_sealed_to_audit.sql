-- The order of the audit is given after the commit (audit_seal.position), so that it survives dump and
-- restore: numbers of transactions begin anew in another server. A column named position would be
-- ambiguous in a query of the release before.
alter table audit add column sealed boolean not null default false;
comment on column audit.sealed is
    'Set by the task audit_seal when the row has its position, never taken back.';
create index audit_unsealed on audit (id) where not sealed;
comment on column audit.xid is
    'The transaction that wrote it. Read by releases before audit.sealed alone; a later migration '
    'drops it, with its index.';
comment on column audit_seal.position is
    'From 1, without gaps: the order of the audit, by which whatever reads it goes on.';

create function refuse_change_but_sealing() returns trigger language plpgsql as $$
begin
    old.sealed := old.sealed or new.sealed;
    if old is distinct from new then
        raise exception '% is append-only', tg_table_name;
    end if;
    return new;
end
$$;
comment on function refuse_change_but_sealing is
    'Refuses every change of a row, but for noting that it was sealed.';
drop trigger audit_append_only on audit;
create trigger audit_append_only before delete or truncate on audit
    for each statement execute function refuse_change();
create trigger audit_only_sealed before update on audit
    for each row execute function refuse_change_but_sealing();

alter table app_home add column rendered_position bigint not null default -1;
comment on column app_home.rendered_position is
    'Position in the audit up to which the page shows everything; -1: it must be rendered in any '
    'case.';
comment on column app_home.rendered_audit_id is
    'Read by releases before app_home.rendered_position alone; a later migration drops it.';
