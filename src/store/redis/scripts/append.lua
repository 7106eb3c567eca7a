-- Group commit: appends a batch of messages of one partition, and announces it, in one step.
--
-- What costs here is strings: Lua reads every byte of each that it is given or makes. So the caller
-- gives the frame as it expects it to be, which is so unless another node came first, and all ids
-- as one string; both go on as they are. A message costs one short string for its id.
--
-- KEYS[1] log      stream of frames; id = <last seq of the frame>-0, field f = the frame
-- KEYS[2] meta     hash: e = epoch, s = last seq, t = time of the newest mark (ms)
-- KEYS[3] marks    list of "<ms> <seq>", one per 5 s of traffic: what the log may forget by age
-- KEYS[4] rooms    hash: r:<room> its newest seq, c:<room> messages it ever had, g:<room> of these
--                  gone, t:<room> the newest seq that is gone, s:<room> 1 where messages of its
--                  list have states
-- KEYS[5] ids      hash of the current bucket: message id -> token of its frame,
--                  #<token> -> last seq before that frame, @<token> -> that frame's marks
-- KEYS[6] ids      the bucket before it
-- KEYS[7] ids      the bucket after it, where a node whose clock is ahead may write already
-- KEYS[8..]        list of each room that has messages in the batch, two items per frame:
--                  "<first> <last> <messages ever> <ms> <places>", and its lines; where all of a
--                  frame is the room's, places are empty and the second item is the frame
-- The lists of rooms that have only records here, and the hash of a room's states (`state:` in
-- place of `room:`: seq -> text of src/store/layout.rs), are named after these keys, and lie where they do.
-- ARGV[1] epoch to use if there is none  [2] PUBLISH|SPUBLISH  [3] channel  [4] now (ms)
-- ARGV[5] life of an ids bucket (s)      [6] messages the log keeps at most
-- ARGV[7] age the log keeps (ms)         [8] messages a room keeps  [9] age a room keeps (ms)
-- ARGV[10] an epoch and [11] the last seq that the caller was given in it, or '' and 0: where the
--          log has less, it was rolled back, and its numbers must not be given twice
-- ARGV[12] number of messages  [13] token of this frame, the same when the call is repeated
-- ARGV[14] the frame: "<first seq>:<epoch>:<number>", then the messages, one per line; what is
--          said of seq and epoch follows from [10] and [11] and need not be true
-- ARGV[15] 1 when this call may have been done before; in a log that is another one since then
--          nobody can tell, and it is refused: EPOCH
-- ARGV[16] marks: for each message that its client may repeat ID bytes of id, which are distinct,
--          4 digits of its place in the frame, and 13 of its time
-- Then per room: name, count, places in the frame ("1,4", or '' for all), its lines ('' for all).
-- Then per record, which is in no room's list: its place, room, the seq that it is about, what it
-- does to it (src/store/layout.rs), its sender, time, and the body of an edit or emoji of a reaction.
-- Returns { epoch, last seq before, { index of a known id, its "<seq> <at>", .. } }. Where ids are
-- known, nothing is stored: the caller sends the rest again. A fourth value says what went wrong
-- after the messages were stored: nodes still read them from the log.
local ROOMS, ID, MARK = 16, 14, 31
local now, n, rooms = tonumber(ARGV[4]), tonumber(ARGV[12]), #KEYS - 7
local meta = redis.call('HMGET', KEYS[2], 'e', 's', 't')
local epoch, before = meta[1], tonumber(meta[2] or 0)
local rolled_back = epoch == ARGV[10] and before < tonumber(ARGV[11])
if ARGV[15] == '1' and ARGV[10] ~= '' and (epoch ~= ARGV[10] or rolled_back) then
  return redis.error_reply('EPOCH the log is not the one that was tried before')
end
if not epoch then
  -- The log was lost. A new epoch neither continues old frames nor trusts old ids.
  epoch, before = ARGV[1], 0
  redis.call('DEL', KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7])
  redis.call('HSET', KEYS[2], 'e', epoch, 's', 0, 't', 0)
  meta[3] = '0'
elseif rolled_back then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[2], 'e', epoch)
end

-- A call that was repeated because its answer got lost.
local done = redis.call('HGET', KEYS[5], '#' .. ARGV[13])
if done then return { epoch, tonumber(done), {}, '' } end
local marks, ids, known = ARGV[16], {}, {}
for i = 1, #marks / MARK do
  local at = (i - 1) * MARK
  ids[i] = string.sub(marks, at + 1, at + ID)
