"""Looking for damage in a SQLite storage, while others use it."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import StorageCorrupt
from . import schema
from .buffers import BufferStore
from .database import Database

MOST_PROBLEMS = 100


def problems(database: Database, buffers: BufferStore) -> Iterator[str]:
    """What is damaged, each as a sentence."""
    try:
        for (problem,) in database.select(f"PRAGMA integrity_check({MOST_PROBLEMS})"):
            if problem != "ok":
                yield f"The database is damaged: {problem}."
        for place, file in database.select(schema.ALL_BODIES):
            yield from _problems_of_body(database, buffers, place, file)
    except StorageCorrupt as error:
        yield str(error)


def _problems_of_body(database: Database, buffers: BufferStore, place: str, file: str) -> Iterator[str]:
    try:
        is_whole = buffers.read(file, may_be_torn=True) is not None
    except StorageCorrupt as error:
        yield str(error)
        return
    if not is_whole and database.select(schema.IS_NAMED, (file,)):
        owner, _, key = place.partition("/")
        yield f"The file {file} of the value stored under {key!r} for {owner[:10]}… is missing or damaged."
