-- Leave, whatever nickname the member has by now.
-- KEYS: nicks, leases, channel.
-- ARGV: member.
local entries = redis.call('HGETALL', KEYS[1])
for index = 1, #entries, 2 do
  local folded = entries[index]
  local member, nick = string.match(entries[index + 1], '^%S+ (%S+) (.*)$')
  if member == ARGV[1] then
    redis.call('HDEL', KEYS[1], folded)
    redis.call('ZREM', KEYS[2], folded)
    redis.call('PUBLISH', KEYS[3], cjson.encode({type = 'left', nick = nick}))
  end
end
return 1
