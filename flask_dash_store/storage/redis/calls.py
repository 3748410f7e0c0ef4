"""How a call for an owner comes to the server: in the transaction that the caller is in, or by itself."""

from __future__ import annotations

from typing import Any

from ...errors import SessionEnded
from ...expiry import Access
from . import scripts
from .lua import Script
from .server import Server
from .transaction import Leases, Transaction


class Calls:
    """What is asked of the server about one owner, and what it answers."""

    def __init__(self, server: Server, leases: Leases) -> None:
        self._server = server
        self._leases = leases

    def _transaction(self, owner: str) -> Transaction | None:
        """The transaction that the caller is in, if it is the owner's too."""
        transaction = self._leases.current()
        return transaction if transaction is not None and transaction.has(owner) else None

    def _run(self, script: Script, owner: str, now: float, *args: Any, writes: bool) -> list[Any]:
        transaction = self._transaction(owner)
        if transaction is None:
            keys = self._leases.keys(owner)
            return self._server.run(script, keys, [*self._leases.arguments("", now), *args], repeatable=not writes)
        with transaction.call(owner, now, writes) as (token, keys):
            answer = self._server.run(script, keys, [*self._leases.arguments(token, now), *args], repeatable=not writes)
            return transaction.check(answer)

    def read(self, script: Script, owner: str, now: float, *args: Any) -> list[Any]:
        """What a script answers that changes nothing."""
        return self._run(script, owner, now, *args, writes=False)[1:]

    def write(
        self, script: Script, owner: str, now: float, *args: Any, wait: bool = True, joins: bool = True
    ) -> list[Any]:
        """What a script answers, with how it went.

        :param wait: whether to wait for other writers, for the timeout at most
        :param joins: whether it is undone with the transaction that the caller is in, if that is another owner's
        :raises StorageBusy: when there is another writer all the same
        :raises SessionEnded: when the owner has ended, and the script minds
        """
        transaction = self._leases.current()
        if transaction is not None and joins:
            transaction.join(owner)
        with self._leases.timeout(owner, wait) as timeout:
            while (answer := self._run(script, owner, now, *args, writes=True))[0] == b"BUSY":
                timeout.wait()
        if answer[0] == b"ENDED":
            raise SessionEnded(-float(answer[1]))
        return answer

    def use(self, script: Script, owner: str, access: Access, *args: Any) -> list[Any]:
        """The same of a script that moves the owner's expiry when that is due."""
        return self.write(script, owner, access.now, repr(access.expires), repr(access.touch_threshold), *args)

    def touch(self, owner: str, access: Access) -> None:
        """Move the owner's expiry, unless another one writes at this access.

        :raises StorageBusy: when there is one
        """
        args = repr(access.expires), repr(access.touch_threshold)
        self.write(scripts.TOUCH, owner, access.now, *args, wait=False, joins=False)

    def fields(self, owner: str, now: float, *names: bytes) -> list[Any]:
        """What the owner's hash has in these fields."""
        if self._transaction(owner) is not None:
            return self.read(scripts.FIELDS, owner, now, *names)
        main, _ = self._leases.keys(owner)
        return self._server.execute("HMGET", main, *names, repeatable=True)  # type: ignore[no-any-return]

    def all_fields(self, owner: str, now: float) -> dict[bytes, bytes]:
        """All that the owner's hash has, at one point in time."""
        if self._transaction(owner) is not None:
            flat = self.read(scripts.ALL, owner, now)
            return dict(zip(flat[::2], flat[1::2], strict=True))
        main, _ = self._leases.keys(owner)
        return self._server.execute("HGETALL", main, repeatable=True)  # type: ignore[no-any-return]
