"""An owner's record on the server (see ``lua.py``): how its fields are encoded, and how a call for it gets there.

A call goes into the transaction that the caller is in, or by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ...buffers import Buffers, Stored
from ...errors import SessionEnded, StorageCorrupt, StorageError
from ...expiry import Access
from ...owner import Owner
from ..base import KeyExpiry
from . import scripts
from .lua import Script
from .server import Server, is_in_doubt
from .transaction import Leases, Transaction

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


# Buffers that no header names, as a writer that died leaves them, are kept by the server for this long.
PENDING_MS = 3_600_000

_KNOWN = (b"expires", b"session", b"renewed")


class Calls:
    """What is asked of the server about one owner, and what it answers."""

    def __init__(self, server: Server, leases: Leases) -> None:
        self._server = server
        self._leases = leases

    def _transaction(self, name: str) -> Transaction | None:
        """The transaction that the caller is in, if it is the owner's too."""
        transaction = self._leases.current()
        return transaction if transaction is not None and transaction.has(name) else None

    # Reading

    def _read(self, script: Script, owner: Owner, now: float, *args: Any) -> list[Any]:
        transaction = self._transaction(owner.name)
        session = session_argument(owner)
        if transaction is not None:
            return transaction.read(script, owner.name, now, session, args)[1:]
        arguments = [*self._leases.arguments(now, session), *args]
        return self._server.run(script, [self._leases.record(owner.name)], arguments, repeatable=True)[1:]

    def fields(self, owner: Owner, now: float, *names: bytes) -> list[Any]:
        """The owner's expiry, and what its record has in these fields.

        :raises SessionEnded: when the owner's session has another id, or has ended
        """
        if self._transaction(owner.name) is not None:
            answer = self._read(scripts.FIELDS, owner, now, *_KNOWN, *names)
        else:
            answer = self._server.execute("HMGET", self._leases.record(owner.name), *_KNOWN, *names, repeatable=True)
        return self._checked(owner, answer)

    def headers(self, owner: Owner, now: float, limit: int | None, newest_first: bool) -> list[Any]:
        """The owner's expiry, and keys, each with its header: so many from one end at least, in any order."""
        args = -1 if limit is None else limit, int(newest_first)
        return self._checked(owner, self._read(scripts.HEADERS, owner, now, *args))

    def versions(self, owner: Owner, now: float, keys: Sequence[str]) -> list[Any]:
        """The owner's expiry, and keys, each with the end of its payload; of no keys, those of all."""
        return self._checked(owner, self._read(scripts.VERSIONS, owner, now, *keys))

    def stat(self, owner: Owner, now: float) -> list[Any]:
        """The owner's expiry, its bytes and its keys without those that have expired, and the user's hash."""
        return self._checked(owner, self._read(scripts.STAT, owner, now))

    def all_fields(self, owner: Owner, now: float) -> dict[bytes, bytes]:
        """All that the owner's record has, at one point in time."""
        if self._transaction(owner.name) is not None:
            flat = self._read(scripts.ALL, owner, now)
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
        else:
            fields = self._server.execute("HGETALL", self._leases.record(owner.name), repeatable=True)
        self._checked(owner, [fields.get(name) for name in _KNOWN])
        return fields

    def _checked(self, owner: Owner, answer: list[Any]) -> list[Any]:
        expires, session, renewed, *rest = answer
        if owner.session != ANY_SESSION:
            if session is None:  # It has no values, and may have ended; this is one more round trip for few.
                session, renewed = self.remembered(owner.name)
            if session is not None and session != session_argument(owner):
                raise SessionEnded(parse_time(renewed) or 0.0)
        return [expires, *rest]

    def remembered(self, name: str) -> list[bytes | None]:
        """The session, and the time of its last renewal or its end, which outlive an owner's record."""
        key = self._leases.record(name) + ":session"
        return self._server.execute("HMGET", key, "session", "renewed", repeatable=True)  # type: ignore[no-any-return]

    def buffers(self, name: str, names: Sequence[str]) -> list[bytes | None]:
        """An owner's buffers of these names; None for those that are missing."""
        keys = [self._buffer(name, each) for each in names]
        return self._server.execute("MGET", *keys, repeatable=True) if keys else []

    def snapshot(self, owner: Owner, now: float) -> tuple[dict[bytes, bytes], dict[str, bytes | None]]:
        """All fields of an owner at one point in time, and the buffers that they name; None for those missing."""
        seen: dict[bytes, bytes] | None = None
        while True:
            fields = self.all_fields(owner, now)
            names = [header.buffers for _, header in all_headers(fields) if header.buffers is not None]
            contents = dict(zip(names, self.buffers(owner.name, names), strict=True))
            if None not in contents.values() or fields == seen:
                return fields, contents
            seen = fields  # Another writer may have replaced a value just now. Then its header has changed too.

    def _buffer(self, name: str, buffers: str) -> str:
        return f"{self._leases.record(name)}:b:{buffers}"

    # Writing

    def write(
        self,
        script: Script,
        owner: Owner,
        now: float,
        *args: Any,
        wait: bool = True,
        joins: bool = True,
        before: Sequence[tuple[Any, ...]] = (),
    ) -> list[Any]:
        """What a script answers, with how it went.

        :param wait: whether to wait for other writers, for the timeout at most
        :param joins: whether it is rolled back with the transaction that the caller is in, if that is another owner's
        :param before: commands that are sent ahead of it
        :raises StorageBusy: when there is another writer all the same
        :raises SessionEnded: when the owner's session has another id, or has ended, and the script minds
        """
        transaction = self._leases.current()
        if transaction is not None and joins:
            transaction.join(owner.name)
        backoff = self._leases.backoff(wait)
        while (answer := self._write(script, owner, now, args, before))[0] == b"BUSY":
            before = ()
            backoff.wait()
        if answer[0] == b"ENDED":
            raise SessionEnded(float(answer[1]))
        return answer

    def _write(
        self, script: Script, owner: Owner, now: float, args: Sequence[Any], before: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        transaction = self._transaction(owner.name)
        session = session_argument(owner)
        if transaction is not None:
            return transaction.write(script, owner.name, now, session, args, before)
        arguments = [*self._leases.arguments(now, session), *args]
        return self._server.run(script, [self._leases.record(owner.name)], arguments, before=before)

    def use(
        self, script: Script, owner: Owner, access: Access, *args: Any, before: Sequence[tuple[Any, ...]] = ()
    ) -> list[Any]:
        """The same of a script that moves the owner's expiry when that is due."""
        expires, threshold = repr(access.expires), repr(access.touch_threshold)
        return self.write(script, owner, access.now, expires, threshold, *args, before=before)

    def touch(self, owner: Owner, access: Access) -> None:
        """Move the owner's expiry, unless another one writes to it now.

        :raises StorageBusy: when there is one
        """
        args = repr(access.expires), repr(access.touch_threshold)
        self.write(scripts.TOUCH, owner, access.now, *args, wait=False, joins=False)

    def with_buffers(self, script: Script, owner: Owner, access: Access, buffers: Sequence[Buffers], *args: Any) -> Any:
        """The same as :meth:`use`, of a script that puts the names of buffers into headers.

        :param buffers: all that the headers name

        The buffers are sent ahead of it, in the same round trip: as commands of their own they are not copied.
        """
        # Buffers that are there already are those of an owner that is loaded once more.
        before = [("SET", self._buffer(owner.name, each.name), each, "PX", PENDING_MS, "NX") for each in buffers]
        try:
            answer = self.use(script, owner, access, *args, before=before)
        except (StorageError, SessionEnded) as error:
            if not is_in_doubt(error):
                self._unlink(owner, buffers)
            raise
        if answer[0] != b"OK":
            self._unlink(owner, buffers)
        return answer

    def _unlink(self, owner: Owner, buffers: Sequence[Buffers]) -> None:
        if buffers:
            arguments = [*self._leases.arguments(0.0, ANY_SESSION), *(each.name for each in buffers)]
            with suppress(StorageError):
                self._server.run(scripts.UNLINK, [self._leases.record(owner.name)], arguments, repeatable=True)
