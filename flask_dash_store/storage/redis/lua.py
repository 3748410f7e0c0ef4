"""What the Redis storage keeps of an owner on the server, and how its scripts there read and write it.

These keys, which share a hash tag and so lie in one slot of a cluster, are an owner's:

- ``<prefix>{<owner>}``: a hash, its *record*, with the fields

  - ``expires``: the owner's expiry, in seconds since the epoch
  - ``session``: the SHA-256 of the session id that opens the values; ``-`` for those of a user id
  - ``renewed``: when the session was renewed last, if it was; ``user``: a hash of the user who logged in, if one did
  - ``created``: when the first value was stored
  - ``bytes``, ``keys``: how much there is, with what has expired by itself and was not removed yet
  - ``first``, ``next``: the position in the order of insertion that the first key has, or 1 if it is not there, and the
    one that the next new key gets
  - ``p:<position>``: the key that has it. Those whose keys are deleted are gaps, which are given up at both ends
  - ``i:<key>``: a value's header: its position, its bytes, its expiry or ``-``, and its buffers' name or ``-``
  - ``v:<key>``: its payload

- ``…:session``: a hash with ``session`` (empty once it has ended) and ``renewed``, which is written when a session is
  renewed or ended and outlives the record, so that ids that have been replaced are known to be dead
- ``…:buffers``: the set of the names of the buffers that the record's headers name
- ``…:b:<name>``: buffers. They are written before the header that names them, and expire by themselves until then
- ``…:expiring``: a sorted set of the keys that have an expiry of their own. None has a higher score than its expiry;
  what else the set says is checked against the header
- ``…:lease``: the token of the transaction that alone may write

A transaction writes into *layers*, hashes of its own that nothing else reads: one for itself and one for each
savepoint. Their fields are the record's, with ``+`` and the new value, or ``-`` where the field is deleted; ``*`` when
nothing below is to be seen; and ``#``, how many scripts have written there. A layer that does not have as many as the
transaction knows of was evicted, or lost in a failover, and nothing of the transaction is committed. A script looks
for a field in the layers, from the topmost down, and then in the record; what it writes goes into the topmost.

The values' own expiry is decided by the caller's clock. The server removes what has expired a little later.

Every script gets the record and the layers from the bottom up as its keys. Its first arguments are the token of the
caller's lease or nothing, the expected ``#`` of each layer, the milliseconds of a lease, the milliseconds for which a
session is remembered or nothing, the time, and the SHA-256 of the caller's session id, ``-`` or ``*`` for any. It
answers with a list whose first element says how it went.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

# The server's clock may be ahead of the caller's, which decides what has expired.
MARGIN_MS = 60_000


class Script(NamedTuple):
    """A script, and the name under which the server keeps it."""

    text: str
    sha: str


def script(*parts: str) -> Script:
    """A script of several parts, such as :data:`READS` or :data:`WRITES` and what it does then."""
    text = "\n".join(part.strip("\n") for part in parts)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


LIBRARY = """
local call = redis.call
local token, counts, lease, keep_ended, now_text, session = unpack(ARGV, 1, 6)
local now = tonumber(now_text)
local layers = #KEYS
local top = layers > 1 and KEYS[layers]
local main, lock, remembered, buffers, expiring

local function open(key)
    main, lock, remembered = key, key .. ':lease', key .. ':session'
    buffers, expiring = key .. ':buffers', key .. ':expiring'
end
open(KEYS[1])

local function buffer(name) return main .. ':b:' .. name end

local function number(text)
    if text == 'inf' then return math.huge elseif text == '-inf' then return -math.huge end
    return tonumber(text or '')
end

local function is_live(expires)
    return expires == '-' or (number(expires) or 0) > now
end

local function parse(header)
    local position, size, expires, name = string.match(header or '', '^(%d+) (%d+) (%S+) (%S+)$')
    return position, tonumber(size), expires, name
end

local function in_layer(value)  -- The value of a layer's field; false when it is deleted there.
    return string.byte(value) == 43 and string.sub(value, 2)
end

local function get(field)
    for i = layers, 2, -1 do
        local value, hides = unpack(call('HMGET', KEYS[i], field, '*'))
        if value then return in_layer(value) end
        if hides then return false end
    end
    return call('HGET', main, field)
end

local function get_all(...)
    if not top then return unpack(call('HMGET', main, ...)) end
    local values = {}
    for i, field in ipairs({...}) do values[i] = get(field) end
    return unpack(values)
end

local function at(position)  -- The name of the field that has the key at a position.
    return 'p:' .. string.format('%.0f', position)
end

local function each_field(pattern, visit)
    local seen = {}
    for i = layers, 1, -1 do
        -- One call goes through all of a hash, so nothing is given twice.
        local fields = call('HSCAN', KEYS[i], 0, 'MATCH', pattern, 'COUNT', 1e9)[2]
        for n = 1, #fields, 2 do
            local field, value = fields[n], fields[n + 1]
            if not seen[field] then
                if i > 1 then value = in_layer(value) end
                if value then visit(field, value) end
                if top then seen[field] = true end
            end
        end
        if i > 1 and call('HEXISTS', KEYS[i], '*') == 1 then return end
    end
