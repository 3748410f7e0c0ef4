"""Transactions of the Redis storage: a lease on the owner, and layers in which the writes wait for their commit.

Redis's own transactions do not do for a ``with`` block: MULTI reads nothing, and what fails after WATCH has to be run
again, which a block cannot be. So a block takes a *lease*: a key beside the owner's hash with a random token in it,
which the server removes by itself when its holder is not heard of for a while. So a process that dies inside a block
keeps nobody out for longer than that. Every script that writes looks at the lease first; while another one's is there
it does nothing, and its caller tries again until the timeout.

What the block writes waits in a layer on the server (see ``lua.py``), which its own reads see. So each call
means the same inside a block and outside, in one language. One script merges the layer into the owner's hash in the
end, if the token still holds the lease: who was away for too long has written nothing, and is told so. A nested block
has a layer of its own, above the others.

An owner that a block writes to beside its own joins it, with a lease and layers of its own. In a cluster, owners lie
on different servers, so that such a block is committed to one owner after the other, and to the block's own one last:
the new owner of a :meth:`Storage.move` is known to nobody before the old one has ended.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from secrets import token_hex
from types import TracebackType
from typing import Any

from ...errors import StorageError
from ..transaction import Transaction as Base
from ..transaction import current_transaction
from .scripts import COMMIT, MERGE, RELEASE
from .server import Server, is_in_doubt, is_timeout
from .timeout import Backoff, Queues

SHORTEST_LEASE = 10.0


class Leases:
    """What all transactions on one server share.

    :param prefix: what the server's keys begin with
    :param timeout: seconds to wait for the lease of another writer
    :param lease: seconds for which a lease holds when its holder is not heard of
    :param keep_ended: seconds for which it must be known that an owner has ended
    """

    def __init__(self, server: Server, prefix: str, timeout: float, lease: float, keep_ended: float) -> None:
        self.server = server
        self.prefix = prefix
        self.timeout = timeout
        self._queues: dict[int, Queues] = {}
        self.milliseconds = int(lease * 1000)
        self.keep_ended = int(keep_ended * 1000)

    def current(self) -> Transaction | None:
        """The transaction that the present context is in; None when it is in none."""
        return current_transaction(self, Transaction)

    def keys(self, owner: str) -> list[str]:
        """The keys of an owner's hash and its lease."""
        main = f"{self.prefix}{{{owner}}}"
        return [main, f"{main}:lease"]

    def timeout(self, owner: str, wait: bool = True) -> Backoff:
        """What somebody has who wants to write to an owner while another one may."""
        # In a fork, the locks of the parent's threads would never be released.
        queues = self._queues.setdefault(os.getpid(), Queues())
        return Backoff(self.server, queues, owner, self.timeout if wait else 0)

    def arguments(self, token: str, now: float) -> list[Any]:
        """What every script gets before its own arguments."""
        return [token, self.milliseconds, self.keep_ended, repr(now)]


