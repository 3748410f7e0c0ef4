"""Copy everything from one storage into another, unchanged: signatures, expiries, and which sessions have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .errors import StorageError
from .storage.base import ENDED, Dump, SupportsExport, Value


def copy(
    owners: Iterable[str], source: SupportsExport, target: SupportsExport, damaged: Callable[[str, str], None]
) -> Iterator[bool]:
    """Copy owners one after the other, and read each again to see that it has arrived.

    An owner whose copy is there already is left alone. So what was interrupted goes on where it stopped, and a
    second run brings what has changed since the first. One that has ended in the target stays ended.

    :param owners: their names
    :param damaged: called with the owner's name and the key of each value that cannot be read, and is left out
    :returns: for each owner, once it is done, whether anything was copied
    :raises StorageError: when a storage fails, or what was written does not read as it was written
    """
    for name in owners:
        dump = source.dump(name)
        for key in dump.damaged if dump else ():
            damaged(name, key)
        yield dump is not None and _copy_owner(name, dump, target)


def _copy_owner(name: str, dump: Dump, target: SupportsExport) -> bool:
    there = target.dump(name)
    if there is not None and (there.session == ENDED or _is_same(there, dump)):
        return False
    target.load(name, dump)
    arrived = target.dump(name)
    if arrived is None or not _is_same(arrived, dump):
        raise StorageError(f"The copy of {name[:10]}… does not read as it was written. Copy it again.")
    return True


def _is_same(one: Dump, other: Dump) -> bool:
    if len(one.values) != len(other.values) or one._replace(values=[], damaged=()) != other._replace(
        values=[], damaged=()
    ):
        return False
    return all(map(_is_same_value, one.values, other.values))


def _is_same_value(one: Value, other: Value) -> bool:
    (key, (payload, buffers), expires), (other_key, (other_payload, other_buffers), other_expires) = one, other
    if (key, payload, expires) != (other_key, other_payload, other_expires):
        return False
    if buffers is None or other_buffers is None:
        return buffers is other_buffers
    return buffers.name == other_buffers.name and buffers.joined() == other_buffers.joined()
