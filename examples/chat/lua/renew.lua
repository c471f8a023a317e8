-- Keep nicknames that are still held.
-- KEYS: nicks, leases.
-- ARGV: milliseconds of a lease, then for each member: folded nickname, member.
-- Returns for each member 1 if it has that nickname, else 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local results = {}
for index = 2, #ARGV, 2 do
  local folded, member = ARGV[index], ARGV[index + 1]
  local owner = redis.call('HGET', KEYS[1], folded)
  local is_held = owner and string.match(owner, '^%S+ (%S+)') == member
  if is_held then
    redis.call('ZADD', KEYS[2], now + ARGV[1], folded)
  end
  table.insert(results, is_held and 1 or 0)
end
return results
