"""The values of a file that the package dash_database wrote: rows ``{user_id}_{key}`` of sqlitedict's table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import apsw

from ...errors import StorageError

ROWS = 'SELECT key, value FROM "unnamed" ORDER BY rowid'


class Row(NamedTuple):
    """One value. The user is None where the name alone does not tell who it is."""

    name: str
    user_id: str | None
    key: str
    pickled: object


def read(file: Path, user_ids: Iterable[str] = ()) -> Iterator[Row]:
    """The rows of a file.

    User ids may hold ``_`` and begin alike, so ``1_2_a`` may be 1's ``2_a`` or 1_2's ``a``: of the ids that are given
    the longest one that fits is taken. Of the others, a name with one ``_`` has but one reading.

    :raises StorageError: when dash_database has not written the file
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
        raise StorageError(f"{file} is not a file of dash_database: {error}.") from error
