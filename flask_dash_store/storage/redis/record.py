"""What the server keeps of an owner (see ``lua.py``), in the package's own words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ...buffers import Buffers, Stored
from ...errors import StorageCorrupt
from ..base import KeyExpiry


class Header(NamedTuple):
    """What is known of a value: its place in the order, its bytes with its key's, and when it is gone if it is."""

    place: int
    nbytes: int
    expires: float | None
    body: str | None


def parse_header(text: bytes | None) -> Header | None:
    """None for one that is missing or unreadable: such a value is past."""
    try:
        place, nbytes, expires, body = (text or b"").decode().split(" ")
        return Header(int(place), int(nbytes), _optional(expires, float), _optional(body, str))
    except ValueError:
        return None


def _optional(text: str, read: Any) -> Any:
    return None if text == "-" else read(text)


def parse_expiry(text: bytes | None) -> float | None:
    """An owner's expiry; None for one that is missing or unreadable."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def headers_in_order(answer: Sequence[bytes]) -> list[tuple[str, Header]]:
    """The readable ones of keys and headers that follow each other, in the order of insertion."""
    pairs = zip(answer[::2], answer[1::2], strict=True)
    found = [(key.decode(), header) for key, text in pairs if (header := parse_header(text)) is not None]
    return sorted(found, key=lambda pair: pair[1].place)


def all_headers(fields: dict[bytes, bytes]) -> list[tuple[str, Header]]:
    """The same from all fields of an owner."""
    return headers_in_order([part for name, text in fields.items() if name[:2] == b"i:" for part in (name[2:], text)])


def stored_value(key: str, header: Header, payload: bytes | None, body: bytes | None) -> Stored:
    """A value as it was stored, with a body that the caller may change.

    :raises StorageCorrupt: when a part of it is missing
    """
    if payload is None or (header.body is not None and body is None):
        raise StorageCorrupt(f"A part of the value stored under {key!r} is missing. Delete the key.")
    if header.body is None or body is None:
        return payload, None
    return payload, Buffers(header.body, [memoryview(bytearray(body))])


def problems(fields: dict[bytes, bytes]) -> Iterator[str]:
    """What is damaged of an owner's fields, each as a sentence."""
    if parse_expiry(fields.get(b"expires")) is None:
        yield "It has no readable expiry, so all of its values count as expired."
    for name, text in fields.items():
        if name[:2] == b"i:":
            key = name[2:].decode(errors="replace")
            header = parse_header(text)
            if header is None:
                yield f"What is known of the value under {key!r} is unreadable, so it counts as expired."
            elif b"v:" + name[2:] not in fields or (header.body is not None and b"b:" + name[2:] not in fields):
                yield f"A part of the value under {key!r} is missing."


def value_arguments(value: Stored) -> list[Any]:
    """What a script gets for a value: its payload, its body's name, and its body."""
    payload, body = value
    if body is None:
        return [payload, "-", b""]
    return [payload, body.name, body.joined()]


def expiry_argument(expires: KeyExpiry) -> str:
    """When a value is gone, as a script gets it."""
    if expires is None:
        return "-"
    return expires if expires == "keep" else repr(float(expires))


def batches(values: Iterable[tuple[str, Stored, float | None]], most: int, nbytes: int) -> Iterator[list[Any]]:
    """Values as the arguments of scripts, of which each takes so many and about so many bytes at most."""
    batch: list[Any] = []
    size = 0
    for key, value, expires in values:
        batch += [key, expiry_argument(expires), *value_arguments(value)]
        size += len(batch[-1]) + len(batch[-3])
        if len(batch) >= 5 * most or size >= nbytes:
            yield batch
            batch, size = [], 0
    yield batch
