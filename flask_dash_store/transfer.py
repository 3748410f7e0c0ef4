"""All that one storage keeps into another, as it is: values stay signed, and expiries where they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .errors import StorageError
from .storage import Storage
from .storage.base import Dump, Value


def copy(
    owners: Iterable[str], source: Storage, target: Storage, damaged: Callable[[str, str], None]
) -> Iterator[bool]:
    """Copy owners one after the other, and read each again to see that it has arrived.

    An owner whose copy is there already is left alone. So what was interrupted goes on where it stopped, and a
    second run brings what has changed since the first. One that has ended in the target stays ended.

    :param damaged: told of each owner and key whose value cannot be read, and is left out
    :returns: for each owner, once it is done, whether anything was copied
    :raises StorageError: when a storage fails, or what was written does not read as it was written
    """
    for owner in owners:
        kept = source.dump(owner)
        for key in kept.damaged if kept else ():
            damaged(owner, key)
        yield kept is not None and _bring(owner, kept, target)


def _bring(owner: str, kept: Dump, target: Storage) -> bool:
    there = target.dump(owner)
    if _is_ended(there) or _is_same(there, kept):
        return False
    target.load(owner, kept)
    if not _is_same(target.dump(owner), kept):
        raise StorageError(f"The copy of {owner[:10]}… does not read as it was written. Copy it again.")
    return True


def _is_ended(dump: Dump | None) -> bool:
    return dump is not None and dump.ended_at is not None


def _is_same(one: Dump | None, other: Dump) -> bool:
    if one is None or (one.expires, one.ended_at) != (other.expires, other.ended_at):
        return False
    return len(one.values) == len(other.values) and all(map(_is_same_value, one.values, other.values))


def _is_same_value(one: Value, other: Value) -> bool:
    (key, (payload, body), expires), (other_key, (other_payload, other_body), other_expires) = one, other
    if (key, payload, expires) != (other_key, other_payload, other_expires):
        return False
    if body is None or other_body is None:
        return body is other_body
    return body.name == other_body.name and list(body.parts) == list(other_body.parts)
