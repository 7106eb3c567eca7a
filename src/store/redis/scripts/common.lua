-- Finds the newest of some frames that the log still has: where two histories part.
--
-- KEYS[1] log  ARGV[..] pairs, newest first: last seq of a frame, how it begins
-- Returns the seq, or 0.
for i = 1, #ARGV, 2 do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i] .. '-0', ARGV[i] .. '-0')
  if entry[1] and string.sub(entry[1][2][2], 1, #ARGV[i + 1]) == ARGV[i + 1] then
    return tonumber(ARGV[i])
  end
end
return 0
