-- Takes a session over, and tells the node of its former holder.
--
-- KEYS[1] session, KEYS[2] nodes, KEYS[3] held of the new holder's incarnation (save.lua)
-- KEYS[4] claims  sorted set, all scores 0: "<former incarnation> <session> <former holder>". The
--                 beat of that incarnation takes them, so a PUBLISH that is lost costs one beat.
-- ARGV[1] session  [2] user  [3] new holder  [4] its incarnation  [5] window (ms)  [6] ceiling (ms)
-- ARGV[7] channel
-- Returns { record }, or {}: there is none, or it is another user's.
local value = redis.call('GET', KEYS[1]) or ''
local former, at, record = string.match(value, '^(%x+) %d+ (%S+)\n(.*)$')
if not former or cjson.decode(record).user ~= ARGV[2] then return {} end
if former == ARGV[3] then return { record } end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function is_alive(incarnation)
  return tonumber(redis.call('ZSCORE', KEYS[2], incarnation) or 0) > now
end
local alive = is_alive(ARGV[4])
local life = alive and ARGV[6] or ARGV[5]
redis.call('SET', KEYS[1], ARGV[3] .. ' 0 ' .. ARGV[4] .. '\n' .. record, 'PX', life)
if alive then
  redis.call('SADD', KEYS[3], ARGV[1] .. ' ' .. ARGV[3])
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
if at ~= '-' then
  -- A node whose lease has ended learns it when it registers again.
  if is_alive(at) then
    redis.call('ZADD', KEYS[4], 0, at .. ' ' .. ARGV[1] .. ' ' .. former)
    redis.call('PEXPIRE', KEYS[4], ARGV[6])
  end
  -- Plain PUBLISH in a cluster too, because SPUBLISH would tie the channel to the session's slot.
  redis.pcall('PUBLISH', ARGV[7], former)
end
return { record }
