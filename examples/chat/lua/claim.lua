-- Take nicknames, or take them back.
-- KEYS: nicks, leases, channel, and the other keys of the room, which live on with these.
-- ARGV: milliseconds of a lease, milliseconds that the room is kept, 1 if who has the session may
-- take a nickname over, or 0 if it is taken back by those who have lost it; then for each member:
-- folded nickname, session, member, nickname.
-- Returns for each member 1 if it has a nickname now, else 0.
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

-- Those who want back what they have lost may have found another nickname.
local has_nickname = {}
if not takeover and #ARGV > 3 then
  for _, owner in ipairs(redis.call('HVALS', KEYS[1])) do
    has_nickname[string.match(owner, '^%S+ (%S+)')] = true
  end
end

local function claim(folded, session, member, nick)
  if has_nickname[member] then
    return 1
  end
  local owner = redis.call('HGET', KEYS[1], folded)
  if owner and not (takeover and string.match(owner, '^%S+') == session) then
    return 0
  end
  redis.call('HSET', KEYS[1], folded, session .. ' ' .. member .. ' ' .. nick)
  redis.call('ZADD', KEYS[2], now + ARGV[1], folded)
  if not owner then
    redis.call('PUBLISH', KEYS[3], cjson.encode({type = 'joined', nick = nick}))
  end
  return 1
end

local results = {}
for index = 4, #ARGV, 4 do
  table.insert(results, claim(unpack(ARGV, index, index + 3)))
end

for index, key in ipairs(KEYS) do
  if index ~= 3 then
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
return results
