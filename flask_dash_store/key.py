"""A key that is declared once, with its type, its default and its TTL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from .expiry import seconds
from .owner import check_key
from .proxy import user_store
from .store.views import MISSING

if TYPE_CHECKING:
    from dash import Input

T = TypeVar("T")


class Key(Generic[T]):
    """A key of the present visitor's store, as a module declares it once and all others import it::

        cart: Key[list[str]] = Key("cart", default=list)

        with cart.edit() as items:
            items.append("apple")

    Type checkers know what it holds: ``cart.get()`` is a ``list[str]``, and ``cart.set(1)`` is an error.

    :param name: the key, a str of 1 to 512 characters
    :param default: called for the value where none is stored, as ``list``, ``dict``, ``int`` or ``lambda: 20`` are
    :param ttl: seconds, or a timedelta, after which the key is gone, however often it is used; :meth:`set` begins it
        again. None for as long as the session keeps its values.
    :raises InvalidKey: when the name cannot be a key
    :raises InvalidKeyType: when it is not a str
    :raises InvalidTTL: when ``ttl`` is not longer than zero
    """

    def __init__(self, name: str, default: Callable[[], T], ttl: float | timedelta | None = None) -> None:
        self.name = check_key(name)
        self._default = default
        self._ttl = None if ttl is None else seconds(ttl)

    def __repr__(self) -> str:
        return f"Key({self.name!r})"

    def get(self) -> T:
        """What is stored, as a copy of the caller's own; or the default, which is not stored by this.

        :raises OutsideRequest: where there is no visitor, as all methods do
        """
        value = user_store.get(self.name, MISSING)
        return self._default() if value is MISSING else value

    def set(self, value: T) -> None:
        """Store a value.

        It raises what ``user_store.set`` does.

        :param value: of the key's type, and anything that the codec takes
        """
        user_store.set(self.name, value, self._ttl)

    @contextmanager
    def edit(self) -> Iterator[T]:
        """Change the value, or the default, in place: ``with cart.edit() as items: items.append(item)``.

        It is a transaction, as ``user_store.edit`` is. A TTL that the value has goes on; that of a new one begins.
        """
        with user_store.transaction():
            is_new = self.name not in user_store
            with user_store.edit(self.name, self._default()) as value:
                yield value
            if is_new and self._ttl is not None:
                user_store.expire(self.name, self._ttl)

    def delete(self) -> None:
        """Remove what is stored, if anything is."""
        with suppress(KeyError):
            del user_store[self.name]

    @property
    def changed(self) -> Input:
        """An ``Input`` of Dash's, ``Changed(name)``, for a callback that is called when the key has changed."""
        from .dash.changed import Changed

        return Changed(self.name)
