"""The scripts of the Redis storage, each of which is atomic on the server. ``lua.py`` has what they share."""

from __future__ import annotations

from .lua import READS, USES, WRITES, WRITING, script

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
each_header(function(key, header)
    answer[#answer + 1] = key
    answer[#answer + 1] = header
end)
return answer
""",
)

ALL = script(
    READS,
    """
local answer = {'OK'}
for _, field in ipairs(names()) do
    local value = get(field)
    if value then
        answer[#answer + 1] = field
        answer[#answer + 1] = value
    end
end
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

# An index of a user's sessions: takes out those that are there with the score that was seen.
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

# Transactions

RELEASE_SAVEPOINT = script(
    WRITES,
    """
local below = KEYS[layers - 1]
if call('HEXISTS', top, '*') == 1 then hide_below(below) end
local fields = call('HGETALL', top)
for i = 1, #fields, 2 do
    local field = fields[i]
    if field ~= '#' and field ~= '*' then
        if string.sub(field, 1, 2) == 'i:' then
            local key = string.sub(field, 3)
            local _, _, _, name = parse(in_layer(fields[i + 1]))
            local _, _, _, old_name = parse(in_layer(call('HGET', below, field) or '-'))
            if old_name ~= name then unlink_in_layer(layers - 1, key) end
        end
        call('HSET', below, field, fields[i + 1])
    end
end
call('HINCRBY', below, '#', 1)
call('PEXPIRE', below, 2 * lease)
call('DEL', top)
return {'OK'}
""",
)

# Gets the record and the layer of each owner. Whatever is missing is noticed before anything changes.
COMMIT = script(
    WRITING,
    """
local function is_whole(layer, count)
    if call('GET', lock) ~= token or (call('HGET', layer, '#') or '0') ~= count then return false end
    local fields = call('HGETALL', layer)
    for i = 1, #fields, 2 do
        local _, _, _, name = parse(string.sub(fields[i], 1, 2) == 'i:' and in_layer(fields[i + 1]))
        if name and name ~= '-' and call('EXISTS', buffer(name)) == 0 then return false end
    end
    return true
end

local function apply_header(key, header)
    local _, _, before, old_name = parse(call('HGET', main, 'i:' .. key))
    local _, _, key_expires, name = parse(header)
    if old_name ~= name then unlink(old_name) end
    if name and name ~= '-' and old_name ~= name then call('SADD', buffers, name) end
    if header then note_expiry(key, key_expires, before, 'inf') else call('ZREM', expiring, key) end
end

local function apply(layer)
    if call('HEXISTS', layer, '*') == 1 then
        call('HSET', main, 'expires', '0')  -- A server whose memory is full refuses it here.
        discard()
    end
    local fields = call('HGETALL', layer)
    for i = 1, #fields, 2 do
        local field, value = fields[i], in_layer(fields[i + 1])
        if field ~= '#' and field ~= '*' then
            if string.sub(field, 1, 2) == 'i:' then apply_header(string.sub(field, 3), value) end
            if value then call('HSET', main, field, value) else call('HDEL', main, field) end
        end
    end
    local expires, session, renewed, user = unpack(call('HMGET', main, 'expires', 'session', 'renewed', 'user'))
    if call('HEXISTS', layer, 'renewed') == 1 then remember(session, renewed, user) end
    if expires then keep_all(expires) else discard() end
end

local owners = {}
for count in string.gmatch(counts, '%d+') do
    local n = 2 * #owners + 1
    open(KEYS[n])
    if not is_whole(KEYS[n + 1], count) then return {'LOST'} end
    owners[#owners + 1] = {KEYS[n], KEYS[n + 1], count}
end
top = false
for _, owner in ipairs(owners) do
    local key, layer, count = unpack(owner)
    open(key)
    if count ~= '0' then apply(layer) end
    call('DEL', layer, lock)
end
return {'OK'}
""",
)

# Ends a savepoint, or a transaction with its lease, that failed: its topmost layer.
ROLL_BACK = script(
    WRITING,
    """
if top then
    for _, field in ipairs(call('HKEYS', top)) do
        if string.sub(field, 1, 2) == 'i:' then unlink_in_layer(layers, string.sub(field, 3)) end
    end
    call('DEL', top)
end
if call('EXISTS', main) == 0 then call('UNLINK', expiring) end
if counts == 'lease' and call('GET', lock) == token then call('DEL', lock) end
return {'OK'}
""",
)
