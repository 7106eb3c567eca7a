-- Keeps the file of a picture. One that is kept for longer already stays so.
--
-- KEYS[1] picture
-- ARGV[1] file  [2] life (ms), 0 for ever
-- Returns { 1 }.
local life = tonumber(ARGV[2])
local left = redis.call('PTTL', KEYS[1])
if left == -2 then redis.call('SET', KEYS[1], ARGV[1]) end
if life == 0 then
  redis.call('PERSIST', KEYS[1])
elseif left == -2 or left >= 0 and left < life then
  redis.call('PEXPIRE', KEYS[1], life)
end
return { 1 }
