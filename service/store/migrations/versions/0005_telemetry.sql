-- What operators watch: the trace that each dictation belongs to, and how many streams are open.

ALTER TABLE sessions ADD COLUMN traceparent text;  -- of the create call (W3C Trace Context); NULL: not traced

CREATE INDEX streams_held ON streams (lease_until) WHERE lease IS NOT NULL;
