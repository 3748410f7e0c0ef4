"""Connections to one PostgreSQL database, for any thread of any process.

A connection serves one thread at a time. A child process forgets those of its parent: it says nothing on them, and
keeps none of their sockets open, so that the parent's locks are free as soon as the parent has gone.

psycopg's own pool opens connections in threads, which no fork takes along; and who needs one that cannot be opened
learns after the whole timeout that there is none, where here it learns the reason, at once.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from contextlib import suppress

import psycopg

from ..errors import StorageBusy, StorageClosed, StorageError
from .connecting import Synchronous
from .postgresql_connection import Bindings, Connection, Row, Silent, Target, fault

# A server has 100 for all, unless it is set otherwise.
MAX_CONNECTIONS = 16

pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """The connections of one storage in this process.

    :param timeout: seconds that a caller waits for others: for a connection, and for a lock
    """

    def __init__(self, target: Target, timeout: float, synchronous: Synchronous) -> None:
        self.name = target.name
        self.timeout = timeout
        self._target = target
        self._synchronous: Synchronous = synchronous
        self._is_closed = False
        self._begin()
        pools.add(self)

    def _begin(self) -> None:
        self._turns = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()

    def acquire(self) -> Connection:
        """A connection for the caller alone, who gives it back to :meth:`release`.

        :raises StorageBusy: when all are in use for longer than the timeout
        """
        self.check_open()
        if not self._turns.acquire(timeout=self.timeout):
            raise StorageBusy(
                f"All {MAX_CONNECTIONS} connections of this process to the {self.name} were in use for longer than "
                f"the {self.timeout:g} seconds that USER_STORE_TIMEOUT (timeout=) lets a call wait. Have fewer threads "
                "in more processes, keep transaction() blocks short, or raise it."
            )
        try:
            return self._quiet_one() or self._new()
        except BaseException:
            self._turns.release()
            raise

    def _quiet_one(self) -> Connection | None:
        """An idle connection that its server has not closed, so that nothing is sent on one that is known to be dead."""
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.is_quiet():
                    return connection
                self._discard(connection)
        return None

    def _new(self) -> Connection:
        try:
            connection = Connection.open(self._target, self.timeout, self._synchronous)
        except psycopg.Error as error:
            raise self.fault(error) from error
        self._open.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back. One with an unfinished transaction is closed, which rolls it back."""
        if self._is_closed or not connection.is_idle():
            self._discard(connection)
        else:
            self._idle.append(connection)
        self._turns.release()

    def _discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()

    def run(self, sql: str, args: Bindings, nbytes: int = 0, is_read: bool = False) -> list[Row]:
        """Run one statement on any connection, as a transaction of its own.

        A read whose connection is lost meanwhile, as when the server is restarted, is run again.

        :raises StorageError: when it fails; when the connection is lost, it is not known whether a write was stored
        """
        for may_repeat in (is_read, False):
            connection = self.acquire()
            try:
                return connection.run(sql, args, nbytes)
            except psycopg.Error as error:
                if not (may_repeat and connection.closed) or isinstance(error, Silent):
                    raise self.fault(error, is_in_doubt=connection.closed and not is_read) from error
            finally:
                self.release(connection)
        raise AssertionError("unreachable")

    def check_open(self) -> None:
        if self._is_closed:
            raise StorageClosed(f"The {self.name} has been closed.")

    def close(self) -> None:
        """Close all connections that nobody uses; the others are closed when they are released."""
        self._is_closed = True
        with suppress(IndexError):
            while True:
                self._discard(self._idle.pop())

    def after_fork_in_child(self) -> None:
        for connection in self._open:
            connection.forget()
        self._begin()

    def fault(self, error: psycopg.Error, is_in_doubt: bool = False) -> StorageError:
        """The package's own exception for what psycopg raised."""
        return fault(self.name, self.timeout, error, is_in_doubt)


def _forget_all() -> None:
    for pool in list(pools):
        pool.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
