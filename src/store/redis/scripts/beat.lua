-- Keeps a node's lease, and looks for leases that have ended.
--
-- KEYS[1] nodes (attend.lua describes it)
-- ARGV[1] incarnation, or ''  [2] 'hello': it begins, 'beat': it goes on  [3] life of a lease (ms)
-- Returns { 1 when the incarnation has a lease, otherwise 0: it has ended and never comes back;
-- ms until the next lease ends, or -1; { incarnations whose lease has ended, a few at a time } }.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine = 0
if ARGV[1] ~= '' then
  local ends = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
  if ARGV[2] == 'hello' or ends > now then
    redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
    mine = 1
  end
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 8)
local alive = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return { mine, alive[2] and alive[2] - now or -1, ended }
