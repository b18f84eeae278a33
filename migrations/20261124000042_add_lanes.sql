-- A lane is where notices go one after the other: a thread, a place, a person. Notices of a crowded
-- lane are folded into one digest; they are sent when it is.

alter table outbox
    add column lane text,
    -- Never folded.
    add column alone boolean not null default false,
    add column folded_into bigint references outbox (id);

-- What waits now keeps its order. A process of the last version still writes rows without a lane
-- while it is replaced: those keep no order among themselves.
update outbox set lane = 'thread:' || batch_id
    where kind = 'notice' and batch_id is not null and sent_at is null and refused_at is null;

create index outbox_lane on outbox (lane, id)
    where sent_at is null and refused_at is null and folded_into is null;
create index outbox_lane_sent on outbox (lane, sent_at)
    where sent_at is not null and folded_into is null;
create index outbox_folded on outbox (folded_into) where folded_into is not null;
