-- Appends a batch of records of one partition as one frame, and publishes the frame, in one step.
--
-- Strings are what costs time here: Lua reads every byte of each string that it is given or makes.
-- So the caller writes the frame as it will be stored, unless another node has appended meanwhile,
-- and all message ids as one string. The script passes both on unchanged. Beside them a message
-- costs one short string, its id.
--
-- KEYS[1] log      stream of frames; id = <last seq of the frame>-0, field f = the frame
-- KEYS[2] meta     hash: e = epoch, s = last seq, t = time of the newest trim point (ms)
-- KEYS[3] trim_points  list of "<ms> <seq>", one per 5 s of traffic: how far the log is trimmed by
--                  age. Its key ends in `marks`.
-- KEYS[4] rooms    hash: r:<room> newest seq, c:<room> number of messages it ever had, g:<room>
--                  number of those that are trimmed, t:<room> newest trimmed seq, s:<room> 1 if
--                  messages in its list have states
-- KEYS[5] ids      hash of the current bucket: message id -> token of its frame,
--                  #<token> -> last seq before that frame, @<token> -> the retry ids of that frame.
--                  A token of an older release has no ':', and its retry ids have no contents.
-- KEYS[6] ids      the bucket before it
-- KEYS[7] ids      the bucket after it: a node whose clock is ahead may write there already
-- Then two keys per room that the batch has messages or changes of:
--   list           two items per frame: "<first> <last> <messages ever> <ms> <places>" and the
--                  lines of the room. If the whole frame is the room's, <places> is empty and the
--                  second item is the frame.
--   states         hash: what the changes of the messages in the list add up to
--                  (src/store/layout.rs)
-- ARGV[1] epoch to use if there is none  [2] PUBLISH|SPUBLISH  [3] channel  [4] now (ms)
-- ARGV[5] life of an ids bucket (s)      [6] messages the log keeps at most
-- ARGV[7] age the log keeps (ms)         [8] messages a room keeps  [9] age a room keeps (ms)
-- ARGV[10] epoch and [11] last seq of the caller's newest position, or '' and 0. If the log ends
--          before it, the log was rolled back, and a new epoch begins: no seq is given twice.
-- ARGV[12] number of records
-- ARGV[13] token of this frame, which has a ':', the same when the call is repeated
-- ARGV[14] the frame: "<first seq>:<epoch>:<number>", then the records, one per line. Its first
--          line is made from [10] and [11], and is replaced if the log stands elsewhere.
-- ARGV[15] 1 if an earlier attempt of this call may have been stored. If the log is another one
--          since that attempt, nobody can know, and the call fails with EPOCH.
-- ARGV[16] retry_ids, for each message that its client may send again: ID bytes of id, which are
--          distinct, 4 digits of its place in the frame, and 13 digits of its time. After all of
--          them CONTENT bytes for each: an older release finds its ids all the same.
-- Then four per room: name, number of messages, places in the frame ("1,4", or '' for all), lines
-- ('' for all).
-- Then five per change: place in the frame, number of its room above, seq of the changed message,
-- edit|delete|react|unreact, and the status or the reaction to write (src/store/layout.rs).
-- Returns { epoch, last seq before, { index of a known id, its "<seq> <at>", its content or '', .. },
-- what failed }. If an id is known, nothing is stored, and the caller sends the rest again. What
-- failed after the frame was stored is '' if nothing did: nodes then read the frame from the log.
local ROOMS, ID, RETRY_ID, CONTENT = 16, 14, 31, 6
local now, n, rooms = tonumber(ARGV[4]), tonumber(ARGV[12]), (#KEYS - 7) / 2
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

-- The call is repeated because its answer was lost.
local done = redis.call('HGET', KEYS[5], '#' .. ARGV[13])
if done then return { epoch, tonumber(done), {}, '' } end
local retry_ids, ids, known = ARGV[16], {}, {}
for i = 1, #retry_ids / (RETRY_ID + CONTENT) do
  local at = (i - 1) * RETRY_ID
  ids[i] = string.sub(retry_ids, at + 1, at + ID)
end
-- Retries often come from one frame, whose retry ids are a long string: it is read once.
local retry_ids_of = {}
local function place_of(bucket, id, token)
  local theirs, at = retry_ids_of[token] or redis.call('HGET', bucket, '@' .. token), 0
  retry_ids_of[token] = theirs
  repeat at = string.find(theirs, id, at + 1, true) until at % RETRY_ID == 1
  local place = string.sub(theirs, at + ID, at + ID + 3)
  local time = string.sub(theirs, at + ID + 4, at + RETRY_ID - 1)
  local content = ''
  if string.find(token, ':', 1, true) then
    local contents = #theirs / (RETRY_ID + CONTENT) * RETRY_ID
    local begin = contents + (at - 1) / RETRY_ID * CONTENT
    content = string.sub(theirs, begin + 1, begin + CONTENT)
  end
  return redis.call('HGET', bucket, '#' .. token) + place .. ' ' .. time, content
end
for b = 5, 7 do
  if #ids > 0 and redis.call('EXISTS', KEYS[b]) == 1 then
    local tokens = redis.call('HMGET', KEYS[b], unpack(ids))
    for i = 1, #ids do
      if tokens[i] then
        local at = #known
        known[at + 1] = i - 1
        known[at + 2], known[at + 3] = place_of(KEYS[b], ids[i], tokens[i])
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
-- If Redis refuses this (memory, disk, replica), no record has been written yet.
local oldest = math.max(last - ARGV[6] + 1, 0)
local stored = redis.pcall('XADD', KEYS[1], 'MINID', '~', oldest, last .. '-0', 'f', frame)
if type(stored) == 'table' and stored.err then return stored end
redis.call('HSET', KEYS[2], 's', last)
local remembered = { '#' .. ARGV[13], before }
if #ids > 0 then remembered[3], remembered[4] = '@' .. ARGV[13], retry_ids end
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

-- Deletes the states of the messages of a frame that is trimmed.
local function forget_states(states, first, last, places)
  local fields = {}
  local function forget(seq) fields[#fields + 1], fields[#fields + 2] = seq, 'r' .. seq end
  if places == '' then
    for seq = first, last do forget(seq) end
  else
    local start
    for place in string.gmatch(places, '%d+') do
      start = start or first - place
      forget(start + place)
    end
  end
  redis.call('HDEL', states, unpack(fields))
end

local function keep_in_room(r)
  local max = tonumber(ARGV[8])
  local key, states, a = KEYS[6 + 2 * r], KEYS[7 + 2 * r], ROOMS + (r - 1) * 4
  local room, count, places, lines = ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 3], ARGV[a + 4]
  if count == 0 then return end
  local first, newest = before + 1, last
  if places == '' then
    lines = frame
  else
    first = before + string.match(places, '^%d+')
    newest = before + string.match(places, '%d+$')
  end
  local had = redis.call('HMGET', KEYS[4], 'r:' .. room, 'c:' .. room, 'g:' .. room, 's:' .. room)
  local has_states = had[4]
  -- What is left of a lost epoch has numbers that mean nothing in this one.
  if not had[1] then redis.call('DEL', key, states) end
  local ever, gone, trimmed = tonumber(had[2] or 0) + count, tonumber(had[3] or 0), nil
  local length = redis.call('RPUSH', key,
    first .. ' ' .. newest .. ' ' .. ever .. ' ' .. now .. ' ' .. places, lines)
  -- The list had expired, with all messages of the room.
  if length == 2 and had[1] then
    gone, trimmed = ever - count, had[1]
    if has_states then
      redis.call('DEL', states)
      redis.call('HDEL', KEYS[4], 's:' .. room)
      has_states = nil
    end
  end
  -- Trims only once there is an eighth too much, so that it seldom reads the head of the list.
  local by_count = ever - gone > max + math.floor(max / 8)
  while by_count or by_age do
    local head = redis.call('LINDEX', key, 0)
    local from, to, upto, at, of = string.match(head or '', '^(%d+) (%d+) (%d+) (%d+) ([%d,]*)')
    if not to then break end
    local old = now - tonumber(at) > tonumber(ARGV[9])
    if not old and ever - tonumber(upto) < max then break end
    gone, trimmed = tonumber(upto), to
    redis.call('LPOP', key, 2)
    if has_states then forget_states(states, tonumber(from), tonumber(to), of) end
  end
  redis.call('PEXPIRE', key, ARGV[9])
  if has_states then redis.call('PEXPIRE', states, ARGV[9]) end
  redis.call('HSET', KEYS[4], 'r:' .. room, newest, 'c:' .. room, ever, 'g:' .. room, gone)
  if trimmed then redis.call('HSET', KEYS[4], 't:' .. room, trimmed) end
end

-- Whether a room's list has the message. Most changes are of new messages, so the search for the
-- frame begins at the end: in steps that double, and then by halves between the last two.
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

-- The state of a message. False if the room has no such message; a message with a state is there.
local function read_state(r, seq)
  local room, list, key = ARGV[ROOMS + (r - 1) * 4 + 1], KEYS[6 + 2 * r], KEYS[7 + 2 * r]
  if redis.call('HEXISTS', KEYS[4], 'r:' .. room) == 0 then return false end
  local was = redis.call('HMGET', key, seq, 'r' .. seq)
  if not was[1] and not has_message(list, tonumber(seq)) then return false end
  local reactions = was[2] and cjson.decode(was[2]) or {}
  return { room = room, list = list, key = key, seq = seq, was = was[1],
    status = was[1] or 'said', reactions = reactions }
end

-- MessageState::apply (src/domain/message.rs).
local function apply(state, change, text)
  if string.sub(state.status, 1, 8) == 'deleted ' then return end
  if change == 'edit' then state.status = text; return end
  if change == 'delete' then
    state.status, state.reactions, state.reacted = text, {}, true
    return
  end
  local at
  for i = 1, #state.reactions do
    if state.reactions[i] == text then at = i end
  end
  if (change == 'react') == (at ~= nil) then return end
  if at then table.remove(state.reactions, at) else table.insert(state.reactions, text) end
  state.reacted = true
end

-- Many changes may be of one message: its state is read once and written once.
local states, by_name = {}, {}
local function change_message(place, r, seq, change, text)
  if tonumber(seq) >= before + place then return end
  local name = r .. ' ' .. seq
  if by_name[name] == nil then
    by_name[name] = read_state(tonumber(r), seq)
    states[#states + 1] = by_name[name] or nil
  end
  if by_name[name] then apply(by_name[name], change, text) end
end

local function write_state(state)
  local key, field = state.key, 'r' .. state.seq
  if state.status == 'said' and #state.reactions == 0 then
    if state.was then redis.call('HDEL', key, state.seq, field) end
    return
  end
  if state.status ~= state.was then redis.call('HSET', key, state.seq, state.status) end
  if state.reacted and #state.reactions > 0 then
    redis.call('HSET', key, field, cjson.encode(state.reactions))
  elseif state.reacted then
    redis.call('HDEL', key, field)
  end
  if not state.was then
    redis.call('HSET', KEYS[4], 's:' .. state.room, 1)
    redis.call('PEXPIRE', key, redis.call('PTTL', state.list))
  end
end
local fine, problem = pcall(function()
  for r = 1, rooms do keep_in_room(r) end
  for a = ROOMS + rooms * 4 + 1, #ARGV, 5 do change_message(unpack(ARGV, a, a + 4)) end
  for i = 1, #states do write_state(states[i]) end
  redis.call(ARGV[2], ARGV[3], frame)
end)
return { epoch, before, known, fine and '' or tostring(type(problem) == 'table' and problem.err or problem) }
