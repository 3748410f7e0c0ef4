"""A connection to PostgreSQL: how it is opened, for how long it waits, and what its errors mean."""

from __future__ import annotations

import math
import os
import re
import select
from collections.abc import Generator
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from ...errors import ConfigurationError, StorageBusy, StorageCorrupt, StorageError, StorageFull
from ..base import Synchronous

try:
    import psycopg
    from psycopg import errors
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
Bindings = dict[str, Any]

# What psycopg waits for, and is told to have come, in the words of poll().
_POLLED = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}
_READY = {select.POLLIN: Ready.R, select.POLLOUT: Ready.W}

DEFAULT_SCHEMA = "flask_dash_store"

# A value is one message in the protocol, and one field in a table: each less than 1 GiB. The rest is for the key.
MAX_VALUE_BYTES = 2**30 - 2**16

_SCHEMES = ("postgresql://", "postgres://")
# libpq quotes what it does not understand, in the quotation marks of any language, and that may hold a password.
_UNQUOTED = re.compile(r"[\w /-]*")

# How much of a large value, in bytes a second, a server takes or gives at least.
SLOWEST = 10 * 2**20


class Target(NamedTuple):
    """What a URL names: a database, as libpq wants to be told of it, and a schema in it."""

    parameters: dict[str, Any]
    schema: str

    def __repr__(self) -> str:
        return f"<{self.name}>"  # The parameters may hold a password.

    @classmethod
    def of(cls, url: str) -> Target:
        """:raises ConfigurationError: when it is no URL of a PostgreSQL database"""
        if not url.startswith(_SCHEMES):
            raise ConfigurationError(
                "USER_STORE_URL (url=) names PostgreSQL, so it has to begin with postgresql:// or postgres://, without "
                "the name of a driver."
            )
        address, _, query = url.partition("?")
        ours = [part for part in query.split("&") if part.startswith("schema=")]
        theirs = "&".join(part for part in query.split("&") if part and part not in ours)
        schema = unquote(ours[-1].removeprefix("schema=")) if ours else DEFAULT_SCHEMA
        if not 0 < len(schema.encode()) < 64 or "\0" in schema:
            raise ConfigurationError("The schema= of USER_STORE_URL (url=) has to be a name of 1 to 63 bytes.")
        if "@" in address.partition("://")[2].partition("/")[2]:
            raise _unreadable("an @ behind a /")
        if url.partition("://")[2].partition("/")[0].count("@") > 1:
            raise _unreadable("a second @")
        try:
            parameters = dict(conninfo_to_dict(f"{address}?{theirs}" if theirs else address))
        except psycopg.Error as error:
            raise _unreadable(_UNQUOTED.match(str(error))[0].strip()) from None  # type: ignore[index]
        if str(parameters.get("port", "")).strip("0123456789,"):  # It is what follows a colon, if no @ comes.
            raise _unreadable("a port that is no number")
        return cls(parameters, schema)

    @property
    def quoted_schema(self) -> str:
        quoted = self.schema.replace('"', '""')
        return f'"{quoted}"'

    @property
    def name(self) -> str:
        """What error messages call it. It tells no password."""
        place = self.parameters.get("host") or self.parameters.get("hostaddr") or "the default server"
        return f"PostgreSQL schema {self.schema} in {self.parameters.get('dbname', 'the default database')} on {place}"


def _unreadable(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"USER_STORE_URL (url=) is no URL that PostgreSQL knows: {reason}. Special characters in a password are "
        "percent-encoded."
    )


class Silent(psycopg.OperationalError):
    """The server has not said a word for too long."""


class _WritableBytes(Loader):
    format = Format.BINARY

    def load(self, data: Any) -> bytearray:
        return bytearray(data)


