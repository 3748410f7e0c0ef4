"""The scripts that end a transaction or a savepoint: what its layer has (see ``lua.py``) goes below, or away."""

from __future__ import annotations

from .lua import WRITES, WRITING, script

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
