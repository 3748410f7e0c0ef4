"""A connection to PostgreSQL: how it is opened, for how long it waits, and what its errors mean."""

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
        "A postgresql:// URL needs the driver psycopg 3, which cannot be imported here. Install it with: "
        "pip install 'flask_dash_store[postgresql]'"
    ) from missing

T = TypeVar("T")
Row = tuple[Any, ...]
Bindings = Sequence[Any] | Mapping[str, Any]

DEFAULT_SCHEMA = "flask_dash_store"

# A server has 100 for all, unless it is set otherwise.
DEFAULT_MAX_CONNECTIONS = 16

_SCHEMES = ("postgresql://", "postgres://")
# libpq quotes what it does not understand, in the quotation marks of any language, and that may hold a password.
_UNQUOTED = re.compile(r"[\w /-]*")

# How much of a large value, in bytes a second, a server takes or gives at least.
MIN_BYTES_PER_SECOND = 10 * 2**20

# Seconds after which waiting is interrupted, to look for signals and at the clock.
_POLL = 0.1


class Target(NamedTuple):
    """What a URL names.

    :ivar parameters: those with which libpq connects to the database
    :ivar schema: the schema in it that has the tables
    :ivar max_connections: how many a process may have
    """

    parameters: dict[str, Any]
    schema: str
    max_connections: int

    def __repr__(self) -> str:
        return f"<{self.name}>"  # The parameters may hold a password.

    @classmethod
    def of(cls, url: str) -> Target:
        """What a URL names.

        :raises ConfigurationError: when it is not the URL of a PostgreSQL database
        """
        if not url.startswith(_SCHEMES):
            raise ConfigurationError(
                "USER_STORE_URL (url=) names PostgreSQL, so it has to begin with postgresql:// or postgres://, without "
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
            raise ConfigurationError("The schema= of USER_STORE_URL (url=) has to be a name of 1 to 63 bytes.")
        if not connections.isdecimal() or int(connections) < 1:
            raise ConfigurationError("The max_connections= of USER_STORE_URL (url=) has to be a number from 1.")
        return cls(_libpq_parameters(address, theirs), schema, int(connections))

    @property
    def quoted_schema(self) -> str:
        quoted = self.schema.replace('"', '""')
        return f'"{quoted}"'

    @property
    def name(self) -> str:
        """What error messages call it. It holds no password."""
        host = self.parameters.get("host") or self.parameters.get("hostaddr") or "the default server"
        return f"PostgreSQL schema {self.schema} in {self.parameters.get('dbname', 'the default database')} on {host}"


def _libpq_parameters(address: str, parameters: list[str]) -> dict[str, Any]:
    """What libpq reads in a URL, which it takes for something else when a password is not percent-encoded."""
    host, _, path = address.partition("://")[2].partition("/")
    if "@" in path:
        raise _unreadable("an @ behind a /")
    if host.count("@") > 1:
        raise _unreadable("a second @")
    try:
        read = dict(conninfo_to_dict("?".join([address, *(["&".join(parameters)] if parameters else [])])))
    except psycopg.Error as error:
        raise _unreadable(_UNQUOTED.match(str(error))[0].strip()) from None  # type: ignore[index]
    if str(read.get("port", "")).strip("0123456789,"):  # It is what follows a colon, if no @ comes.
        raise _unreadable("a port that is not a number")
    return read


def _unreadable(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"PostgreSQL cannot read USER_STORE_URL (url=): {reason}. Special characters in a password are percent-encoded."
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
    """For psycopg's ways to wait: what a socket is ready for, of reading alone."""
    ready: int = yield Wait.R
    return ready


class Connection(psycopg.Connection[Row]):
    """A connection on which no call waits for a server that has stopped answering.

    Neither TCP nor libpq notice such a server: its kernel still acknowledges what it is sent.
    """

    timeout = 0.0
    slot: Slot | None = None
    _is_standby = False

    @classmethod
    def open(cls, target: Target, timeout: float) -> Connection:
        """A new connection.

        :param timeout: seconds that a call waits for other writers
        :raises psycopg.Error: when the server cannot be reached, or refuses the user
        """
        try:
            connection = cls.connect(make_conninfo(**(_parameters(timeout) | target.parameters)), autocommit=True)
        except OSError as error:  # To wait for the server, psycopg opens a file beside libpq's socket.
            raise psycopg.OperationalError(str(error)) from error
        connection.timeout = silence_timeout(timeout)
        try:
            # A pooler answers for many processes of the server, so the one that it names at login is not the one at
            # work, and the next transaction may be on one that knows nothing of this one's prepared statements.
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
        """A generator of psycopg, which waits for as long as it takes, with an end to that."""
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
        """Whether the server has sent nothing that was not asked for. It does so when it closes the connection."""
        try:
            return waiting.wait(_readable(), self.pgconn.socket, 0.0) == Ready.NONE
        except psycopg.Error:  # Some of its releases raise this for a socket whose other end has been closed or reset.
            return False

    def is_in_transaction(self) -> bool:
        """Whether it is in a transaction that can go on."""
        return self.pgconn.transaction_status == TransactionStatus.INTRANS

    def is_idle(self) -> bool:
        """Whether it is in no transaction, and nothing is under way."""
        return self.pgconn.transaction_status == TransactionStatus.IDLE

    def can_roll_back(self) -> bool:
        """Whether it is in a transaction, and no call that was interrupted still waits for its answer."""
        return self.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def clean_up(self) -> bool:
        """Roll back what has been left unfinished. Returns whether the connection can be used again."""
        if self.can_roll_back():
            with suppress(psycopg.Error):
                self.run("ROLLBACK")
        return self.is_idle() and not self._is_standby

    def run(self, sql: str, args: Bindings | None = None, nbytes: int = 0) -> list[Row]:
        """Run a statement, or several without arguments, and return the rows of the last that has any.

        :param nbytes: how large the values in it are, for it may take the longer
        """
        if nbytes:
            self.timeout += nbytes / MIN_BYTES_PER_SECOND
        try:
            # What has arguments comes back in binary, in which a large value is half as long.
            cursor = self.execute(sql, args, binary=args is not None)
            return cursor.fetchall() if cursor.description else []
        except Silent:
            self.close()  # An answer that comes late would be taken for that to the next call.
            raise
        except errors.ReadOnlySqlTransaction:
            self._is_standby = True  # Another server has taken over, and a new connection may find it.
            raise
        finally:
            if nbytes:
                self.timeout -= nbytes / MIN_BYTES_PER_SECOND

    def forget(self) -> None:
        """Close the socket without telling the server, for another process uses the connection."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        with suppress(OSError, psycopg.Error):  # It may be closed already.
            os.dup2(nowhere, self.fileno())
        os.close(nowhere)

    def __del__(self, _: Any = None) -> None:
        """Those of a pool may live as long as the process, of which psycopg would warn."""


def silence_timeout(timeout: float) -> float:
    """How long a server may be silent: for others that it waits for, and then for its own work."""
    return 2 * timeout + 1


def _parameters(timeout: float) -> dict[str, Any]:
    """Parameters for libpq, which those of the URL override."""
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
    """The package's own exception for what psycopg raised.

    :param name: of the storage
    :param busy: the one for a lock that others held for too long
    :param is_in_doubt: whether a write was under way
    """
    if isinstance(error, _BUSY):
        return busy
    kind = next((kind for cause, kind in _FAULTS.items() if isinstance(error, cause)), StorageError)
    # The details of an error may hold values; its first line does not.
    text = error.diag.message_primary or str(error).strip()
    doubt = " It is not known whether what it was asked to write is stored." if is_in_doubt else ""
    return kind(f"The {name} failed: {type(error).__name__}: {text}.{doubt}")


_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure, errors.QueryCanceled)
_FAULTS: dict[type[psycopg.Error], type[StorageError]] = {
    errors.DiskFull: StorageFull,
    errors.DataCorrupted: StorageCorrupt,
    errors.IndexCorrupted: StorageCorrupt,
}