class Connection(psycopg.Connection[Row]):
    """A connection on which no call waits for a server that has stopped answering.

    Neither TCP nor libpq notice such a server: its kernel still acknowledges what it is sent.
    """

    timeout = 0.0
    _is_standby = False

    @classmethod
    def open(cls, target: Target, timeout: float, synchronous: Synchronous) -> Connection:
        """:raises psycopg.Error: when there is no server, or it does not let us in"""
        connection = cls.connect(make_conninfo(**(_parameters(timeout) | target.parameters)), autocommit=True)
        connection.timeout = _timeout(timeout)
        try:
            settings = _settings(target, timeout)
            connection.run(_SET, {"names": list(settings), "texts": list(settings.values())})
            if synchronous == "FULL":
                connection.run(_SYNCHRONOUS)
        except BaseException:
            connection.close()
            raise
        return connection

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.adapters.register_loader("bytea", _WritableBytes)
        self._socket = select.poll()

    def wait(self, gen: Generator[Any, Any, T], *_: Any, **__: Any) -> T:
        # psycopg waits in turns of a tenth of a second, and for ever.
        try:
            wanted = next(gen)
            while True:
                events = self._events(_POLLED[wanted])
                if not events:
                    raise Silent(f"the server has been silent for {self.timeout:g} seconds")
                wanted = gen.send(_READY.get(events, Ready.RW))  # What is broken is ready to say so.
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _events(self, wanted: int, timeout: float | None = None) -> int:
        self._socket.register(self.fileno(), wanted)
        found = self._socket.poll((self.timeout if timeout is None else timeout) * 1000)
        return found[0][1] if found else 0

    def is_quiet(self) -> bool:
        """Whether the server has said nothing unasked. It does when it closes the connection."""
        return not self._events(select.POLLIN, timeout=0)

    def is_in_transaction(self) -> bool:
        """Whether it is in a transaction that can go on."""
        return self.pgconn.transaction_status == TransactionStatus.INTRANS

    def can_roll_back(self) -> bool:
        """Whether it is in a transaction, and no call that was interrupted still waits for its answer."""
        return self.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def clean_up(self) -> bool:
        """Undo what has been left unfinished. Returns whether the connection can be used again."""
        if self.can_roll_back():
            with suppress(psycopg.Error):
                self.run("ROLLBACK")
        return self.pgconn.transaction_status == TransactionStatus.IDLE and not self._is_standby

    def run(self, sql: str, args: Bindings | None = None, nbytes: int = 0) -> list[Row]:
        """Run a statement, or several without arguments, and return the rows of the first.

        :param nbytes: how large the values in it are, for it may take the longer
        """
        if nbytes:
            self.timeout += nbytes / SLOWEST
        try:
            # What has arguments comes back in binary, in which a body is half as long.
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
                self.timeout -= nbytes / SLOWEST

    def forget(self) -> None:
        """Close the socket without a word to the server, for it is another process's too."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        with suppress(OSError, psycopg.Error):  # It may be closed already.
            os.dup2(nowhere, self.fileno())
        os.close(nowhere)

    def __del__(self, _: Any = None) -> None:
        """Those of a pool may live as long as the process, of which psycopg would warn."""


def _timeout(timeout: float) -> float:
    """How long a server may be silent: for others that it waits for, and then for its own work."""
    return 2 * timeout + 1


def _parameters(timeout: float) -> dict[str, Any]:
    """What libpq is told unless the URL tells it otherwise."""
    return {
        "application_name": "flask_dash_store",
        "client_encoding": "UTF8",
        "connect_timeout": max(2, math.ceil(timeout)),
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": math.ceil(_timeout(timeout) * 1000),
    }


def _settings(target: Target, timeout: float) -> dict[str, str]:
    """What the server is told."""
    return {
        "search_path": target.quoted_schema,
        "default_transaction_isolation": "read committed",
        "lock_timeout": f"{max(1, math.ceil(timeout * 1000))}ms",
        # A client that does not wait any more cannot say so to a server that is too busy to hear it.
        "statement_timeout": f"{math.ceil(_timeout(timeout) + MAX_VALUE_BYTES / SLOWEST)}s",
        # A host that has vanished must not keep its locks.
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        # Every query finds what it wants by an index, whatever the tables were like when it was planned; and only a
        # plain index scan marks the entries of rows that have gone, so that the next one passes over them.
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "jit": "off",
        "standard_conforming_strings": "on",
    }


_SET = "SELECT set_config(name, text, false) FROM unnest(%(names)s::text[], %(texts)s::text[]) AS s (name, text)"
# A server may be set to more than "on", such as to wait for its standby.
_SYNCHRONOUS = """
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"""


def fault(name: str, timeout: float, error: psycopg.Error, is_in_doubt: bool = False) -> StorageError:
    """The package's own exception for what psycopg raised.

    :param is_in_doubt: whether a write was under way
    """
    if isinstance(error, _BUSY):
        return StorageBusy(
            f"The {name} was in use by others for longer than the {timeout:g} seconds that USER_STORE_TIMEOUT "
            f"(timeout=) lets a call wait ({type(error).__name__}). Keep transaction() blocks short, or raise it."
        )
    kind = next((kind for cause, kind in _FAULTS.items() if isinstance(error, cause)), StorageError)
    # The details of an error may hold values; its first line does not.
    text = error.diag.message_primary or str(error).strip()
    doubt = " Whether what it was told to write is stored is not known." if is_in_doubt else ""
    return kind(f"The {name} failed: {type(error).__name__}: {text}.{doubt}")


_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure, errors.QueryCanceled)
_FAULTS: dict[type[psycopg.Error], type[StorageError]] = {
    errors.DiskFull: StorageFull,
    errors.DataCorrupted: StorageCorrupt,
    errors.IndexCorrupted: StorageCorrupt,
}
