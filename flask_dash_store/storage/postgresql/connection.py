"""A connection to PostgreSQL: its URL, how it is opened, how long it waits, and how its errors are translated."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from ...errors import ConfigurationError, StorageBusy, StorageCorrupt, StorageError, StorageFull

try:
    import psycopg
    from psycopg import errors, waiting
    from psycopg.adapt import Loader
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.pq import Format, TransactionStatus
    from psycopg.waiting import Ready, Wait
except ImportError as missing:
    raise ConfigurationError(
        "A postgresql:// URL needs the driver psycopg 3, which cannot be imported. Install it: "
        "pip install 'flask_dash_store[postgresql]'"
    ) from missing

T = TypeVar("T")
Row = tuple[Any, ...]
Bindings = Sequence[Any] | Mapping[str, Any]

DEFAULT_SCHEMA = "flask_dash_store"

# A server has 100 connections for all clients by default.
DEFAULT_MAX_CONNECTIONS = 16

_SCHEMES = ("postgresql://", "postgres://")
# libpq's messages quote the URL, in the quotation marks of any language, and the quotation may contain a password.
_UNQUOTED = re.compile(r"[\w /-]*")

# The lowest rate at which a server sends or receives a large value.
MIN_BYTES_PER_SECOND = 10 * 2**20

# Seconds after which waiting is interrupted to check for signals and the deadline.
_POLL = 0.1


class Target(NamedTuple):
    """The database of a URL.

    :ivar parameters: libpq's connection parameters
    :ivar schema: the schema with the tables
    :ivar max_connections: how many connections a process may have
    """

    parameters: dict[str, Any]
    schema: str
    max_connections: int

    def __repr__(self) -> str:
        return f"<{self.name}>"  # The parameters may contain a password.

    @classmethod
    def of(cls, url: str) -> Target:
        """Parse a URL.

        :raises ConfigurationError: if it is not the URL of a PostgreSQL database
        """
        if not url.startswith(_SCHEMES):
            raise ConfigurationError(
                "USER_STORE_URL (url=) names PostgreSQL, so it must begin with postgresql:// or postgres://, without "
                "the name of a driver."
            )
        address, _, query = url.partition("?")
        ours = {"schema": DEFAULT_SCHEMA, "max_connections": str(DEFAULT_MAX_CONNECTIONS)}
        theirs = []
        for parameter in query.split("&"):
            name, _, text = parameter.partition("=")
            if name in ours:
                ours[name] = unquote(text)
            elif parameter:
                theirs.append(parameter)
        schema, connections = ours["schema"], ours["max_connections"]
        if not 0 < len(schema.encode()) < 64 or "\0" in schema:
            raise ConfigurationError("The schema= of USER_STORE_URL (url=) must be a name of 1 to 63 bytes.")
        if not connections.isdecimal() or int(connections) < 1:
            raise ConfigurationError("The max_connections= of USER_STORE_URL (url=) must be an integer above zero.")
        return cls(_libpq_parameters(address, theirs), schema, int(connections))

    @property
    def quoted_schema(self) -> str:
        quoted = self.schema.replace('"', '""')
        return f'"{quoted}"'

    @property
    def name(self) -> str:
        """Its name in error messages, without a password."""
        host = self.parameters.get("host") or self.parameters.get("hostaddr") or "the default server"
        return f"PostgreSQL schema {self.schema} in {self.parameters.get('dbname', 'the default database')} on {host}"


def _libpq_parameters(address: str, parameters: list[str]) -> dict[str, Any]:
    """libpq's parameters of a URL. It misreads URLs whose password is not percent-encoded, so these are refused."""
    host, _, path = address.partition("://")[2].partition("/")
    if "@" in path:
        raise _unreadable("an @ after a /")
    if host.count("@") > 1:
        raise _unreadable("a second @")
    try:
        read = dict(conninfo_to_dict("?".join([address, *(["&".join(parameters)] if parameters else [])])))
    except psycopg.Error as error:
        raise _unreadable(_UNQUOTED.match(str(error))[0].strip()) from None  # type: ignore[index]
    if str(read.get("port", "")).strip("0123456789,"):  # Without an @, the text after the colon.
        raise _unreadable("a port that is not a number")
    return read


def _unreadable(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"PostgreSQL cannot read USER_STORE_URL (url=): {reason}. Percent-encode special characters in the password."
    )


class Slot:
    """The right to one of a pool's connections."""


class Silent(psycopg.OperationalError):
    """The server has sent nothing for too long."""


class _WritableBytes(Loader):
    format = Format.BINARY

    def load(self, data: Any) -> bytearray:
        return bytearray(data)


def _readable() -> Generator[Any, Any, int]:
    """A generator for psycopg's wait functions that waits until the socket can be read."""
    ready: int = yield Wait.R
    return ready


