"""Transactions of the Redis storage: a lease on the owner, and layers that keep uncommitted writes.

Redis's own transactions do not fit a ``with`` block: MULTI cannot read, and after WATCH a failed transaction must be
run again, which a block cannot be. So a block acquires a *lease*: a key beside the owner's record, with a random token.
The server deletes it if its holder makes no call for a while, so a process that dies in a block locks others out no
longer than that. Every script that writes checks the lease first. If another one holds it, the script does nothing, and
its caller retries until the timeout.

The block's writes go to a layer on the server (see ``lua.py``), which its own reads see. So each call works in the same
way inside and outside of a block. At the end, one script applies the layer to the owner's record, if the token still
holds the lease and the layer is complete. Otherwise nothing is written, and an error is raised. A savepoint is another
layer on top. (To rename a changed copy of the record would be simpler, but costs time for each key of the owner, not
just for those that the block writes: 0.1 s for 100,000 keys, during which the server is blocked.)

Further owners that a block writes to join it, with leases and layers of their own. In a cluster, owners are on
different servers, so such a block is committed owner by owner, its own owner last.
"""

from __future__ import annotations

from contextlib import suppress
from secrets import token_hex
from typing import Any

from ...errors import StorageError
from ..transaction import Transaction as Base
from ..transaction import current_transaction
from .lua import Script
from .pool import Backoff
from .scripts import COMMIT, RELEASE_SAVEPOINT, ROLL_BACK
from .server import Server, is_in_doubt, is_timeout

MIN_LEASE = 10.0


class Leases:
    """What all transactions on one storage share.

    :param storage: the storage
    :param prefix: the prefix of its keys on the server
    :param timeout: seconds to wait for the lease of another writer
    :param lease: seconds after which a lease expires if its holder makes no call
    :param keep_ended: seconds for which ended sessions are remembered
    """

    def __init__(
        self, storage: object, server: Server, prefix: str, timeout: float, lease: float, keep_ended: float
    ) -> None:
        self.storage = storage
        self.server = server
        self.prefix = prefix
        self.timeout = timeout
        self.milliseconds = int(lease * 1000)
        # Without an expiry if it is very long.
        self.keep_ended = "" if keep_ended > 1e10 else str(int(keep_ended * 1000))

    def current(self) -> Transaction | None:
        """The current context's transaction; None if there is none."""
        return current_transaction(self.storage, Transaction)

    def record(self, name: str) -> str:
        """The key of an owner's record. The names of its other keys begin with it."""
        return f"{self.prefix}{{{name}}}"

    def backoff(self, wait: bool = True) -> Backoff:
        """The backoff of a write that waits for another writer."""
        return Backoff(self.timeout if wait else 0, self.server.busy)

    def arguments(self, now: float, session: bytes, token: str = "", counts: str = "") -> list[Any]:
        """The first arguments of every script."""
        return [token, counts, self.milliseconds, self.keep_ended, repr(now), session]


