"""The values of a file that the package dash_database wrote: rows ``{user_id}_{key}`` of sqlitedict's table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import apsw

from ...errors import StorageError

ROWS = 'SELECT key, value FROM "unnamed" ORDER BY rowid'


class Row(NamedTuple):
    """One value. The user id is None if the row's name alone does not determine it."""

    name: str
    user_id: str | None
    key: str
    pickled: object


def read(file: Path, user_ids: Iterable[str] = ()) -> Iterator[Row]:
    """The rows of a file.

    User ids and keys may contain ``_``: ``1_2_a`` may be the key ``2_a`` of user 1, or the key ``a`` of user 1_2.

    :param user_ids: known user ids. The longest one that matches a name is used; without a match, only a name with one
        ``_`` determines its user.
    :raises StorageError: if dash_database did not write the file
    """
    known = sorted({f"{user_id}_" for user_id in user_ids}, key=len, reverse=True)
    try:
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        for name, pickled in connection.execute(ROWS):
            prefix = next((prefix for prefix in known if name.startswith(prefix)), None)
            if prefix is None and name.count("_") == 1:
                prefix = name[: name.index("_") + 1]
            yield Row(name, prefix and prefix[:-1], name.removeprefix(prefix or ""), pickled)
    except apsw.Error as error:
        raise StorageError(f"{file} is not a dash_database file: {error}.") from error
