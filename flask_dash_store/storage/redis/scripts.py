"""The scripts of the Redis storage, each of which is atomic on the server. ``lua.py`` has what they share."""

from __future__ import annotations

from .lua import ACCOUNT, LIBRARY, READS, WRITES, script

FIELDS = script(
    READS,
    """
local answer = {'OK'}
for i = 5, #ARGV do answer[#answer + 1] = get(ARGV[i]) end
return answer
""",
)

INDEX = script(
    READS,
    """
local answer = {'OK', get('expires')}
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
    answer[#answer + 1] = field
    answer[#answer + 1] = get(field)
end
return answer
""",
)

# What is removed or renewed comes first in scripts that must work when the server's memory is full: it refuses a
# script's first write only.

TOUCH = script(
    WRITES,
    """
local expiry = number(get('expires'))
if expiry and expiry > now and math.abs(expiry - number(ARGV[5])) > number(ARGV[6]) then
    settle(ARGV[5])
    put('expires', ARGV[5])
end
return {'OK'}
""",
)

SET = script(
    WRITES,
    ACCOUNT,
    """
local max_bytes, max_keys, key, wanted = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], ARGV[10]
local payload, body_name, body = ARGV[11], ARGV[12], ARGV[13]
local place, size, key_expires, old_body = parse(get('i:' .. key))
local is_there = place and is_live(key_expires)
local more_bytes, more_keys = #key + #payload + #body, 1
if is_there then
    more_bytes, more_keys = more_bytes - size, 0
elseif place then
    bytes, keys = bytes - size, keys - 1
end

local function fits()
    return (more_bytes <= 0 or bytes + more_bytes <= max_bytes) and (more_keys == 0 or keys < max_keys)
end

local stale = {}
if not fits() then
    stale = measure()
    if not fits() then
        if more_keys == 1 and keys >= max_keys then return {'KEYS'} end
        return {'BYTES', more_bytes, bytes}
    end
end
if wanted == 'keep' then wanted = is_there and key_expires or '-' end
local new_size = #key + #payload + #body
bytes, keys = bytes + more_bytes, keys + more_keys
if not is_there then
    place = next_place
    next_place = next_place + 1
end
local header = string.format('%.0f %.0f %s %s', place, new_size, wanted, body_name)
if body_name == '-' then
    record('i:' .. key, header, 'v:' .. key, payload)
    if old_body and old_body ~= '-' then erase('b:' .. key) end
else
    record('i:' .. key, header, 'v:' .. key, payload, 'b:' .. key, body)
end
settle_key(key, wanted)
for _, other in ipairs(stale) do
    if other ~= key then forget(other) end
end
return {'OK'}
""",
)

EXPIRE = script(
    WRITES,
    ACCOUNT,
    """
local key, wanted = ARGV[7], ARGV[8]
local place, size, key_expires, body = parse(get('i:' .. key))
local is_there = was_live and place and is_live(key_expires)
if is_there then
    record('i:' .. key, string.format('%s %.0f %s %s', place, size, wanted, body))
    settle_key(key, wanted, key_expires)
elseif was_live then
    record()
end
return {'OK', is_there and 1 or 0}
""",
)

DELETE = script(
    WRITES,
    ACCOUNT,
    """
local key = ARGV[7]
local place, size, key_expires = parse(get('i:' .. key))
forget(key)
if place then bytes, keys = bytes - size, keys - 1 end
if was_live then record() end
return {'OK', place and is_live(key_expires) and 1 or 0}
""",
)

CLEAR = script(
    WRITES,
    ACCOUNT,
    """
if was_live then
    erase_all()
    bytes, keys, next_place = 0, 0, 1
    record()
    settle(get('expires'))
end
return {'OK'}
""",
)

END = script(
    WRITES,
    """
local stored = get('expires')
local expiry = number(stored)
if expiry and expiry < 0 then return {'OK', stored} end
erase_all()
stored = '-' .. ARGV[4]
put('expires', stored)
settle(stored)
return {'OK', stored}
""",
)

