-- Give back the log of a room to a Redis that has lost it.
-- KEYS: log, last id.
-- ARGV: milliseconds that the room is kept, the last id, the messages.
if redis.call('EXISTS', KEYS[1]) == 0 then
  for index = 3, #ARGV do
    redis.call('RPUSH', KEYS[1], ARGV[index])
  end
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return 1
