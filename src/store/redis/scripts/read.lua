-- Reads frames of the log after a position, for a node. If there is no epoch, it begins one, so that
-- every node knows the epoch.
--
-- KEYS[1] log  KEYS[2] meta  KEYS[3] trim_points  KEYS[4] rooms (append.lua describes them)
-- ARGV[1] last seq delivered  [2] frames at most  [3] how the frame at that seq begins, or ''
-- ARGV[4] epoch to use if there is none
-- Returns { epoch, last seq, first seq kept (0: nothing), anchor, frames }. The anchor is 1 if the
-- frame at that seq begins so, 0 if it does not, and -1 if that is not known.
local meta = redis.call('HMGET', KEYS[2], 'e', 's')
local epoch, top = meta[1], tonumber(meta[2] or 0)
if not epoch then
  epoch, top = ARGV[4], 0
  redis.call('DEL', KEYS[1], KEYS[3], KEYS[4])
  redis.call('HSET', KEYS[2], 'e', epoch, 's', 0, 't', 0)
end
local last, anchor, kept = tonumber(ARGV[1]), -1, 0
local head = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if head[1] then kept = tonumber(string.match(head[1][2][2], '^%d+')) end
if ARGV[3] ~= '' and kept > 0 and last >= kept then
  local entry = redis.call('XRANGE', KEYS[1], last .. '-0', last .. '-0')
  local same = entry[1] and string.sub(entry[1][2][2], 1, #ARGV[3]) == ARGV[3]
  anchor = same and 1 or 0
end
local frames = {}
if anchor ~= 0 and tonumber(ARGV[2]) > 0 then
  local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
  for i = 1, #entries do frames[i] = entries[i][2][2] end
end
return { epoch, top, kept, anchor, frames }
