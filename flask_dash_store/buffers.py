"""The body of a large value: where its parts lie, and what the payload says of it.

The parts lie one behind the other, each aligned to 64 bytes, as NumPy and Arrow like them. The payload ends with a
manifest, which names the body and says where its parts are, so that they are authenticated together.
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
_PART = struct.Struct("<QQ")
_LENGTH = struct.Struct("<I")
_NOT_IN_BODY = bytes(DIGEST_BYTES)


class Buffers(NamedTuple):
    """What is kept beside a payload, under a name that is never used twice.

    One that is to be written has several parts; one that was read has one, which spans them all.
    """

    name: str
    parts: Sequence[memoryview]

    @property
    def nbytes(self) -> int:
        """How many bytes it takes, with those that align its parts."""
        return max((offset + part.nbytes for offset, part in self.placed()), default=0)

    def placed(self) -> Iterator[tuple[int, memoryview]]:
        """The parts, each with its offset."""
        offset = 0
        for part in self.parts:
            yield offset, part
            offset += -(-part.nbytes // ALIGNMENT) * ALIGNMENT

    def pieces(self) -> Iterator[memoryview]:
        """The parts, and the zeros between them that align them."""
        end = 0
        for offset, part in self.placed():
            if offset > end:
                yield memoryview(bytes(offset - end))
            yield part
            end = offset + part.nbytes

    def joined(self) -> bytes | memoryview:
        """All of it in one piece, copied only if it has several parts."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.pieces())


Stored = tuple[bytes, Buffers | None]
"""What a storage keeps of a value: its payload, and its body if it is large."""


def pack(data: bytes, buffers: list[memoryview], threshold: int) -> tuple[bytes, Buffers]:
    """Put buffers, and data that are large themselves, into a body. Returns what is left of the data, with manifest.

    Data are code, which buffers are not: the manifest has their digest, to be authenticated with the rest.
    """
    digest = _NOT_IN_BODY
    if len(data) >= threshold:
        digest = blake2b(data, digest_size=DIGEST_BYTES).digest()
        buffers, data = [memoryview(data), *buffers], b""
    body = Buffers(secrets.token_hex(NAME_BYTES), buffers)
    manifest = _HEAD.pack(bytes.fromhex(body.name), digest) + b"".join(
        _PART.pack(offset, part.nbytes) for offset, part in body.placed()
    )
    return data + manifest + _LENGTH.pack(len(manifest)), body


def unpack(signed: bytes, body: Buffers | None) -> tuple[bytes | memoryview, list[memoryview]] | None:
    """The data and the buffers that :func:`detach` parted; None when they do not belong together."""
    if body is None or len(signed) < _LENGTH.size + _HEAD.size:
        return None
    (length,) = _LENGTH.unpack_from(signed, len(signed) - _LENGTH.size)
    if not _HEAD.size <= length <= len(signed) - _LENGTH.size or (length - _HEAD.size) % _PART.size:
        return None
    start = len(signed) - _LENGTH.size - length
    name, digest = _HEAD.unpack_from(signed, start)
    if name.hex() != body.name:
        return None
    (whole,) = body.parts
    places = _PART.iter_unpack(signed[start + _HEAD.size : -_LENGTH.size])
    buffers = [whole[offset : offset + nbytes] for offset, nbytes in places]
    if digest == _NOT_IN_BODY:
        return signed[:start], buffers
    data = buffers.pop(0)
    return (data, buffers) if blake2b(data, digest_size=DIGEST_BYTES).digest() == digest else None
