-- Take another nickname.
-- KEYS: nicks, leases, channel.
-- ARGV: milliseconds of a lease, session, member, the folded nicknames old and new, both nicknames.
-- Returns 1, 0 if the new nickname is somebody else's, or -1 if the member does not have the old one:
-- who has left meanwhile does not come back by this.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local session, member, old_folded, new_folded = ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local old_owner = redis.call('HGET', KEYS[1], old_folded)
if not old_owner or string.match(old_owner, '^%S+ (%S+)') ~= member then
  return -1
end
local owner = redis.call('HGET', KEYS[1], new_folded)
if owner and string.match(owner, '^%S+') ~= session
    and tonumber(redis.call('ZSCORE', KEYS[2], new_folded)) > now then
  return 0
end
redis.call('HDEL', KEYS[1], old_folded)
redis.call('ZREM', KEYS[2], old_folded)
redis.call('HSET', KEYS[1], new_folded, session .. ' ' .. member .. ' ' .. ARGV[7])
redis.call('ZADD', KEYS[2], now + ARGV[1], new_folded)
redis.call('PUBLISH', KEYS[3], cjson.encode({type = 'renamed', old = ARGV[6], new = ARGV[7]}))
return 1
