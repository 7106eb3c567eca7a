-- Changes which users are in rooms on one node, and announces the steps of the rooms' rosters.
--
-- KEYS[1] nodes     sorted set: incarnation of a node -> end of its lease (ms, Redis' clock)
-- KEYS[2] at        hash of that incarnation: "<room>\n<user>" -> 1 for each user in a room,
--                   '' -> number of its last call
-- KEYS[3] peopled   sorted set: room -> users in it; rooms of two users are not in it
-- KEYS[4..]         roster of each room in the call, a hash: user -> "<nodes it is on> <it as JSON>",
--                   '' -> version
-- ARGV[1] incarnation
-- ARGV[2] number of this call among its calls, so that a delayed call undoes no later one;
--         or '': another node removes what a node left whose lease has ended
-- ARGV[3] PUBLISH|SPUBLISH  [4] channel of the signals
-- Then per room: name, number of entries, and per entry: what, user, user as JSON. What is '+': the
-- user is there; '=': the same, but a name and picture that Redis has are newer; '-': not there.
-- Returns { 0 } when the lease has ended, or for '' when it has not; otherwise { 1, entries of at }.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
local reaping = ARGV[2] == ''
if reaping == (ends > now) then return { 0 } end
if not reaping then
  if tonumber(redis.call('HGET', KEYS[2], '') or 0) >= tonumber(ARGV[2]) then
    return { 1, redis.call('HLEN', KEYS[2]) - 1 }
  end
  redis.call('HSET', KEYS[2], '', ARGV[2])
end

local lines, next_argument = {}, 5
local function argument()
  next_argument = next_argument + 1
  return ARGV[next_argument - 1]
end

local function add(roster, room, what, user, json)
  local nodes, was = string.match(redis.call('HGET', roster, user) or '', '^(%d+) (.*)$')
  local new = redis.call('HSETNX', KEYS[2], room .. '\n' .. user, 1)
  if was and what == '=' then json = was end
  if new == 1 or json ~= was then
    redis.call('HSET', roster, user, math.max((nodes or 0) + new, 1) .. ' ' .. json)
  end
  return not was and json
end

local function remove(roster, room, user)
  if redis.call('HDEL', KEYS[2], room .. '\n' .. user) == 0 then return false end
  local nodes, was = string.match(redis.call('HGET', roster, user) or '', '^(%d+) (.*)$')
  if was and tonumber(nodes) > 1 then
    redis.call('HSET', roster, user, nodes - 1 .. ' ' .. was)
    return false
  end
  return redis.call('HDEL', roster, user) == 1 and cjson.encode(user)
end

local function step(roster, room)
  local joined, left = {}, {}
  for _ = 1, tonumber(argument()) do
    local what, user, json = argument(), argument(), argument()
    if what == '-' then
      left[#left + 1] = remove(roster, room, user) or nil
    else
      joined[#joined + 1] = add(roster, room, what, user, json) or nil
    end
  end
  if #joined + #left == 0 then return end
  -- A roster that begins has a higher version than any that the room had before it was empty.
  redis.call('HSETNX', roster, '', string.format('%.0f', time[1] * 1000000 + time[2]))
  local version, count = redis.call('HINCRBY', roster, '', 1), redis.call('HLEN', roster) - 1
  if count == 0 then
    redis.call('DEL', roster)
    redis.call('ZREM', KEYS[3], room)
  elseif string.sub(room, 1, 3) ~= 'dm:' then
    redis.call('ZADD', KEYS[3], count, room)
  end
  lines[#lines + 1] = '{"presence":{"room":' .. cjson.encode(room)
    .. ',"version":' .. string.format('%.0f', version)
    .. ',"joined":[' .. table.concat(joined, ',') .. '],"left":[' .. table.concat(left, ',')
    .. '],"count":' .. count .. '}}'
end

for r = 4, #KEYS do step(KEYS[r], argument()) end
-- A node that misses a step notices it at the next one, by the version.
if #lines > 0 then redis.pcall(ARGV[3], ARGV[4], table.concat(lines, '\n')) end
if not reaping then return { 1, redis.call('HLEN', KEYS[2]) - 1 } end
local rest = redis.call('HLEN', KEYS[2]) - redis.call('HEXISTS', KEYS[2], '')
-- reap.lua removes the lease.
if rest == 0 then redis.call('DEL', KEYS[2]) end
return { 1, rest }
