"""What the admin page does that takes long: purge, check, backup. Each says how far it is, and what it has done."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from .. import operations
from ..errors import StorageError
from ..extension import OpenedExtension
from ..storage.base import Progress, SupportsBackup, SupportsExport
from ..wording import count

MAX_DETAILS = 20


class Outcome(NamedTuple):
    """What a task has done.

    :ivar text: in a sentence
    :ivar is_good: whether there is nothing that an operator should see to
    :ivar details: what it has found, a sentence each; the first ones of many
    """

    text: str
    is_good: bool = True
    details: tuple[str, ...] = ()


Work = Callable[[OpenedExtension, Progress], Outcome]


def tasks_for(extension: OpenedExtension, backups: Path | None) -> dict[str, Work]:
    """What can be done with this store, by name.

    :param backups: the folder for backups; None for no backups
    """
    works: dict[str, Work] = {"purge": _purge}
    if isinstance(extension.storage, SupportsExport):
        works["check"] = _check
    if backups is not None and isinstance(extension.storage, SupportsBackup):
        works["backup"] = lambda extension, progress: _back_up(extension, progress, backups)
    return works


def _purge(extension: OpenedExtension, progress: Progress) -> Outcome:
    removed = operations.purge(extension, progress)
    return Outcome(f"Removed {count(removed, 'expired session')} and users." if removed else "Nothing had expired.")


def _check(extension: OpenedExtension, progress: Progress) -> Outcome:
    storage, first, found = extension.storage, list[str](), 0
    if not isinstance(storage, SupportsExport):
        raise StorageError(f"{type(storage).__name__} cannot be checked.")
    for problem in operations.problems(storage, extension.codec, progress):
        found += 1
        first += [problem] if found <= MAX_DETAILS else []
    return _outcome("No damage found.", f"Found {count(found, 'problem')}.", found, first)


def _back_up(extension: OpenedExtension, progress: Progress, folder: Path) -> Outcome:
    storage = extension.storage
    if not isinstance(storage, SupportsBackup):
        raise StorageError(f"{type(storage).__name__} cannot be backed up.")
    at = datetime.fromtimestamp(extension.now(), UTC)
    target = folder / f"user-store-{at:%Y-%m-%d-%H%M%S}.sqlite"
    left_out = [
        f"{key!r} of {owner} is damaged, and is left out."
        for owner, _, key in (value.partition("/") for value in storage.back_up(target, progress))
    ]
    done = f"Backed up to {target.name}"
    return _outcome(f"{done}.", f"{done}, without {count(len(left_out), 'value')}.", len(left_out), left_out)


def _outcome(good: str, bad: str, found: int, details: list[str]) -> Outcome:
    if not found:
        return Outcome(good)
    more = found - MAX_DETAILS
    return Outcome(bad, False, (*details[:MAX_DETAILS], *([f"… and {more:,} more."] if more > 0 else [])))
