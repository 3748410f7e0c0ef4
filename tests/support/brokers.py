"""What a broker holds, and whether any of it opens a session."""

from __future__ import annotations

import re
import zlib
from base64 import b64decode
from binascii import Error as NoBase64
from collections.abc import Iterator
from contextlib import suppress

from servers_redis import RedisServer


def everything_on(server: RedisServer) -> bytes:
    """All that a Redis server holds, as it is and as it is once it is unpacked."""
    read = {
        b"string": lambda redis, key: [redis.get(key)],
        b"list": lambda redis, key: redis.lrange(key, 0, -1),
        b"set": lambda redis, key: redis.smembers(key),
        b"zset": lambda redis, key: redis.zrange(key, 0, -1),
        b"hash": lambda redis, key: [each for pair in redis.hgetall(key).items() for each in pair],
    }
    with server.client() as redis:
        found = [each for key in redis.scan_iter() for each in [key, *read[redis.type(key)](redis, key)]]
    return b"\n".join([*found, *(each for value in found for each in unpacked(value))])


def unpacked(value: bytes) -> Iterator[bytes]:
    with suppress(zlib.error):
        yield zlib.decompress(value)
    for text in re.findall(rb"[A-Za-z0-9+/=_-]{40,}", value):
        with suppress(NoBase64):
            yield b64decode(text)


def assert_opens_nothing(held: bytes, cookie: str) -> None:
    session_id, _, _, signature = cookie.split(".")
    for secret in (cookie, session_id, session_id[20:], signature):
        assert secret.encode() not in held
