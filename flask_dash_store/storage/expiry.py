"""What a stored expiry says. Whatever is in the file, it is live, past, or the mark of an end."""

from __future__ import annotations

from typing import TypeGuard

from ..errors import SessionEnded
from ..expiry import Access


def is_live_key(expiry: object, access: Access) -> bool:
    """Whether a key has no expiry of its own, or one that is yet to come; an unreadable one is past."""
    return expiry is None or (isinstance(expiry, (float, int)) and expiry > access.now)


def is_ended(expiry: object) -> TypeGuard[float]:
    return isinstance(expiry, (float, int)) and expiry < 0


def is_in_future(expiry: object, access: Access) -> TypeGuard[float]:
    """Whether a stored expiry is yet to come. A missing or unreadable one is not.

    :raises SessionEnded: when it says that the owner was ended
    """
    if is_ended(expiry):
        raise SessionEnded(-expiry)
    return isinstance(expiry, (float, int)) and expiry > access.now
