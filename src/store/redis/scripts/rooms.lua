-- One step of a scan of a partition's rooms, without rooms of two users or of one session.
--
-- KEYS[1] rooms (append.lua describes it)  KEYS[2] peopled (presence.lua describes it)
-- ARGV[1] cursor, '0' at first  [2] fields to scan, roughly  [3] rooms with users at most
-- Returns { next cursor, { room, its last seq, .. }, { room, users, its last seq or '', .. } }. The
-- rooms with users come only in the first step, those with most users first.
local occupied = {}
if ARGV[1] == '0' then
  local found = redis.call('ZREVRANGE', KEYS[2], 0, ARGV[3] - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    occupied[#occupied + 1] = found[i]
    occupied[#occupied + 1] = found[i + 1]
    occupied[#occupied + 1] = redis.call('HGET', KEYS[1], 'r:' .. found[i]) or ''
  end
end
local scanned = redis.call('HSCAN', KEYS[1], ARGV[1], 'MATCH', 'r:*', 'COUNT', ARGV[2])
local rooms, fields = {}, scanned[2]
for i = 1, #fields, 2 do
  local room = string.sub(fields[i], 3)
  if string.sub(room, 1, 3) ~= 'dm:' and string.sub(room, 1, 7) ~= 'socket:' then
    rooms[#rooms + 1] = room
    rooms[#rooms + 1] = fields[i + 1]
  end
end
return { scanned[1], rooms, occupied }