class Transaction(Base):
    """A block of one context, on an owner and on those that join it."""

    def __init__(self, leases: Leases, owner: str) -> None:
        super().__init__(leases, leases.server.name, leases.timeout)
        self.leases = leases
        self._is_doomed = False
        self._server = leases.server
        self._owner = owner
        self._owners: list[str] = []
        self._token = token_hex(16)
        self._numbers = itertools.count(1)
        self._layers = [next(self._numbers)]
        self._written: set[tuple[str, int]] = set()
        self._now = time.time()

    def __enter__(self) -> Transaction:
        self.join(self._owner)
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_ours():
            self.is_open = False
            return
        self._shut()
        try:
            if error is None:
                self._commit()
        except BaseException as fault:
            error = fault
            raise
        finally:
            if error is not None:
                self._release(self._owners, error)
                self._run_on_rollback()

    def join(self, owner: str) -> None:
        """Take the lease on one more owner.

        :raises StorageBusy: when others do not give it back in time
        """
        with self._one_at_a_time():
            if owner in self._owners:
                return
            _, lease = self.leases.keys(owner)
            with self.leases.timeout(owner) as timeout:
                try:
                    while not self._server.execute("SET", lease, self._token, "NX", "PX", self.leases.milliseconds):
                        timeout.wait()
                except BaseException as error:
                    if is_in_doubt(error):
                        self._release([owner], error)
                    raise
            self._owners.append(owner)

    def has(self, owner: str) -> bool:
        return owner in self._owners

    @contextmanager
    def call(self, owner: str, now: float, writes: bool) -> Iterator[tuple[str, list[str]]]:
        """A call for an owner that has joined, with the token and the keys that its script gets."""
        with self._one_at_a_time():
            self._check_open()
            keys = [*self.leases.keys(owner), *self._layer_keys(owner)]
            self._check_doom()
            if not writes:
                yield self._token, keys
                return
            self._now = now
            self._written.add((owner, self._layers[-1]))
            with self._write():
                yield self._token, keys

    @contextmanager
    def _write(self) -> Iterator[None]:
        """A write into a layer. When it is not known whether it was done, nothing may be committed any more."""
        try:
            yield
        except BaseException as error:
            self._is_doomed = is_in_doubt(error)
            raise

    def _check_doom(self) -> None:
        if self._is_doomed:
            raise StorageError(
                f"The whole transaction on {self._server.name} is undone, since it is not known whether a write in it "
                "was done (see the error before). Leave the block, and begin anew."
            )

    def _layer_keys(self, owner: str) -> list[str]:
        main, _ = self.leases.keys(owner)
        return [f"{main}:{self._token}:{number}" for number in self._layers]

    @contextmanager
    def part(self, owner: str) -> Iterator[None]:
        """A part of this transaction that can fail by itself."""
        with self._one_at_a_time():  # Parts of different threads must not overlap.
            self.join(owner)
            undone = len(self._on_rollback)
            self._layers.append(next(self._numbers))
            try:
                yield
                if self._is_ours():
                    self._merge()
            except BaseException:
                if self._is_ours():
                    self._forget_top()
                    self._run_on_rollback(undone)
                raise
            finally:
                self._layers.pop()

    def _forget_top(self) -> None:
        for owner in self._owners:
            if (owner, self._layers[-1]) in self._written:
                with suppress(StorageError):
                    self._server.execute("DEL", self._layer_keys(owner)[-1], repeatable=True)

    def _merge(self) -> None:
        self._check_doom()
        below, top = self._layers[-2:]
        for owner in self._owners:
            if (owner, top) in self._written:
                self._written.add((owner, below))
                keys = [*self.leases.keys(owner), *self._layer_keys(owner)]
                with self._write():
                    self.check(self._server.run(MERGE, keys, self.leases.arguments(self._token, self._now)))

    def _commit(self) -> None:
        self._check_doom()
        groups = [[*self.leases.keys(owner), self._layer_keys(owner)[0]] for owner in reversed(self._owners)]
        for keys in groups if self._server.is_cluster else [list(itertools.chain(*groups))]:
            self.check(self._server.run(COMMIT, keys, self.leases.arguments(self._token, self._now)))

    def check(self, answer: list[Any]) -> list[Any]:
        """The answer of a script that needs the lease.

        :raises StorageError: when the lease has lapsed
        """
        if answer[0] == b"LOST":
            raise StorageError(
                f"The transaction on {self._server.name} was not heard of for longer than the "
                f"{self.leases.milliseconds / 1000:g} seconds for which it keeps others out, and nothing of it has "
                "been written. Keep transaction() blocks short."
            )
        return answer

    def _release(self, owners: list[str], error: BaseException) -> None:
        """Give leases back, unless the server gives no answer; it removes by itself what is left."""
        if not is_timeout(error):
            for owner in owners:
                _, lease = self.leases.keys(owner)
                with suppress(StorageError):
                    self._server.run(RELEASE, [lease, *self._layer_keys(owner)], [self._token], repeatable=True)
