-- Reads a session without taking it.
--
-- KEYS[1] session (save.lua describes it)
-- Returns { record }, or {}: there is none.
return { string.match(redis.call('GET', KEYS[1]) or '', '^%x+ %d+\n(.*)$') }
