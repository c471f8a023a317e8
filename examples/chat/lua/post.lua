-- Say something, once.
-- KEYS: log, last id, what was said by session and key, channel.
-- ARGV: session and key, the message as JSON from behind its id on, messages to keep, milliseconds
-- for which keys are remembered, keys to remember, milliseconds that the room is kept.
-- Returns the id of the message.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local said = redis.call('ZSCORE', KEYS[3], ARGV[1])
if said then
  return tonumber(said)
end
local id = math.max(now, tonumber(redis.call('GET', KEYS[2]) or '0') + 1)
local message = string.format('{"type":"message","id":%.0f,', id) .. ARGV[2]
redis.call('SET', KEYS[2], string.format('%.0f', id))
redis.call('RPUSH', KEYS[1], message)
redis.call('LTRIM', KEYS[1], -ARGV[3], -1)
redis.call('ZADD', KEYS[3], string.format('%.0f', id), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[4])
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -ARGV[5] - 1)
for index = 1, 3 do
  redis.call('PEXPIRE', KEYS[index], ARGV[6])
end
redis.call('PUBLISH', KEYS[4], message)
return id