class Connection(psycopg.Connection[Row]):
    """A connection whose calls do not wait forever for a server that has stopped answering.

    Neither TCP nor libpq notices such a server, because its kernel still acknowledges what it receives.
    """

    timeout = 0.0
    slot: Slot | None = None
    _is_standby = False

    @classmethod
    def open(cls, target: Target, timeout: float) -> Connection:
        """A new connection.

        :param timeout: seconds that a call waits for other writers
        :raises psycopg.Error: if the server cannot be reached, or refuses the user
        """
        try:
            connection = cls.connect(make_conninfo(**(_parameters(timeout) | target.parameters)), autocommit=True)
        except OSError as error:  # psycopg opens a file of its own to wait for the server.
            raise psycopg.OperationalError(str(error)) from error
        connection.timeout = silence_timeout(timeout)
        try:
            # A pooler uses several server processes, so the one that it names at login is not the one that answers, and
            # the next transaction may run on another one, which does not know this one's prepared statements.
            if connection.run("SELECT pg_backend_pid()") != [(connection.info.backend_pid,)]:
                connection.prepare_threshold = None
        except BaseException:
            connection.close()
            raise
        return connection

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.adapters.register_loader("bytea", _WritableBytes)

    def wait(self, gen: Generator[Any, Any, T], *_: Any, **__: Any) -> T:
        return waiting.wait(self._unless_silent(gen), self.pgconn.socket, _POLL)

    def _unless_silent(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """Add a deadline to a generator of psycopg, which otherwise waits forever."""
        try:
            wanted = next(gen)
            deadline = time.monotonic() + self.timeout
            while True:
                ready = yield wanted
                if ready != Ready.NONE:
                    wanted = gen.send(ready)
                    deadline = time.monotonic() + self.timeout
                elif time.monotonic() > deadline:
                    raise Silent(f"the server has been silent for {self.timeout:g} seconds")
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def is_ready(self) -> bool:
        """Whether the server has sent nothing unexpected, as it does when it closes the connection."""
        try:
            return waiting.wait(_readable(), self.pgconn.socket, 0.0) == Ready.NONE
        except psycopg.Error:  # Some releases of psycopg raise this if the server has closed or reset the socket.
            return False

    def is_in_transaction(self) -> bool:
        """Whether it is in a transaction that has not failed."""
        return self.pgconn.transaction_status == TransactionStatus.INTRANS

    def is_idle(self) -> bool:
        """Whether it is in no transaction, and no call is in progress."""
        return self.pgconn.transaction_status == TransactionStatus.IDLE

    def can_roll_back(self) -> bool:
        """Whether it is in a transaction, failed or not, and no call is in progress."""
        return self.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def clean_up(self) -> bool:
        """Roll back an unfinished transaction. Returns whether the connection can be used again."""
        if self.can_roll_back():
            with suppress(psycopg.Error):
                self.run("ROLLBACK")
        return self.is_idle() and not self._is_standby

    def run(self, sql: str, args: Bindings | None = None, nbytes: int = 0) -> list[Row]:
        """Run a statement, or several without arguments, and return the rows of the last that has any.

        :param nbytes: the size of the values in it, which extends the deadline
        """
        if nbytes:
            self.timeout += nbytes / MIN_BYTES_PER_SECOND
        try:
            # With arguments, rows come in the binary format, which is half as long for large values.
            cursor = self.execute(sql, args, binary=args is not None)
            return cursor.fetchall() if cursor.description else []
        except Silent:
            self.close()  # A late answer would be taken for that of the next call.
            raise
        except errors.ReadOnlySqlTransaction:
            self._is_standby = True  # Another server has taken over, and a new connection may find it.
            raise
        finally:
            if nbytes:
                self.timeout -= nbytes / MIN_BYTES_PER_SECOND

    def forget(self) -> None:
        """Close the socket without a message to the server, because the parent process uses the connection."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        with suppress(OSError, psycopg.Error):  # It may be closed already.
            os.dup2(nowhere, self.fileno())
        os.close(nowhere)

    def __del__(self, _: Any = None) -> None:
        """Without psycopg's warning: a pool's connections may live as long as the process."""


def silence_timeout(timeout: float) -> float:
    """How long a server may be silent: while it waits for locks, and then for its own work."""
    return 2 * timeout + 1


def _parameters(timeout: float) -> dict[str, Any]:
    """Default parameters for libpq, which those of the URL override."""
    return {
        "application_name": "flask_dash_store",
        "client_encoding": "UTF8",
        "connect_timeout": max(2, math.ceil(timeout)),
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": math.ceil(silence_timeout(timeout) * 1000),
    }


def fault(name: str, error: psycopg.Error, busy: StorageBusy, is_in_doubt: bool = False) -> StorageError:
    """The package's exception for an error of psycopg.

    :param name: the storage's name
    :param busy: the exception for a lock that others held for too long
    :param is_in_doubt: whether it is not known if a write was done
    """
    if isinstance(error, _BUSY):
        return busy
    kind = next((kind for cause, kind in _FAULTS.items() if isinstance(error, cause)), StorageError)
    # The details of an error may contain values. The primary message does not.
    text = error.diag.message_primary or str(error).strip()
    doubt = " It is not known whether the write was done." if is_in_doubt else ""
    return kind(f"The {name} failed: {type(error).__name__}: {text}.{doubt}")


_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure, errors.QueryCanceled)
_FAULTS: dict[type[psycopg.Error], type[StorageError]] = {
    errors.DiskFull: StorageFull,
    errors.DataCorrupted: StorageCorrupt,
    errors.IndexCorrupted: StorageCorrupt,
}