end
-- Several retries are often of one frame, and its marks are a long string.
local marks_of = {}
local function place_of(bucket, id, token)
  local theirs, at = marks_of[token] or redis.call('HGET', bucket, '@' .. token), 0
  marks_of[token] = theirs
  repeat at = string.find(theirs, id, at + 1, true) until at % MARK == 1
  local place = string.sub(theirs, at + ID, at + ID + 3)
  local time = string.sub(theirs, at + ID + 4, at + MARK - 1)
  return redis.call('HGET', bucket, '#' .. token) + place .. ' ' .. time
end
for b = 5, 7 do
  if #ids > 0 and redis.call('EXISTS', KEYS[b]) == 1 then
    local tokens = redis.call('HMGET', KEYS[b], unpack(ids))
    for i = 1, #ids do
      if tokens[i] then
        known[#known + 1] = i - 1
        known[#known + 1] = place_of(KEYS[b], ids[i], tokens[i])
      end
    end
  end
end
if #known > 0 then return { epoch, before, known, '' } end

local last = before + n
local frame = ARGV[14]
if epoch ~= ARGV[10] or before ~= tonumber(ARGV[11]) then
  local lines = string.sub(frame, string.find(frame, '\n', 1, true), -1)
  frame = before + 1 .. ':' .. epoch .. ':' .. n .. lines
end
-- Where Redis refuses this (memory, disk, replica), no message has been written yet.
local oldest = math.max(last - ARGV[6] + 1, 0)
local stored = redis.pcall('XADD', KEYS[1], 'MINID', '~', oldest, last .. '-0', 'f', frame)
if type(stored) == 'table' and stored.err then return stored end
redis.call('HSET', KEYS[2], 's', last)
local remembered = { '#' .. ARGV[13], before }
if #ids > 0 then remembered[3], remembered[4] = '@' .. ARGV[13], marks end
for i = 1, #ids do remembered[2 * i + 3], remembered[2 * i + 4] = ids[i], ARGV[13] end
redis.call('HSET', KEYS[5], unpack(remembered))
redis.call('EXPIRE', KEYS[5], ARGV[5])

local by_age = now - tonumber(meta[3] or 0) >= 5000
if by_age then
  redis.call('HSET', KEYS[2], 't', now)
  redis.call('RPUSH', KEYS[3], now .. ' ' .. before)
  local forget
  while true do
    local head = redis.call('LINDEX', KEYS[3], 0)
    local at, upto = string.match(head or '', '^(%d+) (%d+)$')
    if not at or now - tonumber(at) <= tonumber(ARGV[7]) then break end
    forget = upto
    redis.call('LPOP', KEYS[3])
  end
  if forget then redis.call('XTRIM', KEYS[1], 'MINID', '~', tonumber(forget) + 1) end
end

local base = string.sub(KEYS[1], 1, -4)
-- With the messages of a frame go their states.
local function forget_states(room, first, last, places)
  local seqs = {}
  if places == '' then
    for seq = first, last do seqs[#seqs + 1] = seq end
  else
    local start
    for place in string.gmatch(places, '%d+') do
      start = start or first - place
      seqs[#seqs + 1] = start + place
    end
  end
  redis.call('HDEL', base .. 'state:' .. room, unpack(seqs))
end

local function keep_in_room(r)
  local max = tonumber(ARGV[8])
  local key, a = KEYS[7 + r], ROOMS + (r - 1) * 4
  local room, count, places, lines = ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 3], ARGV[a + 4]
  local first, newest = before + 1, last
  if places == '' then
    lines = frame
  else
    first = before + string.match(places, '^%d+')
    newest = before + string.match(places, '%d+$')
  end
  local had = redis.call('HMGET', KEYS[4], 'r:' .. room, 'c:' .. room, 'g:' .. room, 's:' .. room)
  local has_states = had[4]
  -- Left over from a lost epoch: its numbers mean nothing now.
  if not had[1] then redis.call('DEL', key, base .. 'state:' .. room) end
  local ever, gone, trimmed = tonumber(had[2] or 0) + count, tonumber(had[3] or 0), nil
  local length = redis.call('RPUSH', key,
    first .. ' ' .. newest .. ' ' .. ever .. ' ' .. now .. ' ' .. places, lines)
  -- The list had expired, and with it everything that the room had.
  if length == 2 and had[1] then
    gone, trimmed = ever - count, had[1]
    if has_states then
      redis.call('DEL', base .. 'state:' .. room)
      redis.call('HDEL', KEYS[4], 's:' .. room)
      has_states = nil
    end
  end
  -- An eighth more than is kept, so that the head is looked at only now and then.
  local by_count = ever - gone > max + math.floor(max / 8)
  while by_count or by_age do
    local head = redis.call('LINDEX', key, 0)
    local from, to, upto, at, of = string.match(head or '', '^(%d+) (%d+) (%d+) (%d+) ([%d,]*)')
    if not to then break end
    local old = now - tonumber(at) > tonumber(ARGV[9])
    if not old and ever - tonumber(upto) < max then break end
    gone, trimmed = tonumber(upto), to
    redis.call('LPOP', key, 2)
    if has_states then forget_states(room, tonumber(from), tonumber(to), of) end
  end
  redis.call('PEXPIRE', key, ARGV[9])
  if has_states then redis.call('PEXPIRE', base .. 'state:' .. room, ARGV[9]) end
  redis.call('HSET', KEYS[4], 'r:' .. room, newest, 'c:' .. room, ever, 'g:' .. room, gone)
  if trimmed then redis.call('HSET', KEYS[4], 't:' .. room, trimmed) end
end

-- Whether a room's list has the message. What is new is talked about most, so the frame is looked
-- for from the end: in steps that double, and then between the last two.
local function has_message(list, seq)
  local function header(index)
    local item = redis.call('LINDEX', list, index * 2)
    local first, last, places = string.match(item, '^(%d+) (%d+) %d+ %d+ ([%d,]*)')
    return tonumber(first), tonumber(last), places
  end
  local high = redis.call('LLEN', list) / 2
  local low, step = high, 1
  repeat
    high, low, step = low, math.max(low - step, 0), step * 2
    if low == high then return false end
    local first = header(low)
  until first <= seq or low == 0
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if header(middle) <= seq then low = middle else high = middle end
  end
  local first, last, places = header(low)
  if seq < first or seq > last then return false end
  local place = seq - first + (string.match(places, '^%d+') or 0)
  return places == '' or string.find(',' .. places .. ',', ',' .. place .. ',', 1, true) ~= nil
end

-- MessageState::apply (src/domain/message.rs), on the text that src/store/layout.rs describes.
local function folded(state, change, from, at, body)
  if string.sub(state, 1, 8) == 'deleted ' then return state end
  if change == 'delete' then return 'deleted ' .. at .. '\n' end
  local fate_end = string.find(state, '\n', 1, true)
  if change == 'edit' then
    return 'edited ' .. at .. ' ' .. body .. string.sub(state, fate_end, -1)
  end
  local reaction = body .. '\t' .. from .. '\n'
  local known = string.find(state, '\n' .. reaction, fate_end, true)
  if change == 'react' and not known then return state .. reaction end
  if change == 'unreact' and known then
    return string.sub(state, 1, known) .. string.sub(state, known + #reaction + 1, -1)
  end
  return state
end

-- False where the room has no such message. One that has a state is there.
local function find_state(room, of)
  if redis.call('HEXISTS', KEYS[4], 'r:' .. room) == 0 then return false end
  local was = redis.call('HGET', base .. 'state:' .. room, of)
  if not was and not has_message(base .. 'room:' .. room, tonumber(of)) then return false end
  return { room = room, of = of, was = was, now = was or 'said\n' }
end

-- Many records may be about one message, whose state is long: it is read and written once.
local states, by_name = {}, {}
local function fold(place, room, of, change, from, at, body)
  if tonumber(of) >= before + place then return end
  local name = room .. '\n' .. of
  if by_name[name] == nil then
    by_name[name] = find_state(room, of)
    states[#states + 1] = by_name[name] or nil
  end
  local state = by_name[name]
  if state then state.now = folded(state.now, change, from, at, body) end
end

local function keep_state(state)
  local key, was, now = base .. 'state:' .. state.room, state.was, state.now
  if now == (was or 'said\n') then return end
  if now == 'said\n' then return redis.call('HDEL', key, state.of) end
  redis.call('HSET', key, state.of, now)
  if not was then
    redis.call('HSET', KEYS[4], 's:' .. state.room, 1)
    redis.call('PEXPIRE', key, redis.call('PTTL', base .. 'room:' .. state.room))
  end
end
local fine, problem = pcall(function()
  for r = 1, rooms do keep_in_room(r) end
  for a = ROOMS + rooms * 4 + 1, #ARGV, 7 do fold(unpack(ARGV, a, a + 6)) end
  for i = 1, #states do keep_state(states[i]) end
  redis.call(ARGV[2], ARGV[3], frame)
end)
return { epoch, before, known, fine and '' or tostring(type(problem) == 'table' and problem.err or problem) }
