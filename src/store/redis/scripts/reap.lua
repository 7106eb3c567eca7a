-- Gives sessions of a node whose lease has ended the window as their expiry, and at the end removes
-- the lease.
--
-- KEYS[1] nodes, KEYS[2] held of that incarnation (save.lua), KEYS[3] claims (claim.lua)
-- KEYS[4..] sessions of some entries of held, in the order of the arguments
-- ARGV[1] incarnation  [2] window (ms)  [3] '1': presence.lua has reaped everything
-- ARGV[4..] those entries
-- Returns { entries that are left }; 0 also when the lease has not ended, and nothing was done.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) > now then return { 0 } end
for i = 4, #KEYS do
  local at = string.match(redis.call('GET', KEYS[i]) or '', '^%x+ %d+ (%S+)\n')
  if at == ARGV[1] then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
  redis.call('SREM', KEYS[2], ARGV[i])
end
local left = redis.call('SCARD', KEYS[2])
if left == 0 and ARGV[3] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZREMRANGEBYLEX', KEYS[3], '[' .. ARGV[1] .. ' ', '(' .. ARGV[1] .. '!')
end
return { left }
