-- Reads frames of the log after a position, for a client that has reconnected.
--
-- KEYS[1] log  KEYS[2] meta (append.lua describes them)
-- ARGV[1] epoch  [2] seq  [3] messages at most  [4] bytes at most
-- Returns { epoch or '', last seq, first seq kept (0: nothing), frames, oldest first }. The first
-- frame may begin before the position, and the last may exceed what was asked for. There are no
-- frames if the log has another epoch, or no longer reaches back to the position.
local STEP = 16
local seq, wanted, bytes_max = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local meta = redis.call('HMGET', KEYS[2], 'e', 's')
local epoch, top, kept = meta[1] or '', tonumber(meta[2] or 0), 0
local head = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if head[1] then kept = tonumber(string.match(head[1][2][2], '^%d+')) end
local frames, found, bytes = {}, 0, 0
if epoch ~= ARGV[1] or kept == 0 or kept > seq + 1 then return { epoch, top, kept, frames } end
local from, last = '(' .. ARGV[2] .. '-0', seq
repeat
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', STEP)
  for _, entry in ipairs(entries) do
    if found >= wanted or bytes >= bytes_max then break end
    local newest = tonumber(string.match(entry[1], '^%d+'))
    frames[#frames + 1] = entry[2][2]
    found, bytes, last = found + newest - last, bytes + #entry[2][2], newest
    from = '(' .. entry[1]
  end
until #entries < STEP or found >= wanted or bytes >= bytes_max
return { epoch, top, kept, frames }
