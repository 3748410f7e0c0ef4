"""The layout of an owner on the Redis server, and the code that all Lua scripts share.

An owner has these keys, which share a hash tag, so they are in one slot of a cluster:

- ``<prefix>{<owner>}``: a hash, its *record*, with the fields

  - ``expires``: the owner's expiry, in seconds since the epoch
  - ``session``: the SHA-256 of the session id that opens the values; ``-`` for those of a user id
  - ``renewed``: when the session was last renewed, if it was; ``user``: the hash of the user who logged in, if any
  - ``created``: when the first value was stored
  - ``bytes``, ``keys``: how much is stored, including expired keys that have not been removed yet
  - ``first``, ``next``: the position of the first key in the order of insertion (1 if missing), and that of the next
    new key
  - ``p:<position>``: the key at a position. Deleted keys leave gaps, which are trimmed at both ends
  - ``i:<key>``: a value's header: its position, its bytes, its expiry or ``-``, and its buffers' name or ``-``
  - ``v:<key>``: a value's payload

- ``…:session``: a hash with ``session`` (empty once it has ended) and ``renewed``, which is written when a session is
  renewed or ended. It outlives the record, so that replaced ids stay dead
- ``…:buffers``: the set of the names of buffers that headers of the record name
- ``…:b:<name>``: buffers. They are written before the header that names them, with an expiry until then
- ``…:expiring``: a sorted set of the keys that have an expiry of their own. No score is higher than the key's expiry.
  Otherwise the set may be outdated, so it is checked against the header
- ``…:lease``: the token of the only transaction that may write

A transaction writes into *layers*, hashes of its own that nothing else reads: one for itself and one for each
savepoint. They have the fields of the record, with ``+`` and the new value, or ``-`` if the field is deleted; ``*`` if
they hide everything below; and ``#``, how many scripts have written to the layer. If that is not as many as the
transaction has counted, the layer was evicted, or lost in a failover, and nothing is committed. A script looks for a
field in the layers from the top down, and then in the record. It writes to the topmost layer.

The caller's clock decides whether a value has expired. The server removes expired values a little later.

The keys of every script are the record and the layers, from the bottom up. Its first arguments are the token of the
caller's lease, or nothing; the expected ``#`` of each layer; the milliseconds of a lease; the milliseconds for which an
ended session is remembered, or nothing; the time; and the SHA-256 of the caller's session id, ``-`` for none, or ``*``
for any. The first element of its answer is a status.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

# Keys are kept longer on the server than their expiry, because its clock may be ahead of the caller's.
MARGIN_MS = 60_000


class Script(NamedTuple):
    """A script, and its SHA-1, by which the server finds it."""

    text: str
    sha: str


def script(*parts: str) -> Script:
    """A script of several parts: :data:`READS` or :data:`WRITES`, and the rest."""
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

local function in_layer(value)  -- The value of a layer's field; false if it is deleted there.
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
        -- With this COUNT, one call scans the whole hash, so no field comes twice.
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

local function expired(except)  -- Bytes and keys of expired keys that are still in the counts.
    local bytes, keys = 0, 0
    for _, key in ipairs(call('ZRANGEBYSCORE', expiring, '-inf', now_text)) do
        local position, size, expires = parse(not except[key] and get('i:' .. key))
        if position and not is_live(expires) then bytes, keys = bytes + size, keys + 1 end
    end
    return bytes, keys
end
"""

# While a lease is held, no one else may write. Once it has expired, its holder may do nothing more.
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

# A server with full memory only checks the first write of a script. So a script that needs memory begins with a write
# that is refused then. A script that must succeed begins with a command that frees memory.
WRITING = f"""
{LIBRARY}
local function put(...)
    if not top then return call('HSET', main, ...) end
    local fields = {{...}}
    for i = 2, #fields, 2 do fields[i] = '+' .. fields[i] end
    call('HSET', top, unpack(fields))
end

local function remove(...)  -- Deletes fields.
    if not top then return call('HDEL', main, ...) end
    for _, field in ipairs({{...}}) do call('HSET', top, field, '-') end
end

local function keep(expires, ...)  -- Lets the server keep these keys until a little after their expiry.
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

local function discard(kept)  -- Deletes the whole record, except buffers with these names.
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

-- Deletes the buffers of a value in a layer, unless the record or a lower layer has them, too.
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
        -- LT: after a rollback, an earlier expiry may be valid again.
        if top then call('ZADD', expiring, 'LT', key_expires, key) else call('ZADD', expiring, key_expires, key) end
        keep(expires, expiring)
    elseif not top and before and before ~= '-' then
        call('ZREM', expiring, key)
    end
end

local function forget(key, position, name)  -- Deletes a value. The caller updates the counts.
    if top then unlink_in_layer(layers, key) end
    remove('i:' .. key, 'v:' .. key)
    if position then remove(at(position)) end
    if not top then
        call('ZREM', expiring, key)
        unlink(name)
    end
end

-- The session, and when it was renewed: from the record, or else from the key that outlives it.
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