class Transaction(Base):
    """A transaction of one context, on an owner and on further owners that join it."""

    def __init__(self, leases: Leases, name: str) -> None:
        super().__init__(leases.storage, f"storage {leases.server.name}", leases.timeout)
        self._leases = leases
        self._server = leases.server
        self._owner = name
        self._owners: list[str] = []
        self._token = token_hex(16)
        self._layers = [0]
        # How many scripts have written to a layer of an owner. The server counts them, too.
        self._counts: dict[tuple[str, int], int] = {}
        self._now = 0.0
        self._is_committed = False

    # Owners

    def join(self, name: str) -> None:
        """Acquire the lease on another owner.

        :raises StorageBusy: if others do not release it within the timeout
        """
        with self.call():
            self._acquire(name)

    def _acquire(self, name: str) -> None:
        if name in self._owners:
            return
        lease = self._leases.record(name) + ":lease"
        backoff = self._leases.backoff()
        try:
            while not self._server.execute("SET", lease, self._token, "NX", "PX", self._leases.milliseconds):
                backoff.wait()
        except BaseException as error:
            if is_in_doubt(error) and not is_timeout(error):
                self._end_layer(name, None, with_lease=True)
            raise
        self._owners.append(name)

    def has(self, name: str) -> bool:
        """Whether it holds the lease on an owner."""
        return name in self._owners

    # Calls

    def read(self, script: Script, name: str, now: float, session: bytes, args: Any) -> list[Any]:
        """Run a script that only reads, on an owner that has joined."""
        with self.call():
            self._check_doom()
            return self._run(script, name, self._written(name), now, session, args)

    def write(self, script: Script, name: str, now: float, session: bytes, args: Any, before: Any = ()) -> list[Any]:
        """Run a script that writes, on an owner that has joined.

        :param before: commands that are sent before the script
        """
        with self.call():
            self._check_doom()
            self._now = max(self._now, now)
            layer = self._layers[-1]
            self._counts.setdefault((name, layer), 0)
            try:
                answer = self._run(script, name, self._written(name), now, session, args, before)
                self._counts[name, layer] += 1
            except BaseException:  # It may have been done, completely or partly, so nothing must be committed.
                self._is_doomed = True
                raise
            return answer

    def _run(
        self,
        script: Script,
        name: str,
        layers: list[int],
        now: float,
        session: bytes = b"",
        args: Any = (),
        before: Any = (),
    ) -> list[Any]:
        keys = [self._leases.record(name), *(self._layer(name, layer) for layer in layers)]
        counts = ",".join(str(self._counts.get((name, layer), 0)) for layer in layers)
        arguments = [*self._leases.arguments(now, session, self._token, counts), *args]
        return self._check(self._server.run(script, keys, arguments, before=before))

    def _layer(self, name: str, number: int) -> str:
        return f"{self._leases.record(name)}:{self._token}:{number}"

    def _written(self, name: str) -> list[int]:
        """The layers of an owner that exist, from the bottom up."""
        return [layer for layer in self._layers if (name, layer) in self._counts]

    def _check_doom(self) -> None:
        if self._is_doomed:
            raise self.rolled_back()

    def _check(self, answer: list[Any]) -> list[Any]:
        if answer[0] == b"LOST":
            raise StorageError(
                f"The transaction on the {self._name} has been rolled back. Either it made no call for longer than the "
                f"{self._leases.milliseconds / 1000:g} seconds after which its lease expires, or the server lost its "
                "writes, by an eviction, a restart or a failover. Keep transaction() blocks short, and set the "
                "server's maxmemory-policy to noeviction."
            )
        return answer

    # Begin and end

    def _begin(self) -> None:
        self._acquire(self._owner)

    def _commit(self) -> None:
        owners = self._owners[::-1]
        for names in [[name] for name in owners] if self._server.is_cluster else [owners]:
            keys = [key for name in names for key in (self._leases.record(name), self._layer(name, 0))]
            counts = ",".join(str(self._counts.get((name, 0), 0)) for name in names)
            self._check(self._server.run(COMMIT, keys, self._leases.arguments(self._now, b"", self._token, counts)))
        self._is_committed = True

    def _was_committed(self, failure: BaseException) -> bool:  # noqa: ARG002
        return self._is_committed

    def _roll_back(self, error: BaseException) -> None:
        if not is_timeout(error):  # The server does not answer. It deletes the rest by itself, later.
            for name in self._owners:
                self._end_layer(name, 0, with_lease=True)

    def _release(self) -> None:
        """Do nothing: commit and rollback have released the leases."""

    def _end_layer(self, name: str, layer: int | None, with_lease: bool = False) -> None:
        below = [each for each in self._written(name) if layer is not None and each < layer]
        layers = [*below, *([] if layer is None else [layer])]
        keys = [self._leases.record(name), *(self._layer(name, each) for each in layers)]
        arguments = self._leases.arguments(self._now, b"", self._token, "lease" if with_lease else "")
        with suppress(StorageError):
            self._server.run(ROLL_BACK, keys, arguments, repeatable=True)

    # Savepoints

    def _set_savepoint(self, number: int) -> None:
        self._layers.append(number)

    def _release_savepoint(self, number: int) -> None:
        below = self._layers[-2]
        try:
            for name in self._owners:
                if (name, number) in self._counts:
                    self._counts.setdefault((name, below), 0)
                    self._run(RELEASE_SAVEPOINT, name, self._written(name), self._now)
                    self._counts[name, below] += 1
                    del self._counts[name, number]
        except BaseException:
            self._is_doomed = True
            raise
        self._layers.pop()

    def _roll_back_to_savepoint(self, number: int) -> None:
        for name in self._owners:
            if self._counts.pop((name, number), None) is not None:
                self._end_layer(name, number)
        self._layers = [layer for layer in self._layers if layer < number]
