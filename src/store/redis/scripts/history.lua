-- Reads the frames of a room that a page of its history is cut from.
--
-- KEYS[1] list of the room  [2] meta  [3] rooms  [4] states of the room (append.lua describes them)
-- ARGV[1] newest|before|after  [2] seq  [3] messages at most  [4] room
-- Returns { epoch or '', last seq, more frames 0|1, trimmed 0|1, the two items of each frame with
-- the oldest first, states }. `states` has { seq, status, reactions or '' } of each message
-- in these frames that was changed (src/store/layout.rs), flat. The frames have one message more
-- than asked for, if the room has so many.
local STEP = 1024
local meta = redis.call('HMGET', KEYS[2], 'e', 's')
local seq, wanted = tonumber(ARGV[2]), tonumber(ARGV[3]) + 1
local length = redis.call('LLEN', KEYS[1]) / 2
local function frame(index)
  local header = redis.call('LINDEX', KEYS[1], index * 2)
  local first, last, _, _, places = string.match(header, '^(%d+) (%d+) (%d+) (%d+) ([%d,]*)')
  local _, commas = string.gsub(places, ',', '')
  local count = places == '' and last - first + 1 or commas + 1
  return header, tonumber(first), tonumber(last), count
end
-- The first index whose newest message comes after `bound`.
local function above(bound)
  local low, high = 0, length
  while low < high do
    local middle = math.floor((low + high) / 2)
    local _, _, last = frame(middle)
    if last > bound then high = middle else low = middle + 1 end
  end
  return low
end
local has_states = redis.call('EXISTS', KEYS[4]) == 1
-- The states of all messages in these items. Lua can unpack only so many fields at once.
local function states_of(items)
  local states, seqs = {}, {}
  if not has_states then return states end
  for i = 1, #items, 2 do
    local first, last, places = string.match(items[i], '^(%d+) (%d+) %d+ %d+ ([%d,]*)')
    if places == '' then
      for seq = tonumber(first), tonumber(last) do seqs[#seqs + 1] = seq end
    else
      local start
      for place in string.gmatch(places, '%d+') do
        start = start or first - place
        seqs[#seqs + 1] = start + place
      end
    end
  end
  for from = 1, #seqs, STEP do
    local to = math.min(from + STEP - 1, #seqs)
    local found = redis.call('HMGET', KEYS[4], unpack(seqs, from, to))
    local changed, fields = #states, {}
    for i = 1, #found do
      if found[i] then
        local seq = seqs[from + i - 1]
        fields[#fields + 1] = 'r' .. seq
        states[#states + 1], states[#states + 2], states[#states + 3] = seq, found[i], ''
      end
    end
    local reactions = #fields > 0 and redis.call('HMGET', KEYS[4], unpack(fields)) or {}
    for i = 1, #reactions do states[changed + 3 * i] = reactions[i] or '' end
  end
  return states
end
local items, found, index = {}, 0, nil
if ARGV[1] == 'after' then
  index = above(seq)
  local trimmed = false
  if index == 0 then
    local seqs = redis.call('HMGET', KEYS[3], 't:' .. ARGV[4], 'r:' .. ARGV[4])
    local gone = length == 0 and seqs[2] or seqs[1]
    trimmed = gone and tonumber(gone) > seq
  end
  while index < length and found < wanted do
    local header, first, _, count = frame(index)
    items[#items + 1] = header
    items[#items + 1] = redis.call('LINDEX', KEYS[1], index * 2 + 1)
    -- The frame that the position lies in may have few messages after it: it is not counted.
    if first > seq then found = found + count end
    index = index + 1
  end
  local more = index < length and 1 or 0
  return { meta[1] or '', tonumber(meta[2] or 0), more, trimmed and 1 or 0, items, states_of(items) }
end
index = (ARGV[1] == 'before' and math.min(above(seq - 1) + 1, length) or length) - 1
while index >= 0 and found < wanted do
  local header, _, last, count = frame(index)
  table.insert(items, 1, redis.call('LINDEX', KEYS[1], index * 2 + 1))
  table.insert(items, 1, header)
  if ARGV[1] == 'newest' or last < seq then found = found + count end
  index = index - 1
end
local more = index >= 0 and 1 or 0
return { meta[1] or '', tonumber(meta[2] or 0), more, 0, items, states_of(items) }