# Puts values in as they are, at the end of the order: ARGV has five elements for each.
FILL = script(
    WRITES,
    """
local bytes, keys, next_place
if ARGV[5] == 'anew' then
    erase_all()
    bytes, keys, next_place = 0, 0, 1
else
    bytes, keys, next_place = tonumber(get('bytes')), tonumber(get('keys')), tonumber(get('next'))
end
for i = 7, #ARGV, 5 do
    local key, key_expires, payload, body_name, body = unpack(ARGV, i, i + 4)
    local size = #key + #payload + #body
    put('i:' .. key, string.format('%.0f %.0f %s %s', next_place, size, key_expires, body_name), 'v:' .. key, payload)
    if body_name ~= '-' then put('b:' .. key, body) end
    bytes, keys, next_place = bytes + size, keys + 1, next_place + 1
end
put('expires', ARGV[6], 'bytes', bytes, 'keys', keys, 'next', next_place)
return {'OK'}
""",
)

LIMIT_EXPIRY = script(
    WRITES,
    """
local expiry = number(get('expires'))
if expiry and expiry < math.huge and expiry > number(ARGV[5]) then put('expires', ARGV[5]) end
return {'OK'}
""",
)

PURGE = script(
    WRITES,
    """
local stored = get('expires')
local expiry = number(stored)
local is_past = expiry and expiry > -number(ARGV[5]) and expiry <= now
if not expiry then is_past = #names() > 0 end
if is_past then erase_all() end
return {'OK', is_past and 1 or 0}
""",
)

PURGE_KEYS = script(
    WRITES,
    """
local bytes, keys, removed = 0, 0, 0
local limit = tonumber(ARGV[5])
if (number(get('expires')) or -1) < 0 then return {'OK', 0} end
each_header(function(key, header)
    local place, size, expires = parse(header)
    if removed < limit and not (place and is_live(expires)) then
        erase('i:' .. key, 'v:' .. key, 'b:' .. key)
        removed = removed + 1
    else
        bytes, keys = bytes + (size or 0), keys + 1
    end
end)
if removed > 0 then put('bytes', bytes, 'keys', keys) end
return {'OK', removed}
""",
)

# Transactions. These get, for each owner, the keys hash, lease and layer.

MERGE = script(
    WRITES,
    """
local below = KEYS[layers - 1]
for _, name in ipairs(call('HKEYS', top)) do
    local sign, field = string.sub(name, 1, 1), string.sub(name, 2)
    call('HDEL', below, (sign == '+' and '-' or '+') .. field)
    call('HSET', below, name, call('HGET', top, name))
end
call('DEL', top)
call('PEXPIRE', below, 2 * lease)
return {'OK'}
""",
)

COMMIT = script(
    LIBRARY,
    """
for i = 2, layers, 3 do
    if call('GET', KEYS[i]) ~= token then return {'LOST'} end
end
top = false
for i = 1, layers, 3 do
    main = KEYS[i]
    local layer = KEYS[i + 2]
    local written, before = {}, {}
    for _, name in ipairs(call('HKEYS', layer)) do
        local field = string.sub(name, 2)
        if string.sub(name, 1, 1) == '-' then
            call('HDEL', main, field)
        else
            written[#written + 1] = field
        end
    end
    for _, field in ipairs(written) do
        if string.sub(field, 1, 2) == 'i:' then
            local _, _, expires = parse(call('HGET', main, field))
            before[string.sub(field, 3)] = expires or '-'
        end
    end
    for _, field in ipairs(written) do call('HSET', main, field, call('HGET', layer, '+' .. field)) end
    for key, expires in pairs(before) do
        local _, _, wanted = parse(call('HGET', main, 'i:' .. key))
        settle_key(key, wanted, expires)
    end
    settle(call('HGET', layer, '+expires'))
    call('DEL', layer, KEYS[i + 1])
end
return {'OK'}
""",
)

# Ends a transaction that failed: the lease, if it is still the caller's, and the layers.
RELEASE = script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if #KEYS > 1 then redis.call('DEL', unpack(KEYS, 2)) end
return {'OK'}
""")
