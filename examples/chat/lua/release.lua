-- Leave.
-- KEYS: nicks, leases, channel.
-- ARGV: folded nickname, member.
local owner = redis.call('HGET', KEYS[1], ARGV[1])
if owner then
  local member, nick = string.match(owner, '^%S+ (%S+) (.*)$')
  if member == ARGV[2] then
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('ZREM', KEYS[2], ARGV[1])
    redis.call('PUBLISH', KEYS[3], cjson.encode({type = 'left', nick = nick}))
  end
end
return 1
