-- What the last complete round of sealing has seen. A row of a transaction that had ended before it
-- and that it left out was not there then: it was put there afterwards, under an older number.
create table audit_round (
    only_one boolean primary key default true constraint audit_round_only_one check (only_one),
    position bigint not null,
    head     bytea not null,
    seen_to  xid8 not null,
    server   text not null,
    mac      bytea not null
);
comment on table audit_round is
    'The last complete round of the task audit_seal: all that is needed to find rows that were removed '
    'from the end of the chain, or slipped in before it.';
comment on column audit_round.position is 'How many rows were sealed, that is the last position.';
comment on column audit_round.head is 'The last seal.';
comment on column audit_round.seen_to is
    'Every transaction with a smaller number had ended, and its rows were sealed.';
comment on column audit_round.server is
    'Identifier of the server whose numbers of transactions these are: another one, as after a restore, '
    'counts anew.';
comment on column audit_round.mac is
    'Over the other columns, with the key of the audit; without a key it proves nothing.';
comment on column audit.xid is 'The transaction that wrote it; see audit_round.seen_to.';
