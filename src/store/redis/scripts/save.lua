-- Stores a session, or keeps it alive, unless another holder has claimed it.
--
-- KEYS[1] session  text: "<holder> <number>", then a line with the record
-- ARGV[1] holder  [2] number of this record among the holder's  [3] record  [4] life (ms)
-- Returns { 1 }, or { 0 }: another holder has it.
local holder, number = string.match(redis.call('GET', KEYS[1]) or '', '^(%x+) (%d+)\n')
if holder and holder ~= ARGV[1] then return { 0 } end
if holder and tonumber(number) >= tonumber(ARGV[2]) then
  -- It is there already. A call that was delayed must not undo one that was sent after it.
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. '\n' .. ARGV[3], 'PX', ARGV[4])
end
return { 1 }
