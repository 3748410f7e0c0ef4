"""How much the SQLite storage keeps, and what of the disk it takes."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress

from ..name_search import SearchedText
from ..statistics import (
    DAY,
    HOUR,
    Order,
    OwnerInfo,
    OwnerPage,
    Space,
    Spread,
    SupportsStatistics,
    Totals,
    page_of_rows,
    spread_of_counts,
)
from . import schema
from .export import Exporter
from .reader import end_of

FIRST_PAGES_END = 1000  # From here on, it is quicker to sort all owners than to keep the first ones of an order.


class Counter(Exporter, SupportsStatistics):
    """The methods of a storage that say how much there is."""

    filename: str

    def totals(self, now: float, largest: int = 0) -> Totals:
        totals = Totals(*self._database.select(schema.TOTALS, args_of_totals(now))[0])
        if not largest:
            return totals
        rows = self._database.select(schema.LARGEST, {"now": now, "limit": largest})
        return totals._replace(largest=tuple(OwnerInfo(*row) for row in rows))

    def spread(self, now: float) -> Spread:
        return spread_of_counts(*self._database.select(schema.SPREAD, {"now": now})[0])

    def find_owners(
        self, prefix: str, order: Order, limit: int, now: float, *, offset: int = 0, containing: str = ""
    ) -> OwnerPage:
        bounds = {"prefix": prefix, "end": end_of(prefix), "limit": limit, "offset": offset, "now": now}
        is_near = not containing and offset + limit <= FIRST_PAGES_END  # A search is worth doing once, not twice.
        queries = schema.FIRST_PAGES if is_near else schema.SORTED_PAGES
        return page_of_rows(self._database.select(queries[order], bounds | SearchedText.of(containing)._asdict()))

    def space(self) -> Space:
        """The files of large values are many, so they do not count as used; the disk's free space says how full it is.

        The file is looked at by its name alone: to open and close it would drop SQLite's locks.
        """
        size, log = _size(self.filename), _size(f"{self.filename}-wal")
        free: int | None = None
        with suppress(OSError):
            free = min(shutil.disk_usage(self.filename).free, max(0, _largest_file() - size))
        return Space(size + log, free, log)


def args_of_totals(now: float) -> dict[str, float]:
    """What the query of the totals is given."""
    return {"now": now, "hour": now - HOUR, "day": now - DAY}


def _largest_file() -> int:
    """How large a file of this process may become (``ulimit -f``)."""
    if sys.platform != "win32":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY:
            return limit
    return sys.maxsize


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # A WAL is there while the file is in use.
        return 0
