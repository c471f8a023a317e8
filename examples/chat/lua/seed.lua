-- Give back to Redis what it may have lost of a room.
-- KEYS: log, last id, since.
-- ARGV: messages to keep, milliseconds that the room is kept, the id up to which there may have been
-- other messages, then for each message: id, message.
redis.call('SET', KEYS[3], ARGV[3], 'NX')
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
for index = 4, #ARGV, 2 do
  if tonumber(ARGV[index]) > last then
    redis.call('SET', KEYS[2], ARGV[index])
    redis.call('RPUSH', KEYS[1], ARGV[index + 1])
  end
end
redis.call('LTRIM', KEYS[1], -ARGV[1], -1)
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[2])
end
return 1
