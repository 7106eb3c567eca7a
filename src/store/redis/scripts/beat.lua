-- Renews the lease of a node in one partition, hands the node the claims on its sessions, and looks
-- for leases that have ended.
--
-- KEYS[1] nodes   sorted set: incarnation of a node -> end of its lease (ms, Redis' clock)
-- KEYS[2] held    set of the sessions of this incarnation (save.lua describes it)
-- KEYS[3] claims  sorted set, all scores 0 (claim.lua describes it)
-- ARGV[1] incarnation  [2] 'hello': its lease begins, 'beat': it goes on  [3] life of a lease (ms)
-- ARGV[4] ceiling (ms)  [5] claims at most
-- Returns { 1 when the incarnation has a lease, otherwise 0: it has ended and never comes back;
-- ms until the next lease ends, or -1; { incarnations whose lease has ended, a few at a time };
-- { "<session> <holder>" of each session that was claimed } }.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine, claimed = 0, {}
if ARGV[2] == 'hello' or tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) > now then
  mine = 1
  redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
  -- '!' is the character after the space: these are all members that begin with "<incarnation> ".
  local first, last = '[' .. ARGV[1] .. ' ', '(' .. ARGV[1] .. '!'
  local members = redis.call('ZRANGEBYLEX', KEYS[3], first, last, 'LIMIT', 0, ARGV[5])
  for i, member in ipairs(members) do
    claimed[i] = string.sub(member, #ARGV[1] + 2)
    redis.call('SREM', KEYS[2], claimed[i])
    redis.call('ZREM', KEYS[3], member)
  end
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 8)
local alive = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return { mine, alive[2] and alive[2] - now or -1, ended, claimed }
