"""Reads the sessions of the extension Flask-Session: from Redis, or from files of cachelib.

In Redis they are msgpack or JSON. Up to version 0.6 they were pickles, as its files still are. Reading a pickle runs
code, so none is read unless the operator allows it.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigurationError, StorageError, UnreadableValue

_FILE_NAME = re.compile("[0-9a-f]{32}|[0-9a-f]{64}", re.ASCII)  # of MD5 or SHA-256
_COUNT_FILE = b"__wz_cache_count"
_COUNT_FILES = {hashlib.sha256(_COUNT_FILE).hexdigest(), hashlib.md5(_COUNT_FILE, usedforsecurity=False).hexdigest()}
_EXPIRY = struct.Struct("I")  # Seconds since the epoch; 0 for never.
_PICKLE = b"\x80"  # Protocol 2 and later. In msgpack it is an empty map, which Flask-Session does not store.
_BATCH = 500


class FoundSession(NamedTuple):
    """A session of Flask-Session: the hash of its key, its bytes, and when it expires."""

    name: str
    payload: bytes
    expires: float


def in_redis(url: str, prefix: str, now: float) -> Iterator[FoundSession]:
    """The sessions in Redis.

    :param prefix: the prefix of the keys of sessions
    :param now: the time, in seconds since the epoch
    :raises ConfigurationError: if the URL is not a URL of Redis, or its client is not installed
    :raises StorageError: if the server cannot be read
    """
    try:
        import redis
    except ImportError as error:
        raise ConfigurationError(
            "Importing from Redis needs its client. Install it: pip install 'flask_dash_store[redis]'."
        ) from error
    try:
        with redis.Redis.from_url(url) as client:
            pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
            cursor, keys = client.scan(0, pattern, _BATCH)
            yield from _read(client, keys, now)
            while cursor:
                cursor, keys = client.scan(cursor, pattern, _BATCH)
                yield from _read(client, keys, now)
    except ValueError:  # The message may contain the password.
        raise ConfigurationError(
            "SOURCE is not the URL of a Redis server. It must be redis://host:6379/0 or unix:///path."
        ) from None
    except redis.RedisError as error:
        raise StorageError(f"Flask-Session's Redis server cannot be read: {error}") from error


def _read(client: Any, keys: list[bytes], now: float) -> Iterator[FoundSession]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.get(key)
        pipeline.pttl(key)
    answers = pipeline.execute(raise_on_error=False)
    for key, payload, milliseconds in zip(keys, answers[::2], answers[1::2], strict=True):
        if payload is not None:  # It may expire in the meantime.
            is_text = isinstance(payload, bytes)  # Otherwise an error: the key is not a string.
            expires = now + milliseconds / 1000 if milliseconds >= 0 else math.inf
            yield FoundSession(hashlib.sha256(key).hexdigest(), payload if is_text else b"", expires)


def in_files(folder: Path, now: float) -> Iterator[FoundSession]:
    """The sessions in a folder of cachelib's files.

    :param now: the time, in seconds since the epoch. Expired sessions are left out.
    :raises StorageError: if a file cannot be read
    """
    for file in sorted(folder.iterdir()):
        if _FILE_NAME.fullmatch(file.name) and file.name not in _COUNT_FILES:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise StorageError(f"Flask-Session's folder {folder} cannot be read: {error.strerror}") from error
            expires = (_EXPIRY.unpack_from(content)[0] if len(content) >= _EXPIRY.size else 0) or math.inf
            if expires > now:
                yield FoundSession(file.name, content[_EXPIRY.size :], expires)


def load(payload: bytes, allow_pickle: bool) -> dict[str, Any]:
    """The values of a session.

    :raises UnreadableValue: if they are not from Flask-Session, or are a pickle and that is not allowed
    :raises ConfigurationError: if they are msgpack, and msgspec is not installed
    """
    values: object = None
    if payload.startswith(_PICKLE):
        values = _unpickled(payload) if allow_pickle else None
        if not allow_pickle:
            raise UnreadableValue("a pickle, which runs code when it is read: see --allow-pickle")
    else:
        values = _decoded(payload)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UnreadableValue("not the values of a session")
    return values


def _unpickled(payload: bytes) -> object:
    try:
        return pickle.loads(payload)
    except Exception as error:  # A pickle may raise anything, with a message that contains a value.
        raise UnreadableValue(f"a pickle that cannot be read ({type(error).__name__})") from None


def _decoded(payload: bytes) -> object:
    if payload.startswith(b"{"):  # In msgpack, this byte is the number 123.
        try:
            return json.loads(payload)
        except ValueError:
            raise UnreadableValue("neither msgpack nor JSON") from None
    try:
        import msgspec
    except ImportError as error:
        raise ConfigurationError(
            "Flask-Session's sessions in Redis are msgpack. Reading them needs msgspec: pip install msgspec."
        ) from error
    try:
        return msgspec.msgpack.decode(payload)
    except (msgspec.MsgspecError, RecursionError):
        raise UnreadableValue("neither msgpack nor JSON") from None
