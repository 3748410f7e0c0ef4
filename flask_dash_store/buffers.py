"""The buffers of a large value: where they lie, and what the payload says of them.

Buffers lie one behind the other, each aligned to 64 bytes, as NumPy and Arrow like them. The payload ends with a
manifest, which names them and says where each one is, so that they are authenticated together.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

ALIGNMENT = 64
NAME_BYTES = 16
DIGEST_BYTES = 32

NO_MANIFEST = bytes(4)

_HEAD = struct.Struct(f"<{NAME_BYTES}s{DIGEST_BYTES}s")
_BUFFER = struct.Struct("<QQ")
_LENGTH = struct.Struct("<I")
_IN_PAYLOAD = bytes(DIGEST_BYTES)


class Buffers(NamedTuple):
    """What is kept beside a payload, under a name that is never used twice.

    Those that are to be written are several; those that were read are one, which spans them all.
    """

    name: str
    views: Sequence[memoryview]

    @property
    def nbytes(self) -> int:
        """How many bytes they take, with those that align them."""
        return max((offset + view.nbytes for offset, view in self.with_offsets()), default=0)

    def with_offsets(self) -> Iterator[tuple[int, memoryview]]:
        """The buffers, each with its offset."""
        offset = 0
        for view in self.views:
            yield offset, view
            offset += -(-view.nbytes // ALIGNMENT) * ALIGNMENT

    def chunks(self) -> Iterator[memoryview]:
        """The buffers, and the zeros between them that align them."""
        end = 0
        for offset, view in self.with_offsets():
            if offset > end:
                yield memoryview(bytes(offset - end))
            yield view
            end = offset + view.nbytes

    def joined(self) -> bytes | memoryview:
        """All of them in one piece, copied only if they are several."""
        return self.views[0] if len(self.views) == 1 else b"".join(self.chunks())


Stored = tuple[bytes, Buffers | None]
"""What a storage keeps of a value: its payload, and its buffers if it is large."""


def pack(data: bytes, views: list[memoryview], threshold: int) -> tuple[bytes, Buffers]:
    """Put large views, and data that are large themselves, into buffers. Returns the rest of the data with a manifest.

    Data are code, which the views are not: the manifest has their digest, to be authenticated with the rest.
    """
    digest = _IN_PAYLOAD
    if len(data) >= threshold:
        digest = blake2b(data, digest_size=DIGEST_BYTES).digest()
        views, data = [memoryview(data), *views], b""
    buffers = Buffers(secrets.token_hex(NAME_BYTES), views)
    manifest = _HEAD.pack(bytes.fromhex(buffers.name), digest) + b"".join(
        _BUFFER.pack(offset, view.nbytes) for offset, view in buffers.with_offsets()
    )
    return data + manifest + _LENGTH.pack(len(manifest)), buffers


def unpack(signed: bytes, buffers: Buffers | None) -> tuple[bytes | memoryview, list[memoryview]] | None:
    """The data and the views that :func:`pack` parted; None when they do not belong together."""
    if buffers is None or len(signed) < _LENGTH.size + _HEAD.size:
        return None
    (length,) = _LENGTH.unpack_from(signed, len(signed) - _LENGTH.size)
    if not _HEAD.size <= length <= len(signed) - _LENGTH.size or (length - _HEAD.size) % _BUFFER.size:
        return None
    start = len(signed) - _LENGTH.size - length
    name, digest = _HEAD.unpack_from(signed, start)
    if name.hex() != buffers.name:
        return None
    (whole,) = buffers.views
    extents = _BUFFER.iter_unpack(signed[start + _HEAD.size : -_LENGTH.size])
    views = [whole[offset : offset + nbytes] for offset, nbytes in extents]
    if digest == _IN_PAYLOAD:
        return signed[:start], views
    data = views.pop(0)
    return (data, views) if blake2b(data, digest_size=DIGEST_BYTES).digest() == digest else None
