"""The scripts of the Redis storage, each of which is atomic on the server. ``lua.py`` has what they share."""

from __future__ import annotations

from .lua import READS, WRITES, WRITING, script

# Reading

FIELDS = script(
    READS,
    """
local answer = {'OK'}
for i = 7, #ARGV do answer[#answer + 1] = get(ARGV[i]) end
return answer
""",
)

HEADERS = script(
    READS,
    """
local answer = {'OK', get_all('expires', 'session', 'renewed')}
each_field('i:*', function(field, header)
    answer[#answer + 1] = string.sub(field, 3)
    answer[#answer + 1] = header
end)
return answer
""",
)

ALL = script(
    READS,
    """
local answer = {'OK'}
each_field('*', function(field, value)
    answer[#answer + 1] = field
    answer[#answer + 1] = value
end)
return answer
""",
)

STAT = script(
    READS,
    """
local expires, stored_session, renewed, bytes, keys = get_all('expires', 'session', 'renewed', 'bytes', 'keys')
local expired_bytes, expired_keys = expired({})
bytes, keys = (tonumber(bytes or '') or 0) - expired_bytes, (tonumber(keys or '') or 0) - expired_keys
return {'OK', expires, stored_session, renewed, string.format('%.0f', bytes), keys}
""",
)

# Writing

# A use of the owner: whether its session is the caller's, how much there is, and when it expires, before and after.
# It gets the access's expiry and touch threshold.
USES = (
    WRITES
    + """
local access_expires, touch_threshold = ARGV[7], number(ARGV[8])
local stored_session, renewed, user = known()
if not is_opened_by(stored_session) then return {'ENDED', renewed or '0'} end
local stored, bytes, keys, next_position = get_all('expires', 'bytes', 'keys', 'next')
local expiry = number(stored)
local was_live = expiry ~= nil and expiry > now
local is_due = not was_live or math.abs(expiry - number(access_expires)) > touch_threshold
local expires = is_due and access_expires or stored
bytes, keys, next_position = tonumber(bytes or ''), tonumber(keys or ''), tonumber(next_position or '')
if not was_live then
    bytes, keys, next_position = 0, 0, 1
elseif not (bytes and keys and next_position) then  -- They are damaged.
    bytes, keys, next_position = 0, 0, 1
    each_field('i:*', function(_, header)
        local position, size = parse(header)
        if position then
            bytes, keys, next_position = bytes + size, keys + 1, math.max(next_position, tonumber(position) + 1)
        end
    end)
end

-- Removes some of what has expired by itself. A transaction's layers are left as they are: its counts allow for it.
local function sweep(limit)
    local swept = 0
    for _, key in ipairs(call('ZRANGEBYSCORE', expiring, '-inf', now_text, 'LIMIT', 0, limit)) do
        local position, size, key_expires, name = parse(get('i:' .. key))
        if position and not is_live(key_expires) then
            forget(key, name)
            bytes, keys, swept = bytes - size, keys - 1, swept + 1
        elseif position and key_expires ~= '-' then
            call('ZADD', expiring, key_expires, key)
        else
            call('ZREM', expiring, key)
        end
    end
    if swept > 0 then put('bytes', bytes, 'keys', keys) end
    return swept
end

-- Writes down what there is now, and when the owner expires after this use.
local function record()
    if is_due then put('expires', expires) end
    put('bytes', bytes, 'keys', keys, 'next', next_position)
    if not was_live then
        put('session', session, 'created', now_text)
        if renewed then put('renewed', renewed) end
        if user then put('user', user) end
    end
    if not top then
        if is_due then keep_all(expires) end
        sweep(100)
    end
end
"""
)

TOUCH = script(
    WRITES,
    """
local stored = get('expires')
local expiry = number(stored)
local is_same = is_opened_by((known()))
if is_same and expiry and expiry > now and math.abs(expiry - number(ARGV[7])) > number(ARGV[8]) then
    if not top then keep_all(ARGV[7]) end
    put('expires', ARGV[7])
end
return {'OK'}
""",
)