end

local function expired(except)  -- Bytes and keys of what has expired by itself, and is in the counts.
    local bytes, keys = 0, 0
    for _, key in ipairs(call('ZRANGEBYSCORE', expiring, '-inf', now_text)) do
        local position, size, expires = parse(not except[key] and get('i:' .. key))
        if position and not is_live(expires) then bytes, keys = bytes + size, keys + 1 end
    end
    return bytes, keys
end
"""

# No one else may write while a lease is held, and its holder may do nothing more once it has lapsed.
_HOLDER = """
local holder = call('GET', lock)
if token ~= '' then
    if holder ~= token then return {'LOST'} end
    local i = 1
    for count in string.gmatch(counts, '%d+') do
        i = i + 1
        if (call('HGET', KEYS[i], '#') or '0') ~= count then return {'LOST'} end
    end
end
"""
_RENEW_LEASE = """
if token ~= '' then
    call('PEXPIRE', lock, lease)
    for i = 2, layers do call('PEXPIRE', KEYS[i], 2 * lease) end
end
"""
READS = LIBRARY + _HOLDER + _RENEW_LEASE

# A server whose memory is full refuses a script's first write only. So what needs memory comes first in a script that
# it shall refuse then, and what frees some in one that must work.
WRITING = f"""
{LIBRARY}
local function put(...)
    if not top then return call('HSET', main, ...) end
    local fields = {{...}}
    for i = 2, #fields, 2 do fields[i] = '+' .. fields[i] end
    call('HSET', top, unpack(fields))
end

local function take(...)  -- These fields away.
    if not top then return call('HDEL', main, ...) end
    for _, field in ipairs({{...}}) do call('HSET', top, field, '-') end
end

local function keep(expires, ...)  -- Lets the server keep these keys until a little later.
    local seconds = (number(expires) or now) - now
    for _, key in ipairs({{...}}) do
        if seconds > 1e10 then
            call('PERSIST', key)
        else
            call('PEXPIRE', key, string.format('%.0f', math.max(seconds, 0) * 1000 + {MARGIN_MS}))
        end
    end
end

local function keep_all(expires)
    keep(expires, main, buffers, expiring)
    for _, name in ipairs(call('SMEMBERS', buffers)) do keep(expires, buffer(name)) end
end

local function discard(kept)  -- All of the record, at once, but for buffers of these names.
    for _, name in ipairs(call('SMEMBERS', buffers)) do
        if not (kept and kept[name]) then call('UNLINK', buffer(name)) end
    end
    call('UNLINK', main, buffers, expiring)
end

local function hide_below(layer)
    local count = call('HGET', layer, '#') or '0'
    call('DEL', layer)
    call('HSET', layer, '#', count, '*', '')
    call('PEXPIRE', layer, 2 * lease)
end

local function erase_all()
    if top then hide_below(top) else discard() end
end

-- Deletes the buffers of a value that a layer had, unless the record or a layer below has them too.
local function unlink_in_layer(level, key)
    local _, _, _, name = parse(in_layer(call('HGET', KEYS[level], 'i:' .. key) or '-'))
    if not name or name == '-' or call('SISMEMBER', buffers, name) == 1 then return end
    for i = 2, level - 1 do
        local _, _, _, other = parse(in_layer(call('HGET', KEYS[i], 'i:' .. key) or '-'))
        if other == name then return end
    end
    call('UNLINK', buffer(name))
end

local function unlink(name)
    if not name or name == '-' then return end
    call('SREM', buffers, name)
    call('UNLINK', buffer(name))
end

local function link(name, expires)
    call('SADD', buffers, name)
    keep(expires, buffers, buffer(name))
end

local function note_expiry(key, key_expires, before, expires)
    if key_expires ~= '-' then
        -- A savepoint can be rolled back, to an expiry that is earlier.
        if top then call('ZADD', expiring, 'LT', key_expires, key) else call('ZADD', expiring, key_expires, key) end
        keep(expires, expiring)
    elseif not top and before and before ~= '-' then
        call('ZREM', expiring, key)
    end
end

local function forget(key, position, name)  -- A value. The caller counts.
    if top then unlink_in_layer(layers, key) end
    take('i:' .. key, 'v:' .. key)
    if position then take(at(position)) end
    if not top then
        call('ZREM', expiring, key)
        unlink(name)
    end
end

-- Whose session it is, and when it was renewed: from the record, or else from what outlives it.
local function known()
    local stored, renewed = get_all('session', 'renewed')
    if stored then return stored, renewed end
    return unpack(call('HMGET', remembered, 'session', 'renewed'))
end

local function is_opened_by(stored)
    return not stored or session == '*' or stored == session
end

local function remember(stored, renewed)
    call('HSET', remembered, 'session', stored, 'renewed', renewed)
    if keep_ended == '' then call('PERSIST', remembered) else call('PEXPIRE', remembered, keep_ended) end
end
"""
WRITES = f"""
{WRITING}
{_HOLDER}
if token == '' and holder then return {{'BUSY'}} end
if top then call('HINCRBY', top, '#', 1) end
{_RENEW_LEASE}
"""
