-- Stores a new account, unless another one has its email address or its id.
--
-- KEYS[1] accounts       hash: id -> account (JSON)
-- KEYS[2] emails         hash: email address -> id
-- KEYS[3] account-list   list of ids, the oldest first
-- ARGV[1] id  [2] email address  [3] account
-- Returns { 1 } if it is stored, { 0 } if not.
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return { 0 } end
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[3]) == 0 then return { 0 } end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[1])
return { 1 }
