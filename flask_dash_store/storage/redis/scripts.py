"""The scripts that the Redis storage runs on the server, where each is atomic.

All that is kept of an owner lies in one hash, whose fields are

- ``expires``: the owner's expiry, in seconds since the epoch; the time of its end, negated, once it has ended
- ``bytes``, ``keys``: what its values take, at most (what the server has removed by itself is still in it)
- ``next``: the place in the order of insertion that the next new key gets
- ``i:<key>``: what is known of a value: its place, its bytes, when it is gone or ``-``, and its body's name or ``-``
- ``v:<key>``: its payload
- ``b:<key>``: its body, if it has one

A transaction writes into *layers*, hashes of its own which nobody else reads, whose fields are the same after a ``+``,
or after a ``-`` where they are deleted. What a script reads it looks for in the layers, from the topmost down, and
then in the owner's hash; what it writes goes into the topmost.

Every script gets the keys hash, lease, and layers from the bottom up; and the token of the caller's lease or nothing,
for how many milliseconds a lease holds, for how many it must be known that an owner has ended, and what the time is.
It answers with a list whose first element says how it went.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

# An expired value stays on the server for this much longer: what is live is decided by the caller's clock, and the
# server's must not be ahead of it.
MARGIN_MS = 60_000


class Script(NamedTuple):
    """A script, and the name under which the server keeps it."""

    text: str
    sha: str


def _script(*parts: str) -> Script:
    text = "\n".join(part.strip("\n") for part in parts)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


_FIELDS = f"""
local call = redis.call
local main, lock, layers = KEYS[1], KEYS[2], #KEYS
local top = layers > 2 and KEYS[layers]
local token, lease, keep_ended, now = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local function number(text)
    if text == 'inf' then return math.huge end
    return tonumber(text or '')
end

local function get(field)
    for i = layers, 3, -1 do
        local value = call('HGET', KEYS[i], '+' .. field)
        if value then return value end
        if call('HEXISTS', KEYS[i], '-' .. field) == 1 then return false end
    end
    return call('HGET', main, field)
end

local function get_all(...)
    if not top then return unpack(call('HMGET', main, ...)) end
    local values = {{}}
    for i, field in ipairs({{...}}) do values[i] = get(field) end
    return unpack(values)
end

local function put(...)
    if not top then return call('HSET', main, ...) end
    local pairs_ = {{...}}
    for i = 1, #pairs_, 2 do
        call('HSET', top, '+' .. pairs_[i], pairs_[i + 1])
        call('HDEL', top, '-' .. pairs_[i])
    end
    call('PEXPIRE', top, 2 * lease)
end

local function erase(...)
    if not top then return call('HDEL', main, ...) end
    for _, field in ipairs({{...}}) do
        call('HDEL', top, '+' .. field)
        call('HSET', top, '-' .. field, '')
    end
    call('PEXPIRE', top, 2 * lease)
end

