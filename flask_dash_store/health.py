"""Whether a storage can be read and written now, for those who watch an app."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import asdict, dataclass

from .codec import Codec
from .errors import StorageError
from .expiry import Clock, ExpiryPolicy
from .owner import Owner
from .storage import Storage
from .storage.statistics import SupportsStatistics

DEFAULT_TIMEOUT = 1.0
MIN_FREE_BYTES = 2**20

# Neither a session nor a user: it is counted and listed nowhere.
_OWNER, _KEY, _TTL = Owner("h.health"), "probe", 24 * 3600.0


@dataclass(frozen=True)
class Health:
    """Whether an app's storage can be used, as :meth:`UserStoreMiddleware.health` has found it.

    :ivar can_read: whether a value could be read
    :ivar can_write: whether a value could be written
    :ivar problem: why not, or what will be soon; None when all is well
    :ivar seconds: how long it took to find out
    :ivar used: bytes that the storage's files or tables take, without the files of large values; of a Redis server, all
        of its memory. None where that is not known
    :ivar free: bytes for which there is room; None where that is not known, or has no limit
    """

    can_read: bool
    can_write: bool
    problem: str | None
    seconds: float
    used: int | None = None
    free: int | None = None

    @property
    def ok(self) -> bool:
        """Whether all is well: it can be read and written, and there is room for a value of 1 MiB."""
        return self.problem is None

    def as_dict(self) -> dict[str, object]:
        """The same for JSON, with ``ok``."""
        return {"ok": self.ok, **asdict(self)}


class HealthProbe:
    """Looks at one storage, by reading and writing a value of its own.

    It does so in a thread, so that the answer comes in time when the storage does not; there is one at a time, however
    often it is asked.
    """

    def __init__(self, storage: Storage, codec: Codec, clock: Clock) -> None:
        self._storage = storage
        self._codec = codec
        self._expiry = ExpiryPolicy(_TTL, clock)
        self._running: _Check | None = None

    def health(self, timeout: float) -> Health:
        """How it is now.

        :param timeout: seconds after which the storage is taken for one that does not answer
        """
        look = self._running
        if look is None or not look.thread.is_alive():
            look = self._running = _Check(self)
            look.thread.start()
        look.thread.join(timeout)
        return look.health(timeout)

    def read(self) -> None:
        access = self._expiry.access()
        self._storage.get(_OWNER, _KEY, access._replace(touch_threshold=math.inf))

    def write(self) -> None:
        self._storage.set(_OWNER, _KEY, self._codec.encode(_OWNER.name, _KEY, True), self._expiry.access())

    def space(self) -> tuple[int | None, int | None]:
        """Bytes that are used and free, each None where it is not known."""
        if not isinstance(self._storage, SupportsStatistics):
            return None, None
        try:
            return self._storage.space()[:2]
        except StorageError:  # A server may forbid to ask.
            return None, None


class _Check:
    """One look at a storage, as far as it has come."""

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
                self._problem = f"It is full: there is room for {self._free} bytes."
        except StorageError as error:
            self._problem = str(error)
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"
            raise

    def health(self, timeout: float) -> Health:
        problem = self._problem
        if problem is None and not self._can_write:
            problem = f"The storage has answered no {self._doing} within {timeout:g} seconds."
        seconds = time.perf_counter() - self._began
        return Health(self._can_read, self._can_write, problem, seconds, self._used, self._free)
