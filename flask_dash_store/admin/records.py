"""What the admin page itself keeps in the store: records of what JSON can say.

Each has an owner of its own, which is neither a session nor a user, so the app's limits of keys and bytes are those of
each record. When no one has used the page for long, they expire.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import TamperedValue, UnreadableValue
from ..expiry import Access, ExpiryPolicy
from ..extension import OpenedExtension
from ..operations import looking
from ..owner import Owner

TTL = 62 * 24 * 3600.0

_KEY = "record"  # A record of another form needs another key, for workers of two versions may share a store.


def read_record(extension: OpenedExtension, owner: Owner) -> Any:
    """The owner's record; None when there is none."""
    stored = extension.storage.get(owner, _KEY, looking(extension))
    with suppress(TamperedValue, UnreadableValue):  # SECRET_KEY was changed, say. The next one replaces it.
        return None if stored is None else extension.codec.decode(owner.name, _KEY, stored)
    return None


def change_record(extension: OpenedExtension, owner: Owner, change: Callable[[Any], Any]) -> Any:
    """Replace an owner's record by what ``change`` makes of it, while no other worker does. Returns the new one.

    :param change: gets the record, or None
    :raises QuotaExceeded: when it is larger than the values of a session or user may be
    :raises StorageError: when the storage fails
    """
    with extension.storage.transaction(owner):
        changed = change(read_record(extension, owner))
        stored = extension.codec.encode(owner.name, _KEY, changed)
        extension.storage.set(owner, _KEY, stored, _access(extension))
    return changed


def _access(extension: OpenedExtension) -> Access:
    return ExpiryPolicy(TTL, extension.now).access()