local function names()
    local found = call('HKEYS', main)
    if not top then return found end
    local is_there = {{}}
    for _, field in ipairs(found) do is_there[field] = true end
    for i = 3, layers do
        for _, name in ipairs(call('HKEYS', KEYS[i])) do
            is_there[string.sub(name, 2)] = string.sub(name, 1, 1) == '+' or nil
        end
    end
    found = {{}}
    for field in pairs(is_there) do found[#found + 1] = field end
    return found
end

local function erase_all()
    if not top then return call('DEL', main) end
    for _, field in ipairs(names()) do erase(field) end
end

local function milliseconds(expiry)
    return string.format('%.0f', math.max(expiry - now, 0) * 1000 + {MARGIN_MS})
end

local function settle(expires)
    local expiry = number(expires)
    if top or not expiry then return end
    if expiry < 0 then
        call('PEXPIRE', main, keep_ended)
    elseif expiry - now > 1e10 then
        call('PERSIST', main)
    else
        call('PEXPIRE', main, milliseconds(expiry))
    end
end

-- Servers before Redis 7.4 and Valkey 9 know no expiry of fields. There an expired value stays until its owner's
-- next value needs the room.
local function settle_key(key, expires, before)
    if top then return end
    local expiry = number(expires)
    if expiry then
        redis.pcall('HPEXPIRE', main, milliseconds(expiry), 'FIELDS', 3, 'i:' .. key, 'v:' .. key, 'b:' .. key)
    elseif before and before ~= '-' then
        redis.pcall('HPERSIST', main, 'FIELDS', 3, 'i:' .. key, 'v:' .. key, 'b:' .. key)
    end
end

local function parse(header)
    local place, size, expires, body = string.match(header or '', '^(%d+) (%d+) (%S+) (%S+)$')
    return place, tonumber(size), expires, body
end

local function is_live(expires)
    return expires == '-' or (number(expires) or 0) > now
end

local function each_header(visit)
    local fields = {{}}
    for _, field in ipairs(names()) do
        if string.sub(field, 1, 2) == 'i:' then fields[#fields + 1] = field end
    end
    for first = 1, #fields, 1000 do
        local last = math.min(first + 999, #fields)
        local headers = top and {{}} or call('HMGET', main, unpack(fields, first, last))
        for i = first, last do
            local header = top and get(fields[i]) or headers[i - first + 1]
            if header then visit(string.sub(fields[i], 3), header) end
        end
    end
end
"""

# Nobody else may write while a lease is held, and its holder may do nothing more once it has lapsed.
_HOLDER = """
local holder = call('GET', lock)
if token ~= '' then
    if holder ~= token then return {'LOST'} end
    call('PEXPIRE', lock, lease)
    for i = 3, layers do call('PEXPIRE', KEYS[i], 2 * lease) end
end
"""
_READS = _FIELDS + "if token ~= '' then\n" + _HOLDER + "end\n"
_WRITES = _FIELDS + _HOLDER + "if token == '' and holder then return {'BUSY'} end\n"

_ACCOUNT = """
local grain = number(ARGV[6])
local stored, bytes, keys, next_place = get_all('expires', 'bytes', 'keys', 'next')
local expiry = number(stored)
if expiry and expiry < 0 then return {'ENDED', stored} end
local was_live = expiry ~= nil and expiry > now
bytes, keys, next_place = tonumber(bytes or ''), tonumber(keys or ''), tonumber(next_place or '')

local function measure()
    local stale = {}
    bytes, keys = 0, 0
    each_header(function(key, header)
        local place, size, key_expires = parse(header)
        if place and is_live(key_expires) then
            bytes, keys, next_place = bytes + size, keys + 1, math.max(next_place, tonumber(place) + 1)
        else
            stale[#stale + 1] = key
        end
    end)
    return stale
end

if not was_live then
    bytes, keys, next_place = 0, 0, 1
    erase_all()
elseif not (bytes and keys and next_place) then
    next_place = next_place or 1
    measure()
end

local function forget(key)
    erase('i:' .. key, 'v:' .. key, 'b:' .. key)
end

-- Writes down what is taken now, and when the owner expires after this use, with other fields of the caller's.
local function record(...)
    local is_due = not was_live or math.abs(expiry - number(ARGV[5])) > grain
    put('expires', is_due and ARGV[5] or stored, 'bytes', bytes, 'keys', keys, 'next', next_place, ...)
    if is_due then settle(ARGV[5]) end
end
"""

FIELDS = _script(
    _READS,
    """
local answer = {'OK'}
for i = 5, #ARGV do answer[#answer + 1] = get(ARGV[i]) end
return answer
""",
)

INDEX = _script(
    _READS,
    """
local answer = {'OK', get('expires')}
each_header(function(key, header)
    answer[#answer + 1] = key
    answer[#answer + 1] = header
end)
return answer
""",
)

ALL = _script(
    _READS,
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

TOUCH = _script(
    _WRITES,
    """
local expiry = number(get('expires'))
if expiry and expiry > now and math.abs(expiry - number(ARGV[5])) > number(ARGV[6]) then
    settle(ARGV[5])
    put('expires', ARGV[5])
end
return {'OK'}
""",
)

SET = _script(
    _WRITES,
    _ACCOUNT,
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

EXPIRE = _script(
    _WRITES,
    _ACCOUNT,
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

DELETE = _script(
    _WRITES,
    _ACCOUNT,
    """
local key = ARGV[7]
local place, size, key_expires = parse(get('i:' .. key))
forget(key)
if place then bytes, keys = bytes - size, keys - 1 end
if was_live then record() end
return {'OK', place and is_live(key_expires) and 1 or 0}
""",
)

CLEAR = _script(
    _WRITES,
    _ACCOUNT,
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

END = _script(
    _WRITES,
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
FILL = _script(
    _WRITES,
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

LIMIT_EXPIRY = _script(
    _WRITES,
    """
local expiry = number(get('expires'))
if expiry and expiry < math.huge and expiry > number(ARGV[5]) then put('expires', ARGV[5]) end
return {'OK'}
""",
)

PURGE = _script(
    _WRITES,
    """
local stored = get('expires')
local expiry = number(stored)
local is_past = not expiry or (expiry > -number(ARGV[5]) and expiry <= now)
if is_past then erase_all() end
return {'OK', is_past and 1 or 0}
""",
)

PURGE_KEYS = _script(
    _WRITES,
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

MERGE = _script(
    _WRITES,
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

COMMIT = _script(
    _FIELDS,
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
RELEASE = _script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if #KEYS > 1 then redis.call('DEL', unpack(KEYS, 2)) end
return {'OK'}
""")
