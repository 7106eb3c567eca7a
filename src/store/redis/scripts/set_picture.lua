-- Gives an account another picture.
--
-- KEYS[1] accounts   hash: id -> account (JSON)
-- ARGV[1] id  [2] name of the picture  [3] time (ms, as text)
-- Returns { account, name of the picture before or '' }, or {} if there is no such account.
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return {} end
local account = cjson.decode(text)
local before = account['picture']
account['picture'] = ARGV[2]
account['updated_at'] = ARGV[3]
text = cjson.encode(account)
redis.call('HSET', KEYS[1], ARGV[1], text)
return { text, before }
