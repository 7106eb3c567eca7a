-- Renews the lease of a node in one partition, hands the node the claims on its sessions, and looks
-- for leases that have ended.
--
-- KEYS[1] nodes   sorted set: incarnation of a node -> end of its lease (ms, Redis' clock)
-- KEYS[2] held    set of the sessions of this incarnation (save.lua describes it)
-- KEYS[3] claims  sorted set, all scores 0 (claim.lua describes it)
-- KEYS[4] agreed  in partition 0 only, a hash: incarnation -> "<since> <values>", and partitions ->
--                 their number, which the first node of the chat has said
-- ARGV[1] incarnation  [2] 'hello': its lease begins, 'beat': it goes on  [3] life of a lease (ms)
-- ARGV[4] ceiling (ms)  [5] claims at most
-- With KEYS[4]: ARGV[6] values of this node (agreement.rs)  [7] since when it counts: ms, '' for now,
-- or '-' while it waits  [8] number of partitions
-- Returns { 1 when the incarnation has a lease, otherwise 0: it has ended and never comes back;
-- ms until the next lease ends, or -1; { incarnations whose lease has ended, a few at a time };
-- { "<session> <holder>" of each session that was claimed }, and with KEYS[4] and a lease
-- { since when this node counts, number of partitions, then flat the incarnation and the values of
-- each other living node with other values, '' if it has none } }.
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
local agreed
if KEYS[4] and mine == 1 then
  if ARGV[2] == 'hello' then
    -- Incarnations that are gone.
    for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
      if field ~= 'partitions' and not redis.call('ZSCORE', KEYS[1], field) then
        redis.call('HDEL', KEYS[4], field)
      end
    end
  end
  local since = ARGV[7] == '' and string.format('%.0f', now) or ARGV[7]
  redis.call('HSETNX', KEYS[4], 'partitions', ARGV[8])
  redis.call('HSET', KEYS[4], ARGV[1], since .. ' ' .. ARGV[6])
  agreed = { since, redis.call('HGET', KEYS[4], 'partitions') }
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
    local lease = redis.call('HGET', KEYS[4], other) or ''
    if other ~= ARGV[1] and string.match(lease, ' (.*)') ~= ARGV[6] then
      agreed[#agreed + 1], agreed[#agreed + 2] = other, lease
    end
  end
end
return { mine, alive[2] and alive[2] - now or -1, ended, claimed, agreed }
