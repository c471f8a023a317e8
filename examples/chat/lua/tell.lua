-- Tell all what nobody has to remember.
-- KEYS: channel.
-- ARGV: the event as JSON.
return redis.call('PUBLISH', KEYS[1], ARGV[1])
