"""An owner's record on the server (see ``lua.py``): the encoding of its fields, and the calls that read and write it.

A call joins the current context's transaction, if there is one.
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
    """The header of a value: its position in the order, bytes of key and value, its expiry, and its buffers' name."""

    position: int
    nbytes: int
    expires: float | None
    buffers: str | None


def parse_header(text: bytes | None) -> Header | None:
    """A header; None if it is missing or unreadable, so that the value counts as expired."""
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
    """Seconds since the epoch; None if missing or unreadable."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def headers_in_order(answer: Sequence[bytes]) -> list[tuple[str, Header]]:
    """Keys and readable headers, from an answer that alternates them, in the order of insertion."""
    pairs = zip(answer[::2], answer[1::2], strict=True)
    found = [(key.decode(), header) for key, text in pairs if (header := parse_header(text)) is not None]
    return sorted(found, key=lambda pair: pair[1].position)


def all_headers(fields: dict[bytes, bytes]) -> list[tuple[str, Header]]:
    """The same, from all fields of an owner."""
    return headers_in_order([each for name, text in fields.items() if name[:2] == b"i:" for each in (name[2:], text)])


def stored_value(key: str, header: Header, payload: bytes | None, content: bytes | None) -> Stored:
    """A value, with buffers that the caller may change.

    :raises StorageCorrupt: if its payload or its buffers are missing
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
    """Like :func:`stored_value`, from all fields of an owner and its buffers."""
    content = None if header.buffers is None else contents.get(header.buffers)
    return stored_value(key, header, fields.get(b"v:" + key.encode()), content)


def problems(fields: dict[bytes, bytes], missing: set[str]) -> Iterator[str]:
    """A sentence for each damage in an owner's record.

    :param missing: the names of its missing buffers
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
    """The caller's session as an argument of scripts, and as a field of the record."""
    return NO_SESSION if owner.session is None else owner.session


def expiry_argument(expires: KeyExpiry) -> str:
    """When a value expires, as an argument of scripts."""
    if expires is None:
        return "-"
    return expires if expires == "keep" else repr(float(expires))


Entry = tuple[str, Stored, KeyExpiry]


def value_arguments(entries: Iterable[Entry]) -> list[Any]:
    """Values, as arguments of the script that sets them."""
    arguments: list[Any] = []
    for key, (payload, buffers), expires in entries:
        arguments += [key, expiry_argument(expires), payload, "-" if buffers is None else buffers.name]
    return arguments


# How long the server keeps buffers that no header names yet, or that a writer left when it died.
PENDING_MS = 3_600_000

_KNOWN = (b"expires", b"session", b"renewed")


class Calls:
    """Calls to the server about one owner."""

    def __init__(self, server: Server, leases: Leases) -> None:
        self._server = server
        self._leases = leases

    def _transaction(self, name: str) -> Transaction | None:
        """The current context's transaction, if the owner has joined it."""
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
        """The owner's expiry, and these fields of its record.

        :raises SessionEnded: if the session has ended, or has another id
        """
        if self._transaction(owner.name) is not None:
            answer = self._read(scripts.FIELDS, owner, now, *_KNOWN, *names)
        else:
            answer = self._server.execute("HMGET", self._leases.record(owner.name), *_KNOWN, *names, repeatable=True)
        return self._checked(owner, answer)

    def headers(self, owner: Owner, now: float, limit: int | None, newest_first: bool) -> list[Any]:
        """The owner's expiry, and keys with their headers: at least ``limit`` from one end, in any order."""
        args = -1 if limit is None else limit, int(newest_first)
        return self._checked(owner, self._read(scripts.HEADERS, owner, now, *args))

    def versions(self, owner: Owner, now: float, keys: Sequence[str]) -> list[Any]:
        """The owner's expiry, and keys with the ends of their payloads; without keys, those of all."""
        return self._checked(owner, self._read(scripts.VERSIONS, owner, now, *keys))

    def stat(self, owner: Owner, now: float) -> list[Any]:
        """The owner's expiry, its bytes and keys without expired ones, and the user's hash."""
        return self._checked(owner, self._read(scripts.STAT, owner, now))

    def all_fields(self, owner: Owner, now: float) -> dict[bytes, bytes]:
        """All fields of the owner's record, at one point in time."""
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
            if session is None:  # No values, but it may have ended. A second round trip, for few owners.
                session, renewed = self.remembered(owner.name)
            if session is not None and session != session_argument(owner):
                raise SessionEnded(parse_time(renewed) or 0.0)
        return [expires, *rest]

    def remembered(self, name: str) -> list[bytes | None]:
        """The session, and when it was last renewed or ended, from the key that outlives the record."""
        key = self._leases.record(name) + ":session"
        return self._server.execute("HMGET", key, "session", "renewed", repeatable=True)  # type: ignore[no-any-return]

    def buffers(self, name: str, names: Sequence[str]) -> list[bytes | None]:
        """An owner's buffers of these names; None for those that are missing."""
        keys = [self._buffer(name, each) for each in names]
        return self._server.execute("MGET", *keys, repeatable=True) if keys else []

    def snapshot(self, owner: Owner, now: float) -> tuple[dict[bytes, bytes], dict[str, bytes | None]]:
        """All fields of an owner at one point in time, and the buffers that they name; None for missing buffers."""
        seen: dict[bytes, bytes] | None = None
        while True:
            fields = self.all_fields(owner, now)
            names = [header.buffers for _, header in all_headers(fields) if header.buffers is not None]
            contents = dict(zip(names, self.buffers(owner.name, names), strict=True))
            if None not in contents.values() or fields == seen:
                return fields, contents
            seen = fields  # A writer may have just replaced a value. Then its header has changed, too.

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
        """Run a script that writes, and return its answer, beginning with the status.

        :param wait: whether to wait for other writers, at most for the timeout
        :param joins: whether the owner joins the current context's transaction, if there is one
        :param before: commands that are sent before the script
        :raises StorageBusy: if others hold the lease for longer than that
        :raises SessionEnded: if the script finds that the session has ended, or has another id
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
        """Run a script that is a use of the owner, and moves its expiry when that is due."""
        expires, threshold = repr(access.expires), repr(access.touch_threshold)
        return self.write(script, owner, access.now, expires, threshold, *args, before=before)

    def touch(self, owner: Owner, access: Access) -> None:
        """Move the owner's expiry, without waiting for other writers.

        :raises StorageBusy: if there is another writer
        """
        args = repr(access.expires), repr(access.touch_threshold)
        self.write(scripts.TOUCH, owner, access.now, *args, wait=False, joins=False)

    def with_buffers(self, script: Script, owner: Owner, access: Access, buffers: Sequence[Buffers], *args: Any) -> Any:
        """Like :meth:`use`, for a script whose headers name buffers.

        The buffers are sent before the script, in the same round trip. As separate commands, they are not copied.

        :param buffers: all buffers that the headers name
        """
        # NX: if an owner is loaded again, its buffers already exist.
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
