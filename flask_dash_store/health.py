"""Whether a storage can be read and written now, for monitoring."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import asdict, dataclass

from .codec import Codec
from .errors import StorageError
from .expiry import Clock, ExpiryPolicy
from .owner import HEALTH_OWNER
from .storage import Storage
from .storage.statistics import SupportsStatistics

DEFAULT_TIMEOUT = 1.0
MIN_FREE_BYTES = 2**20

_OWNER, _KEY, _TTL = HEALTH_OWNER, "probe", 24 * 3600.0


@dataclass(frozen=True)
class Health:
    """Whether an app's storage works, as returned by :meth:`UserStoreMiddleware.health`.

    :ivar can_read: whether a value could be read
    :ivar can_write: whether a value could be written
    :ivar problem: what is wrong, as a sentence; None if nothing is
    :ivar seconds: how long the check took
    :ivar used: bytes that the storage's files or tables take, without the files of large values; for a Redis server,
        all of its memory; None if not known
    :ivar free: bytes that are left; None if not known, or not limited
    """

    can_read: bool
    can_write: bool
    problem: str | None
    seconds: float
    used: int | None = None
    free: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the storage can be read and written, and has room for a value of 1 MiB."""
        return self.problem is None

    def as_dict(self) -> dict[str, object]:
        """All of it as a dict for JSON, with ``ok``."""
        return {"ok": self.ok, **asdict(self)}


class HealthProbe:
    """Checks one storage by reading and writing a value of its own.

    It does so in a thread, so that its answer comes in time even if the storage's does not. There is one thread at a
    time, however often it is asked.
    """

    def __init__(self, storage: Storage, codec: Codec, clock: Clock) -> None:
        self._storage = storage
        self._codec = codec
        self._expiry = ExpiryPolicy(_TTL, clock)
        self._running: _Check | None = None

    def health(self, timeout: float) -> Health:
        """Whether the storage works now.

        :param timeout: seconds to wait for the storage to answer
        """
        check = self._running
        if check is None or not check.thread.is_alive():
            check = self._running = _Check(self)
            check.thread.start()
        check.thread.join(timeout)
        return check.health(timeout)

    def read(self) -> None:
        access = self._expiry.access()
        self._storage.get(_OWNER, _KEY, access._replace(touch_threshold=math.inf))

    def write(self) -> None:
        self._storage.set(_OWNER, _KEY, self._codec.encode(_OWNER.name, _KEY, True), self._expiry.access())

    def space(self) -> tuple[int | None, int | None]:
        """Bytes that are used and free, each None if not known."""
        if not isinstance(self._storage, SupportsStatistics):
            return None, None
        try:
            return self._storage.space()[:2]
        except StorageError:  # A server may forbid the query.
            return None, None


class _Check:
    """One check of a storage, as far as it has come."""

    def __init__(self, probe: HealthProbe) -> None:
        self.thread = threading.Thread(target=self._run, name="flask_dash_store.health", daemon=True)
        self._probe = probe
        self._began = time.perf_counter()
        self._doing = "reads"
        self._problem: str | None = None
        self._can_read = self._can_write = False
        self._used: int | None = None
        self._free: int | None = None

    def _run(self) -> None:
        try:
            self._probe.read()
            self._can_read, self._doing = True, "writes"
            self._used, self._free = self._probe.space()
            self._probe.write()
            self._can_write = True
            if self._free is not None and self._free < MIN_FREE_BYTES:
                self._problem = f"The storage is nearly full: {self._free:,} bytes are left."
        except StorageError as error:
            self._problem = str(error)
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"
            raise

    def health(self, timeout: float) -> Health:
        problem = self._problem
        if problem is None and not self._can_write:
            problem = f"The storage did not answer {self._doing} within {timeout:g} seconds."
        seconds = time.perf_counter() - self._began
        return Health(self._can_read, self._can_write, problem, seconds, self._used, self._free)
