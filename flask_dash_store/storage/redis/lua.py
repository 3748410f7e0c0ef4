"""What the Redis storage keeps of an owner on the server, and how its scripts there read and write it.

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


def script(*parts: str) -> Script:
    """A script of several parts, such as :data:`READS` or :data:`WRITES` and what it does then."""
    text = "\n".join(part.strip("\n") for part in parts)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


LIBRARY = f"""
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
READS = LIBRARY + "if token ~= '' then\n" + _HOLDER + "end\n"
WRITES = LIBRARY + _HOLDER + "if token == '' and holder then return {'BUSY'} end\n"

# A use of the owner: what its values take and when it expires, before and after. It gets the access's expiry and touch_threshold.
ACCOUNT = """
local touch_threshold = number(ARGV[6])
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
    local is_due = not was_live or math.abs(expiry - number(ARGV[5])) > touch_threshold
    put('expires', is_due and ARGV[5] or stored, 'bytes', bytes, 'keys', keys, 'next', next_place, ...)
    if is_due then settle(ARGV[5]) end
end
"""
