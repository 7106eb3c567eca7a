-- The newest accounts, the oldest of them first.
--
-- KEYS[1] accounts       hash: id -> account (JSON)
-- KEYS[2] account-list   list of ids, the oldest first
-- ARGV[1] most accounts
-- Returns the accounts.
local found = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[2], -tonumber(ARGV[1]), -1)) do
  local text = redis.call('HGET', KEYS[1], id)
  if text then found[#found + 1] = text end
end
return found
