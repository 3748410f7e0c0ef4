"""Copy everything from one storage into another, unchanged: signatures, expiries, and which sessions have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .errors import StorageError
from .storage.base import ENDED, Dump, SupportsExport, Value


def copy(
    owners: Iterable[str], source: SupportsExport, target: SupportsExport, damaged: Callable[[str, str], None]
) -> Iterator[bool]:
    """Copy owners one by one, and read each copy to verify it.

    An owner that is already copied is skipped. So an interrupted copy continues where it stopped, and a second run
    copies what has changed since the first. A session that has ended in the target stays ended. One that got another id
    there keeps the id and its values, because its former id may be an attacker's.

    :param owners: the owners' names
    :param damaged: called with the owner's name and the key of each value that cannot be read and is left out
    :returns: for each owner, after it, whether anything was copied
    :raises StorageError: if a storage fails, or a copy differs from the original
    """
    for name in owners:
        dump = source.dump(name)
        for key in dump.damaged if dump else ():
            damaged(name, key)
        yield dump is not None and _copy_owner(name, dump, target)


def _copy_owner(name: str, dump: Dump, target: SupportsExport) -> bool:
    former = target.dump(name)
    if former is not None and (former.session == ENDED or _was_renewed_since(dump, former) or _is_same(former, dump)):
        return False
    target.load(name, dump)
    copied = target.dump(name)
    if copied is None or not _is_same(copied, dump):
        raise StorageError(f"The copy of {name[:10]}… differs from the original. Run the command again.")
    return True


def _was_renewed_since(source: Dump, target: Dump) -> bool:
    """Whether the session got another id in the target, and has not ended in the source."""
    return source.session != ENDED and (target.renewed_at or 0.0) > (source.renewed_at or 0.0)


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
