"""How the fields of an owner's record (see ``lua.py``) and the arguments of scripts are encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ...buffers import Buffers, Stored
from ...errors import StorageCorrupt
from ...owner import Owner
from ..base import KeyExpiry

ANY_SESSION = b"*"
NO_SESSION = b"-"


class Header(NamedTuple):
    """What is known of a value: its position in the order, its bytes with its key's, its expiry, and its buffers."""

    position: int
    nbytes: int
    expires: float | None
    buffers: str | None


def parse_header(text: bytes | None) -> Header | None:
    """None for one that is missing or unreadable: such a value has expired."""
    try:
        position, nbytes, expires, buffers = (text or b"").decode().split(" ")
        return Header(
            int(position),
            int(nbytes),
            None if expires == "-" else float(expires),
            None if buffers == "-" else buffers,
        )
    except ValueError:
        return None


def parse_time(text: bytes | None) -> float | None:
    """Seconds since the epoch; None for what is missing or unreadable."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def headers_in_order(answer: Sequence[bytes]) -> list[tuple[str, Header]]:
    """The readable ones of keys and headers that follow each other, in the order of insertion."""
    pairs = zip(answer[::2], answer[1::2], strict=True)
    found = [(key.decode(), header) for key, text in pairs if (header := parse_header(text)) is not None]
    return sorted(found, key=lambda pair: pair[1].position)


def all_headers(fields: dict[bytes, bytes]) -> list[tuple[str, Header]]:
    """The same from all fields of an owner."""
    return headers_in_order([each for name, text in fields.items() if name[:2] == b"i:" for each in (name[2:], text)])


def stored_value(key: str, header: Header, payload: bytes | None, content: bytes | None) -> Stored:
    """A value as it was stored, with buffers that the caller may change.

    :raises StorageCorrupt: when its payload or its buffers are missing
    """
    if payload is None or (header.buffers is not None and content is None):
        raise StorageCorrupt(
            f"The {'payload' if payload is None else 'buffers'} of the value stored under {key!r} are missing. "
            "Delete the key.",
            key=key,
        )
    if header.buffers is None or content is None:
        return payload, None
    return payload, Buffers(header.buffers, [memoryview(bytearray(content))])


def value_of(key: str, header: Header, fields: dict[bytes, bytes], contents: dict[str, bytes | None]) -> Stored:
    """The value of a key from all fields of an owner and its buffers, like :func:`stored_value`."""
    content = None if header.buffers is None else contents.get(header.buffers)
    return stored_value(key, header, fields.get(b"v:" + key.encode()), content)


def problems(fields: dict[bytes, bytes], missing: set[str]) -> Iterator[str]:
    """What is damaged of an owner's record, each as a sentence.

    :param missing: the names of its buffers that are not there
    """
    if parse_time(fields.get(b"expires")) is None:
        yield "It has no readable expiry, so all of its values count as expired."
    for name, text in fields.items():
        if name[:2] == b"i:":
            key = name[2:].decode(errors="replace")
            header = parse_header(text)
            if header is None:
                yield f"The header of the value under {key!r} is unreadable, so it counts as expired."
            elif b"v:" + name[2:] not in fields:
                yield f"The payload of the value under {key!r} is missing."
            elif header.buffers in missing:
                yield f"The buffers of the value under {key!r} are missing."


def session_argument(owner: Owner) -> bytes:
    """The caller's session, as a script gets it and as the record has it."""
    return NO_SESSION if owner.session is None else owner.session


def expiry_argument(expires: KeyExpiry) -> str:
    """When a value expires, as a script gets it."""
    if expires is None:
        return "-"
    return expires if expires == "keep" else repr(float(expires))


Entry = tuple[str, Stored, KeyExpiry]


def value_arguments(entries: Iterable[Entry]) -> list[Any]:
    """Values as the script that sets them gets them."""
    arguments: list[Any] = []
    for key, (payload, buffers), expires in entries:
        arguments += [key, expiry_argument(expires), payload, "-" if buffers is None else buffers.name]
    return arguments


def batches(entries: Iterable[Entry], most: int, nbytes: int) -> Iterator[list[Entry]]:
    """Values in lists of which each has so many, and about so many bytes, at most."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        payload, buffers = entry[1]
        added = len(payload) + (buffers.nbytes if buffers else 0)
        if batch and (len(batch) >= most or size + added > nbytes):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += added
    if batch:
        yield batch
