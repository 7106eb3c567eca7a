-- Reads a user's read marks in some rooms, and counts the messages of other users after each mark.
--
-- KEYS[1] read marks of the user (mark.lua describes it)  KEYS[2] meta  KEYS[3..] list of each room
-- (append.lua describes both)
-- ARGV[1] user, as JSON  [2] messages counted at most  [3] bytes read of a room at most  [4..] rooms
-- Returns { index of a room that has a mark, from 0; mark; count; .. }.
local user, most, bytes_max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local top = tonumber(redis.call('HGET', KEYS[2], 's') or 0)

-- Counts the lines of an item that come after the mark and are from other users. `first` is the seq
-- of the first line.
local function of_others(text, first, places, mark)
  local count, place = 0, string.gmatch(places, '%d+')
  local start, seq = nil, first - 1
  local at = string.sub(text, 1, 1) == '{' and 1 or string.find(text, '\n', 1, true) + 1
  while at do
    if places == '' then
      seq = seq + 1
    else
      local here = tonumber(place())
      start = start or first - here
      seq = start + here
    end
    local from = string.find(text, ',"from":', at, true) + 8
    if seq > mark and string.sub(text, from, from + #user - 1) ~= user then count = count + 1 end
    local line_end = string.find(text, '\n', at, true)
    at = line_end and line_end + 1
  end
  return count
end

local function count_after(list, mark)
  local count, bytes, index, lines = 0, 0, -1, nil
  while count < most and bytes < bytes_max do
    local item = redis.call('LINDEX', list, index)
    if not item then break end
    index, bytes = index - 1, bytes + #item
    local first, last, places = string.match(item, '^(%d+) (%d+) %d+ %d+ ([%d,]*)')
    if first then
      if tonumber(last) <= mark then break end
      count = count + of_others(lines or item, tonumber(first), places, mark)
      lines = nil
    else
      -- The item has lines; their header is the item before it.
      lines = item
    end
  end
  return math.min(count, most)
end

local found = {}
for i = 3, #KEYS do
  local mark = string.match(redis.call('HGET', KEYS[1], ARGV[i + 1]) or '', '%d+$')
  if mark then
    -- A mark of a lost epoch may be beyond the end of the log.
    mark = math.min(tonumber(mark), top)
    found[#found + 1] = i - 3
    found[#found + 1] = mark
    found[#found + 1] = count_after(KEYS[i], mark)
  end
end
return found
