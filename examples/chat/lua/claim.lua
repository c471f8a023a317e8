-- Take nicknames, or keep them.
-- KEYS: nicks, leases, channel, and the other keys of the room, which live on with these.
-- ARGV: milliseconds of a lease, milliseconds that the room is kept, 1 if who has the session may
-- take a nickname over, then for each member: folded nickname, session, member, nickname.
-- Returns for each member 1 if the nickname is theirs, else 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local takeover = ARGV[3] == '1'

-- Those whose server did not renew their lease have left.
for _, folded in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  local nick = string.match(redis.call('HGET', KEYS[1], folded), '^%S+ %S+ (.*)$')
  redis.call('HDEL', KEYS[1], folded)
  redis.call('ZREM', KEYS[2], folded)
  redis.call('PUBLISH', KEYS[3], cjson.encode({type = 'left', nick = nick}))
end

local results = {}
for index = 4, #ARGV, 4 do
  local folded, session, member, nick = ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3]
  local owner = redis.call('HGET', KEYS[1], folded)
  local theirs = true
  if owner then
    local its_session, its_member = string.match(owner, '^(%S+) (%S+) ')
    theirs = its_member == member or (takeover and its_session == session)
  end
  if theirs then
    redis.call('HSET', KEYS[1], folded, session .. ' ' .. member .. ' ' .. nick)
    redis.call('ZADD', KEYS[2], now + ARGV[1], folded)
    if not owner then
      redis.call('PUBLISH', KEYS[3], cjson.encode({type = 'joined', nick = nick}))
    end
  end
  table.insert(results, theirs and 1 or 0)
end

for index, key in ipairs(KEYS) do
  if index ~= 3 then
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
return results
