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
-- What a layer has; nothing when the lease or something of it is lost.
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
        call('HSET', main, 'expires', '0')  -- A server whose memory is full refuses it here.
        local kept = {}  -- A copy of the owner that is loaded over it has buffers of the same names.
        for i = 1, #fields, 2 do
            local _, _, _, name = parse(string.sub(fields[i], 1, 2) == 'i:' and in_layer(fields[i + 1]))
            if name then kept[name] = true end
        end
        discard(kept)
    end
    local is_new, pairs_ = call('EXISTS', main) == 0, {}
    for i = 1, #fields, 2 do
        local field, value = fields[i], in_layer(fields[i + 1])
        local is_plain = value and string.sub(value, -4) == ' - -'  -- It has neither an expiry nor buffers.
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
