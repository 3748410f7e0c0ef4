"""Sessions and users: which there are, and what one of them has."""

from __future__ import annotations

import re
from itertools import islice
from typing import Literal, NamedTuple

from ..errors import SessionEnded
from ..extension import OpenedExtension
from ..operations import looking, sessions_of
from ..owner import SESSION_PREFIX, USER_PREFIX, Owner, user_id_of
from ..storage.base import Stat, ValueInfo
from ..storage.statistics import Order, OwnerInfo, OwnerPage, SupportsStatistics
from .values import shown_value

View = Literal["sessions", "users"]

PAGE = 25
MAX_KEYS = 200
MAX_VALUES = 50
MAX_SESSIONS = 100

_PREFIXES: dict[View, str] = {"sessions": SESSION_PREFIX, "users": USER_PREFIX}
_NAME = re.compile(rf"({'|'.join(map(re.escape, _PREFIXES.values()))})[A-Za-z0-9_.~%-]+", re.ASCII)


class Detail(NamedTuple):
    """What one session or user has.

    :ivar ended_at: when the session ended; None unless it did
    :ivar values: the first keys, largest first, each with what is shown of its value; None where nothing is
    :ivar sessions: of a user, those in which they are logged in
    """

    name: str
    stat: Stat
    values: list[tuple[ValueInfo, str | None]]
    sessions: list[OwnerInfo]
    ended_at: float | None = None

    @property
    def is_there(self) -> bool:
        return bool(self.values or self.sessions or self.stat.expires is not None)


def is_name(name: str) -> bool:
    """Whether it has the form of a session's or user's name."""
    return _NAME.fullmatch(name) is not None


def is_session(name: str) -> bool:
    """Whether a name is a session's, and not a user's."""
    return name.startswith(SESSION_PREFIX)


def owners_page(
    extension: OpenedExtension, view: View, order: Order, containing: str, offset: int
) -> tuple[OwnerPage, int]:
    """A page of the sessions or users, and how many come before it.

    :param containing: what their names contain; "" for all
    :param offset: how many to skip; if that is after the last page, the last page is returned
    :raises StorageError: when the storage fails
    """
    storage = extension.storage
    if not isinstance(storage, SupportsStatistics):
        return OwnerPage([], 0), 0
    prefix, now = _PREFIXES[view], extension.now()
    page = storage.find_owners(prefix, order, PAGE, now, offset=offset, containing=containing)
    if not page.owners and page.total:  # Some have gone since.
        offset = (page.total - 1) // PAGE * PAGE
        page = storage.find_owners(prefix, order, PAGE, now, offset=offset, containing=containing)
    return page, offset


def detail_of(extension: OpenedExtension, name: str, with_values: bool) -> Detail:
    """What a session or user has. It keeps nothing alive.

    :param with_values: whether values are read to be shown
    :raises StorageError: when the storage fails
    """
    access = looking(extension)
    try:
        owner = extension.storage.current(Owner(name), access)
        stat, values = extension.storage.stat(owner, access), extension.storage.describe(owner, access)
    except SessionEnded as ended:
        return Detail(name, Stat(), [], [], ended.ended_at)
    largest = sorted(values, key=lambda value: -value.nbytes)[:MAX_KEYS]
    shown = [
        (value, shown_value(extension, owner, value, access) if with_values and number < MAX_VALUES else None)
        for number, value in enumerate(largest)
    ]
    sessions = [] if is_session(name) else list(islice(sessions_of(extension, user_id_of(name)), MAX_SESSIONS))
    return Detail(name, stat, shown, sessions)


def end(extension: OpenedExtension, name: str) -> int:
    """End a session, or all in which a user is logged in. Returns how many were ended.

    :raises StorageError: when the storage fails
    """
    if not is_session(name):
        return extension.end_sessions(user_id_of(name), None)
    try:
        return int(extension.end_session(extension.storage.current(Owner(name), looking(extension))))
    except SessionEnded:
        return 0
