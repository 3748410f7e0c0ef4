"""What is called when a value has been written: nothing, unless something in the process asks for it.

A storage tells of no writes, and a signal would cost each of them. So a store looks whether this list has anything in
it, which it has where ``dash/changed.py`` is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ..storage.transaction import on_commit

if TYPE_CHECKING:
    from .base import StoreBase

WriteListener = Callable[["StoreBase", Collection[str] | None], None]
"""Gets the store that was written to, and the keys that were set or deleted; None for all of its keys.

It is called after the commit, in the thread or task that wrote, and not at all after a rollback. It raises nothing.
"""

write_listeners: list[WriteListener] = []


def tell(store: StoreBase, storage: object, keys: Collection[str] | None) -> None:
    """Call the listeners once what was written is committed.

    :param storage: whose transaction the write may be in
    """

    def call_all() -> None:
        for listener in write_listeners:
            listener(store, keys)

    on_commit(storage, call_all)
