-- A room at one moment.
-- KEYS: log, nicks.
-- Returns the messages, and the owners of the nicknames: session, member and nickname.
return {redis.call('LRANGE', KEYS[1], 0, -1), redis.call('HVALS', KEYS[2])}
