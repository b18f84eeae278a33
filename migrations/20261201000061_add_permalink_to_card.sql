-- The address that shows a card is asked of its platform once, when it was posted.
alter table card add column permalink text;
comment on column card.permalink is
    'Address that shows the message; null: the platform has none, or has not given it yet.';
