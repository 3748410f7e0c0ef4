"""What the admin page itself keeps in the store: a record under each name, of what JSON can say.

They belong to an owner that is neither a session nor a user. When no one has used the page for long, they expire.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import TamperedValue, UnreadableValue
from ..expiry import Access, ExpiryPolicy
from ..extension import OpenedExtension
from ..owner import ADMIN_OWNER

TTL = 62 * 24 * 3600.0


def read_record(extension: OpenedExtension, name: str) -> Any:
    """The record of this name; None when there is none."""
    access = _access(extension)._replace(touch_threshold=math.inf)
    stored = extension.storage.get(ADMIN_OWNER, name, access)
    with suppress(TamperedValue, UnreadableValue):  # SECRET_KEY was changed, say. The next one replaces it.
        return None if stored is None else extension.codec.decode(ADMIN_OWNER.name, name, stored)
    return None


def change_record(extension: OpenedExtension, name: str, change: Callable[[Any], Any]) -> Any:
    """Replace a record by what ``change`` makes of it, while no other worker does. Returns the new one.

    :param change: gets the record, or None; what it raises changes nothing
    """
    with extension.storage.transaction(ADMIN_OWNER):
        changed = change(read_record(extension, name))
        stored = extension.codec.encode(ADMIN_OWNER.name, name, changed)
        extension.storage.set(ADMIN_OWNER, name, stored, _access(extension))
    return changed


def _access(extension: OpenedExtension) -> Access:
    return ExpiryPolicy(TTL, lambda: extension.access_of_users().now).access()
