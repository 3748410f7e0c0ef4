"""The Lua scripts of the Redis storage. Each is atomic. ``lua.py`` has the code that they share."""

from __future__ import annotations

from ..base import VERSION_BYTES
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

# How many gaps a search for a few keys skips before it reads all keys, and how many a write trims at the ends.
GAPS = 1000

# Arguments: the number of keys, or -1 for all; and 1 for the last ones. It may return more.
HEADERS = script(
    READS,
    f"""
local limit, is_from_end = tonumber(ARGV[7]), ARGV[8] == '1'
local expires, stored_session, renewed, keys, first, next_position =
    get_all('expires', 'session', 'renewed', 'keys', 'first', 'next')
local answer = {{'OK', expires, stored_session, renewed}}
local function add(key, header)
    answer[#answer + 1] = key
    answer[#answer + 1] = header
end

local function add_from_end()
    local live, found, positions = 0, 0, {{}}
    first, next_position = tonumber(first or 1), tonumber(next_position or 1)
    local last = next_position - 1
    for n = 0, math.min(last - first, limit + {GAPS}) do
        local position = is_from_end and last - n or first + n
        local key = get(at(position))
        local header = key and get('i:' .. key)
        local stored_position, _, key_expires = parse(header)
        if tonumber(stored_position or '') == position then
            add(key, header)
            found = found + 1
            if is_live(key_expires) then live = live + 1 end
            if live == limit then return true end
        end
    end
    return found == tonumber(keys or '')
end

if limit < 0 or not add_from_end() then
    answer = {{'OK', expires, stored_session, renewed}}
    each_field('i:*', function(field, header) add(string.sub(field, 3), header) end)
end
return answer
""",
)

# Arguments: keys; none for all.
VERSIONS = script(
    READS,
    f"""
local answer = {{'OK', get_all('expires', 'session', 'renewed')}}
local function add(key, header)
    local position, _, key_expires = parse(header)
    if position and is_live(key_expires) then
        answer[#answer + 1] = key
        answer[#answer + 1] = string.sub(get('v:' .. key) or '', -{VERSION_BYTES})
    end
end
if #ARGV == 6 then each_field('i:*', function(field, header) add(string.sub(field, 3), header) end) end
for i = 7, #ARGV do add(ARGV[i], get('i:' .. ARGV[i])) end
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
local expires, stored_session, renewed, bytes, keys, user =
    get_all('expires', 'session', 'renewed', 'bytes', 'keys', 'user')
local expired_bytes, expired_keys = expired({})
bytes, keys = (tonumber(bytes or '') or 0) - expired_bytes, (tonumber(keys or '') or 0) - expired_keys
return {'OK', expires, stored_session, renewed, string.format('%.0f', bytes), keys, user}
""",
)

# Writing

