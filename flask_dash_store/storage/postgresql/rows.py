"""A value as a row of the table: its columns, and how many rows are sent together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

from ...buffers import Buffers, Stored
from ...errors import ValueTooLarge
from ..base import Value

# A value is one message in the protocol, and one field in a table: each less than 1 GiB. The rest is for the key.
MAX_VALUE_BYTES = 2**30 - 2**16

# So many bytes are sent together when several values are written.
SENT_TOGETHER = 2**24


class NewRow(NamedTuple):
    """What is written of a value, in the order of the functions' arguments."""

    key: bytes
    payload: bytes
    buffers_name: str | None
    buffers: bytes | memoryview | None

    @classmethod
    def of(cls, key: str, value: Stored) -> Self:
        """The row of a value.

        :raises ValueTooLarge: when PostgreSQL takes no value of this size
        """
        payload, buffers = value
        nbytes = len(payload) + (buffers.nbytes if buffers else 0)
        if nbytes > MAX_VALUE_BYTES:
            raise ValueTooLarge(
                f"The value for {key!r} takes {nbytes} bytes, and PostgreSQL takes {MAX_VALUE_BYTES} in one field. "
                "Store it in parts.",
                key=key,
                limit=MAX_VALUE_BYTES,
            )
        if buffers is None:
            return cls(key.encode(), payload, None, None)
        return cls(key.encode(), payload, buffers.name, buffers.joined())

    @property
    def nbytes(self) -> int:
        return len(self.key) + len(self.payload) + (0 if self.buffers is None else len(self.buffers))


def stored(payload: bytearray, buffers_name: str | None, buffers: bytearray | None) -> Stored:
    """The value of a row, as it was written."""
    if buffers_name is None or buffers is None:
        return bytes(payload), None
    return bytes(payload), Buffers(buffers_name, [memoryview(buffers)])


def sent_together(values: Iterable[Value]) -> Iterator[list[Value]]:
    """The values in groups, each of one value, or of at most :data:`SENT_TOGETHER` bytes."""
    group: list[Value] = []
    total = 0
    for value in values:
        payload, buffers = value[1]
        nbytes = len(payload) + (buffers.nbytes if buffers else 0)
        if group and total + nbytes > SENT_TOGETHER:
            yield group
            group, total = [], 0
        group.append(value)
        total += nbytes
    if group:
        yield group
