-- Lets a release work beside a newer one: what only expands the schema keeps nobody out.
create table schema_range (
    is_only_row   boolean primary key default true
        constraint schema_range_has_one_row check (is_only_row),
    readable_from bigint not null
);
comment on table schema_range is
    'Which releases can work with this schema. One row; a process looks at it when it starts.';
comment on column schema_range.readable_from is
    'Number of the newest migration that a release must know to work with this schema. A migration '
    'that takes away what older releases use raises it to its own number.';

insert into schema_range (readable_from) values (20261201000020);
