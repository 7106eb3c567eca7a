-- Stores sessions of one node and partition, each unless another holder has claimed it.
--
-- KEYS[1] nodes    sorted set: incarnation of a node -> end of its lease (ms, Redis' clock)
-- KEYS[2] held     set of the sessions that this incarnation holds: "<session> <holder>"
-- KEYS[3..] sessions, texts: "<holder> <number> <incarnation>", then a line with the record. The
--                  incarnation of a session that was released is '-'.
-- ARGV[1] incarnation  [2] window (ms)  [3] ceiling (ms)
-- Then per session: its id, holder, number of this write among the holder's, record, and '' while
-- it is held, or the ms that are left of it after its release. A record of '' is the one that is
-- there, if any: whether the holder's claim was done is unknown.
-- A held session has the ceiling as its expiry. The lease decides when it ends: reap.lua gives it
-- the window. Without a lease it has the window from the start.
-- Returns { 1 when the incarnation has a lease, otherwise 0; per session 1, or 0: another has it }.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local alive = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) > now
local reply = { alive and 1 or 0 }
for i = 3, #KEYS do
  local id, holder, number, record, left = unpack(ARGV, 5 * i - 11, 5 * i - 7)
  local entry = id .. ' ' .. holder
  local value = redis.call('GET', KEYS[i]) or ''
  local had, last, kept = string.match(value, '^(%x+) (%d+) %S+\n(.*)$')
  reply[i - 1] = (not had or had == holder) and 1 or 0
  if reply[i - 1] == 0 then
    redis.call('SREM', KEYS[2], entry)
  -- A call that was delayed must not undo one that was sent after it.
  elseif had and tonumber(last) <= tonumber(number) or not had and record ~= '' then
    if record == '' then record = kept end
    local held = left == ''
    local at, life = held and ARGV[1] or '-', held and (alive and ARGV[3] or ARGV[2]) or left
    redis.call('SET', KEYS[i], holder .. ' ' .. number .. ' ' .. at .. '\n' .. record, 'PX', life)
    redis.call(held and alive and 'SADD' or 'SREM', KEYS[2], entry)
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return reply
