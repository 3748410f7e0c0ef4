"""The buffers of a large value, and the manifest in its payload that describes them.

Buffers are stored one after the other, each aligned to 64 bytes, as NumPy and Arrow recommend. The payload ends with a
manifest, which has their name, offsets and lengths, so that these are authenticated, too.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from math import inf
from mmap import mmap
from typing import Any, NamedTuple, TypeVar

ALIGNMENT = 64
NAME_BYTES = 16
DIGEST_BYTES = 32

NO_MANIFEST = bytes(4)

_HEAD = struct.Struct(f"<{NAME_BYTES}s{DIGEST_BYTES}s?")
_BUFFER = struct.Struct("<QQ?")
_LENGTH = struct.Struct("<I")


class Buffers(NamedTuple):
    """The buffers of one value, under a name that is never used twice.

    When they are written there may be several. When they are read there is one, which spans them all.
    """

    name: str
    views: Sequence[memoryview]

    @property
    def nbytes(self) -> int:
        """How many bytes they take, including padding."""
        return max((offset + view.nbytes for offset, view in self.with_offsets()), default=0)

    def with_offsets(self) -> Iterator[tuple[int, memoryview]]:
        """The buffers, each with its offset."""
        offset = 0
        for view in self.views:
            yield offset, view
            offset += -(-view.nbytes // ALIGNMENT) * ALIGNMENT

    def chunks(self) -> Iterator[memoryview]:
        """The buffers, and the padding between them."""
        end = 0
        for offset, view in self.with_offsets():
            if offset > end:
                yield memoryview(bytes(offset - end))
            yield view
            end = offset + view.nbytes

    def joined(self) -> bytes | memoryview:
        """All of them in one piece. A single buffer is not copied."""
        return self.views[0] if len(self.views) == 1 else b"".join(self.chunks())


Stored = tuple[bytes, Buffers | None]
"""A value as a storage keeps it: its payload, and its buffers if it is large."""

E = TypeVar("E", bound=tuple[str, Stored, Any])


def size_of(stored: Stored) -> int:
    """The size of a value in bytes, without its key."""
    payload, buffers = stored
    return len(payload) if buffers is None else len(payload) + buffers.nbytes


def batches(entries: Iterable[E], nbytes: int, most: float = inf) -> Iterator[list[E]]:
    """Group values into batches of a limited size. A larger value is a batch of its own.

    :param entries: tuples that begin with a key and its value
    :param nbytes: the maximum number of bytes in a batch
    :param most: the maximum number of values in a batch
    """
    batch: list[E] = []
    size = 0
    for entry in entries:
        added = size_of(entry[1])
        if batch and (len(batch) >= most or size + added > nbytes):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += added
    if batch:
        yield batch


class View(NamedTuple):
    """A buffer to be packed, and whether the digest includes it."""

    view: memoryview
    is_authenticated: bool


def pack(data: bytes, views: list[View], threshold: int) -> tuple[bytes, Buffers]:
    """Put views, and data that are large themselves, into buffers.

    :param data: the data of a codec, such as a pickle
    :param views: the buffers that are not in the data
    :param threshold: the size in bytes from which the data become a buffer, too
    :returns: the rest of the data and the manifest, to be signed; and the buffers. The manifest has a digest of all
        buffers that are authenticated.
    """
    if len(data) >= threshold:
        views, data, is_apart = [View(memoryview(data), True), *views], b"", True
    else:
        is_apart = False
    buffers = Buffers(secrets.token_hex(NAME_BYTES), [view for view, _ in views])
    digest = _digest(view for view, is_authenticated in views if is_authenticated)
    manifest = _HEAD.pack(bytes.fromhex(buffers.name), digest, is_apart) + b"".join(
        _BUFFER.pack(offset, view.nbytes, is_authenticated)
        for (offset, view), (_, is_authenticated) in zip(buffers.with_offsets(), views, strict=True)
    )
    return data + manifest + _LENGTH.pack(len(manifest)), buffers


def unpack(signed: bytes, buffers: Buffers | None) -> tuple[bytes | memoryview, list[memoryview]] | None:
    """The data and views that :func:`pack` has packed; None if they do not belong together.

    :param signed: data with a manifest, whose signature has been verified
    :param buffers: the buffers from the storage; None if there are none

    Authenticated buffers of a mapped file are copied before the digest is computed, and the copy is returned. Even a
    private mapping shows what others write to the file, in pages that this process has not written to
    (https://man7.org/linux/man-pages/man2/mmap.2.html, "MAP_PRIVATE").
    """
    if buffers is None or len(signed) < _LENGTH.size + _HEAD.size:
        return None
    (length,) = _LENGTH.unpack_from(signed, len(signed) - _LENGTH.size)
    if not _HEAD.size <= length <= len(signed) - _LENGTH.size or (length - _HEAD.size) % _BUFFER.size:
        return None
    start = len(signed) - _LENGTH.size - length
    name, digest, is_apart = _HEAD.unpack_from(signed, start)
    if name.hex() != buffers.name:
        return None
    (whole,) = buffers.views
    views, authenticated = [], []
    for offset, nbytes, is_authenticated in _BUFFER.iter_unpack(signed[start + _HEAD.size : -_LENGTH.size]):
        view = whole[offset : offset + nbytes]
        if is_authenticated:
            if isinstance(whole.obj, mmap):
                view = memoryview(bytearray(view))
            authenticated.append(view)
        views.append(view)
    if _digest(authenticated) != digest:
        return None
    data = views.pop(0) if is_apart else signed[:start]
    return data, views


def _digest(views: Iterable[memoryview]) -> bytes:
    hashed = blake2b(digest_size=DIGEST_BYTES)
    for view in views:
        hashed.update(view)
    return hashed.digest()