# Gets the limits, and four arguments for each value: key, expiry, payload, and the name of its buffers.
SET = script(
    USES,
    """
local max_bytes, max_keys = tonumber(ARGV[9]), tonumber(ARGV[10])
local seen, values, replaced = {}, {}, {}
for i = 11, #ARGV, 4 do
    local key, wanted, payload, name = unpack(ARGV, i, i + 3)
    local position, size, key_expires, old_name = parse(seen[key] or was_live and get('i:' .. key))
    local is_there = position and is_live(key_expires)
    local new_size = #key + #payload
    if name ~= '-' then
        local buffer_size = call('STRLEN', buffer(name))
        if buffer_size == 0 then return {'GONE'} end
        new_size = new_size + buffer_size
    end
    if position and not is_there then bytes, keys = bytes - size, keys - 1 end
    local more_bytes, more_keys = new_size - (is_there and size or 0), is_there and 0 or 1
    seen[key] = seen[key] or '-'
    bytes, keys = bytes + more_bytes, keys + more_keys
    if more_bytes > 0 and bytes > max_bytes or more_keys > 0 and keys > max_keys then
        local expired_bytes, expired_keys = expired(seen)
        if more_keys > 0 and keys - expired_keys > max_keys then return {'KEYS', key} end
        if more_bytes > 0 and bytes - expired_bytes > max_bytes then
            return {'BYTES', key, more_bytes, bytes - expired_bytes - more_bytes}
        end
    end
    if not is_there then
        position = string.format('%.0f', next_position)
        next_position = next_position + 1
    end
    if wanted == 'keep' then wanted = is_there and key_expires or '-' end
    if old_name and old_name ~= name then replaced[#replaced + 1] = old_name end
    seen[key] = string.format('%s %.0f %s %s', position, new_size, wanted, name)
    values[#values + 1] = {key, payload, wanted, name, key_expires}
end
if not was_live then
    if not top then call('HSET', main, 'expires', expires) end
    erase_all()
end
for _, value in ipairs(values) do
    local key, payload, wanted, name, before = unpack(value, 1, 5)
    if top then unlink_in_layer(layers, key) end
    put('i:' .. key, seen[key], 'v:' .. key, payload)
    note_expiry(key, wanted, before, expires)
    if not top and name ~= '-' then link(name, expires) end
end
if not top then
    for _, name in ipairs(replaced) do unlink(name) end
end
record()
return {'OK'}
""",
)

# Deletes buffers that no header names.
UNLINK = script(
    WRITING,
    """
for i = 7, #ARGV do
    if call('SISMEMBER', buffers, ARGV[i]) == 0 then call('UNLINK', buffer(ARGV[i])) end
end
return {'OK'}
""",
)

EXPIRE = script(
    USES,
    """
local key, wanted = ARGV[9], ARGV[10]
local position, size, key_expires, name = parse(was_live and get('i:' .. key))
local is_there = position and is_live(key_expires)
if is_there then
    put('i:' .. key, string.format('%s %.0f %s %s', position, size, wanted, name))
    note_expiry(key, wanted, key_expires, expires)
end
if was_live then record() end
return {'OK', is_there and 1 or 0}
""",
)

DELETE = script(
    USES,
    """
local key = ARGV[9]
local position, size, key_expires, name = parse(was_live and get('i:' .. key))
if was_live then
    forget(key, name)
    if position then bytes, keys = bytes - size, keys - 1 end
    record()
end
return {'OK', position and is_live(key_expires) and 1 or 0}
""",
)

CLEAR = script(
    USES,
    """
if was_live then
    local created = get('created')
    erase_all()
    bytes, keys, next_position, was_live, is_due = 0, 0, 1, false, true
    session = stored_session or session
    record()
    if created then put('created', created) end
end
return {'OK'}
""",
)

# Sessions

RENEW = script(
    USES,
    """
session, renewed, expires, is_due = ARGV[9], now_text, access_expires, true
if ARGV[10] ~= '' then user = ARGV[10] end
if was_live then
    if not top then keep_all(expires) end
    put('expires', expires, 'session', session, 'renewed', renewed)
    if user then put('user', user) end
else
    erase_all()
    record()
end
if not top then remember(session, renewed, user) end
return {'OK'}
""",
)

END = script(
    WRITES,
    """
local stored, renewed = known()
if not is_opened_by(stored) then return {'OK', renewed or now_text} end
erase_all()
if top then put('session', '', 'renewed', now_text) else remember('', now_text) end
return {'OK', now_text}
""",
)

# The index of a user's sessions: the names of their owners, by when they were written there.

# Gets the time, the owner, and the milliseconds for which it may be live. PERSIST comes first for a full server's sake.
INDEX_SESSION = script("""
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return {'OK'}
""")

# Takes out those that are there with the score that was seen.
FORGET_SESSIONS = script("""
for i = 1, #ARGV, 2 do
    if redis.call('ZSCORE', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return {'OK'}
""")

# Maintenance and copying

LIMIT_EXPIRY = script(
    WRITES,
    """
local expiry = number(get('expires'))
if expiry and expiry < math.huge and expiry > number(ARGV[7]) then put('expires', ARGV[7]) end
return {'OK'}
""",
)

# Gets an expiry that counts for nothing, and before when it was that those ended who can be forgotten.
PURGE = script(
    USES,
    """
local owners, swept, has_more = 0, 0, 0
if was_live then
    swept = sweep(1000)
    if swept == 1000 then has_more = 1 end
else
    if call('EXISTS', main) == 1 then owners = 1 end
    discard()
    local ended = number(call('HGET', remembered, 'renewed'))
    if ended and ended < number(ARGV[9]) then
        call('UNLINK', remembered)
        owners = 1
    end
end
return {'OK', owners, swept, has_more}
""",
)

# Gets an expiry and what is known of the session. In a transaction; the values are set afterwards.
LOAD = script(
    WRITES,
    """
erase_all()
local expires, stored, renewed_at, user, created = unpack(ARGV, 7, 11)
put('session', stored)
if renewed_at ~= '' then put('renewed', renewed_at) end
if user ~= '' then put('user', user) end
if stored ~= '' then put('expires', expires, 'created', created, 'bytes', 0, 'keys', 0, 'next', 1) end
return {'OK'}
""",
)
