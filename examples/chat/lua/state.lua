-- A room at one moment. Whatever was said before it was made, or made anew, is gone.
-- KEYS: log, nicks, since.
-- ARGV: milliseconds that the room is kept.
-- Returns the messages, the owners of the nicknames (session, member and nickname), and the id up to
-- which there may have been other messages.
local time = redis.call('TIME')
local before = time[1] * 1000 + math.floor(time[2] / 1000) - 1
redis.call('SET', KEYS[3], string.format('%.0f', before), 'NX', 'PX', ARGV[1])
return {
  redis.call('LRANGE', KEYS[1], 0, -1),
  redis.call('HVALS', KEYS[2]),
  redis.call('GET', KEYS[3])
}
