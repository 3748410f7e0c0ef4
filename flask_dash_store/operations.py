"""What an operator does with a store, on the command line and on the admin page: look, purge, check."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress

from .codec import Codec
from .errors import SessionEnded, StorageCorrupt, StorageError, TamperedValue
from .expiry import Access
from .extension import OpenedExtension
from .storage.base import Progress, SupportsExport
from .storage.statistics import OwnerInfo, SupportsStatistics


def looking(extension: OpenedExtension) -> Access:
    """An access that only looks: it does not count as use, so it keeps nothing alive."""
    return Access(extension.now(), math.inf, math.inf)


def statistics_of(extension: OpenedExtension) -> SupportsStatistics:
    """The storage, if it has statistics.

    :raises StorageError: if it has none
    """
    storage = extension.storage
    if not isinstance(storage, SupportsStatistics):
        raise StorageError(f"{type(storage).__name__} does not say how much it keeps.")
    return storage


def sessions_of(extension: OpenedExtension, user_id: str) -> Iterator[OwnerInfo]:
    """The sessions in which a user is logged in."""
    access = looking(extension)
    for info in extension.session_infos(user_id):
        with suppress(SessionEnded):  # It has just got another id, or ended.
            keys = extension.storage.stat(info.owner, access).keys
            yield OwnerInfo(info.owner.name, info.created_at, info.expires, info.nbytes, keys)


def purge(extension: OpenedExtension, progress: Progress) -> int:
    """Remove all that has expired. Returns how many sessions, and users, were removed."""
    storage = extension.storage
    expired = storage.totals(extension.now()).expired if isinstance(storage, SupportsStatistics) else 0
    return extension.request_sessions.maintenance.run_to_the_end(
        lambda removed: progress(removed, max(removed, expired))
    )


def problems(storage: SupportsExport, codec: Codec, progress: Progress) -> Iterator[str]:
    """What is damaged, each as a sentence. The MAC of each value is verified; none is unpickled."""
    yield from storage.problems()
    names = list(storage.all_owners())
    for number, name in enumerate(names, 1):
        with suppress(StorageCorrupt):  # Already reported by problems().
            yield from _tampered_values(storage, codec, name)
        progress(number, len(names))


def _tampered_values(storage: SupportsExport, codec: Codec, name: str) -> Iterator[str]:
    dump = storage.dump(name)
    for key, (payload, _), _ in dump.values if dump else ():
        try:
            codec.re_sign(name, key, payload)
        except TamperedValue as error:
            yield str(error)