# The beginning of scripts that use an owner: they check its session, and read its counts and expiry.
# Arguments: the expiry and touch threshold of the access.
USES = (
    WRITES
    + f"""
local access_expires, touch_threshold = ARGV[7], number(ARGV[8])
local stored_session, renewed = known()
if not is_opened_by(stored_session) then return {{'ENDED', renewed or '0'}} end
local stored, bytes, keys, next_position, first = get_all('expires', 'bytes', 'keys', 'next', 'first')
local expiry = number(stored)
local was_live = expiry ~= nil and expiry > now
local is_due = not was_live or math.abs(expiry - number(access_expires)) > touch_threshold
local expires = is_due and access_expires or stored
bytes, keys, next_position = tonumber(bytes or ''), tonumber(keys or ''), tonumber(next_position or '')
first = tonumber(first or '') or 1
local user
if not was_live then
    bytes, keys, next_position, first = 0, 0, 1, 1
elseif not (bytes and keys and next_position) then  -- They are damaged.
    bytes, keys, next_position, first = 0, 0, 1, 1
    each_field('i:*', function(_, header)
        local position, size = parse(header)
        if position then
            bytes, keys, next_position = bytes + size, keys + 1, math.max(next_position, tonumber(position) + 1)
        end
    end)
end

-- Trims gaps at both ends of the positions.
local function trim()
    local before, gaps = first, 0
    while gaps < {GAPS} and first < next_position and not get(at(next_position - 1)) do
        next_position, gaps = next_position - 1, gaps + 1
    end
    while gaps < {GAPS} and first < next_position and not get(at(first)) do
        first, gaps = first + 1, gaps + 1
    end
    if first ~= before then put('first', first) end
end

-- Removes some expired keys from the record. Layers of a transaction are not changed: their counts include them.
local function sweep(limit)
    local swept = 0
    for _, key in ipairs(call('ZRANGEBYSCORE', expiring, '-inf', now_text, 'LIMIT', 0, limit)) do
        local position, size, key_expires, name = parse(get('i:' .. key))
        if position and not is_live(key_expires) then
            forget(key, position, name)
            bytes, keys, swept = bytes - size, keys - 1, swept + 1
        elseif position and key_expires ~= '-' then
            call('ZADD', expiring, key_expires, key)
        else
            call('ZREM', expiring, key)
        end
    end
    if swept > 0 then
        trim()
        put('bytes', bytes, 'keys', keys, 'next', next_position)
    end
    return swept
end

-- Stores the counts, and the expiry if this use moves it.
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

# Arguments: the limits, and for each value key, expiry, payload, and the name of its buffers.
SET = script(
    USES,
    """
local max_bytes, max_keys = tonumber(ARGV[9]), tonumber(ARGV[10])
local seen, values, replaced, past = {}, {}, {}, {}
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
    if position and not is_there then
        bytes, keys = bytes - size, keys - 1
        past[#past + 1] = position
    end
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
    local new_position = not is_there and string.format('%.0f', next_position)
    if new_position then position, next_position = new_position, next_position + 1 end
    if wanted == 'keep' then wanted = is_there and key_expires or '-' end
    if old_name and old_name ~= name then replaced[#replaced + 1] = old_name end
    seen[key] = string.format('%s %.0f %s %s', position, new_size, wanted, name)
    values[#values + 1] = {key, payload, wanted, name, key_expires, new_position}
end
if not was_live then
    if not top then call('HSET', main, 'expires', expires) end
    erase_all()
end
for _, value in ipairs(values) do
    local key, payload, wanted, name, before, new_position = unpack(value, 1, 6)
    if top then unlink_in_layer(layers, key) end
    put('i:' .. key, seen[key], 'v:' .. key, payload)
    if new_position then put(at(new_position), key) end
    note_expiry(key, wanted, before, expires)
    if not top and name ~= '-' then link(name, expires) end
end
if not top then
    for _, name in ipairs(replaced) do unlink(name) end
end
if #past > 0 then
    for _, position in ipairs(past) do remove(at(position)) end
    trim()
end
record()
return {'OK'}
""",
)

# Deletes buffers, unless a header names them.
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
    forget(key, position, name)
    if position then
        bytes, keys = bytes - size, keys - 1
        trim()
    end
    record()
end
return {'OK', position and is_live(key_expires) and 1 or 0}
""",
)

CLEAR = script(
    USES,
    """
if was_live then
    local created
    created, user = get_all('created', 'user')
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
if not top then remember(session, renewed) end
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

# The index of a user's sessions: a sorted set of the owners' names, by the time at which they were added.

# Arguments: the time, the owner, and for how many milliseconds to keep it. PERSIST comes first, so that a full server
# does not refuse the script.
INDEX_SESSION = script("""
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return {'OK'}
""")

# Removes owners whose score has not changed since it was read.
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

# Arguments: an expiry and a threshold, which are ignored; and the time before which ended owners are forgotten.
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

# Arguments: the expiry and the session's fields. It runs in a transaction, which sets the values afterwards.
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

# The end of a transaction or a savepoint: its layer is merged into the one below, or deleted.

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

# Keys: the record and the layer of each owner. Nothing is changed before all layers are checked.
COMMIT = script(
    WRITING,
    """
-- The fields of a layer; nil if the lease, or a part of the layer, is lost.
local function whole(layer, count)
    if call('GET', lock) ~= token or (call('HGET', layer, '#') or '0') ~= count then return end
    local fields = call('HGETALL', layer)
    for i = 1, #fields, 2 do
        if string.sub(fields[i], 1, 2) == 'i:' and string.sub(fields[i + 1], -2) ~= ' -' then
            local _, _, _, name = parse(in_layer(fields[i + 1]))
            if name and call('EXISTS', buffer(name)) == 0 then return end
        end
    end
    return fields
end

local function apply_header(field, header)
    local key = string.sub(field, 3)
    local _, _, before, old_name = parse(call('HGET', main, field))
    local _, _, key_expires, name = parse(header)
    if old_name ~= name then unlink(old_name) end
    if name and name ~= '-' and old_name ~= name then call('SADD', buffers, name) end
    if header then note_expiry(key, key_expires, before, 'inf') else call('ZREM', expiring, key) end
end

local function apply(layer, fields)
    if call('HEXISTS', layer, '*') == 1 then
        call('HSET', main, 'expires', '0')  -- With full memory, the server refuses the script here.
        local kept = {}  -- If the same owner is loaded again, its buffers have the same names.
        for i = 1, #fields, 2 do
            local _, _, _, name = parse(string.sub(fields[i], 1, 2) == 'i:' and in_layer(fields[i + 1]))
            if name then kept[name] = true end
        end
        discard(kept)
    end
    local is_new, pairs_ = call('EXISTS', main) == 0, {}
    for i = 1, #fields, 2 do
        local field, value = fields[i], in_layer(fields[i + 1])
        local is_plain = value and string.sub(value, -4) == ' - -'  -- Without expiry and buffers.
        if string.sub(field, 1, 2) == 'i:' and not (is_new and is_plain) then apply_header(field, value) end
        if value then
            pairs_[#pairs_ + 1], pairs_[#pairs_ + 2] = field, value
        elseif field ~= '#' and field ~= '*' then
            call('HDEL', main, field)
        end
        if #pairs_ >= 1000 or i == #fields - 1 and #pairs_ > 0 then
            call('HSET', main, unpack(pairs_))
            pairs_ = {}
        end
    end
    local expires, session, renewed = unpack(call('HMGET', main, 'expires', 'session', 'renewed'))
    if call('HEXISTS', layer, 'renewed') == 1 then remember(session, renewed) end
    if expires then keep_all(expires) else discard() end
end

local owners = {}
for count in string.gmatch(counts, '%d+') do
    local n = 2 * #owners + 1
    open(KEYS[n])
    local fields = whole(KEYS[n + 1], count)
    if not fields then return {'LOST'} end
    owners[#owners + 1] = {KEYS[n], KEYS[n + 1], fields}
end
top = false
for _, owner in ipairs(owners) do
    local key, layer, fields = unpack(owner)
    open(key)
    if #fields > 0 then apply(layer, fields) end
    call('DEL', layer, lock)
end
return {'OK'}
""",
)

# Rolls back a savepoint, or a transaction with its lease: deletes the topmost layer.
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
