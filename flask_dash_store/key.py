"""Keys that are declared once, with a type, a default and a TTL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import ConfigurationError
from .expiry import seconds
from .owner import check_key
from .proxy import user_store
from .store.views import MISSING

if TYPE_CHECKING:
    from dash import Input

T = TypeVar("T")


class Key(Generic[T]):
    """A key of the current visitor's store. Declare it once in a module, and import it from there::

        cart: Key[list[str]] = Key("cart", default=list)

        with cart.edit() as items:
            items.append("apple")

    Type checkers know what it holds: ``cart.get()`` is a ``list[str]``, and ``cart.set(1)`` is an error.

    :param name: the key, a str of 1 to 512 characters
    :param default: a function without parameters, such as ``list``, ``dict``, ``int`` or ``lambda: 20``. It returns the
        value to use if none is stored.
    :param ttl: time, in seconds or as a timedelta, after which the key expires, however often it is used; each
        :meth:`set` starts it again. None keeps the key for as long as the session keeps its values.
    :raises ConfigurationError: if ``default`` is a value and not a function
    :raises InvalidKey: if the name is not a valid key
    :raises InvalidKeyType: if the name is not a str
    :raises InvalidTTL: if ``ttl`` is not positive, or is longer than a century
    """

    def __init__(self, name: str, default: Callable[[], T], ttl: float | timedelta | None = None) -> None:
        self.name = check_key(name)
        if not callable(default):
            raise ConfigurationError(
                f"default= of {self!r} must be a function that returns the value, such as list or lambda: 20, not a "
                f"{type(default).__name__}."
            )
        self._default = default
        self._ttl = None if ttl is None else seconds(ttl)

    def __repr__(self) -> str:
        return f"Key({self.name!r})"

    def get(self) -> T:
        """The stored value, as a copy, or the default if there is none. The default is not stored.

        It raises what ``user_store.get`` raises.

        :raises OutsideRequest: if there is no visitor, like all methods
        """
        value = user_store.get(self.name, MISSING)
        return self._default() if value is MISSING else value

    def set(self, value: T) -> None:
        """Store a value. If the key has a TTL, it starts again.

        It raises what ``user_store.set`` raises.

        :param value: a value of the key's type that can be pickled, or represented in JSON with ``codec="json"``
        """
        user_store.set(self.name, value, self._ttl)

    @contextmanager
    def edit(self) -> Iterator[T]:
        """Change the value, or the default, in place: ``with cart.edit() as items: items.append(item)``.

        It is a transaction, and raises what ``user_store.edit`` raises, except KeyError. The TTL of a stored value
        continues; that of a new value starts.

        :returns: a context manager that gives the value
        """
        with user_store.transaction():
            is_new = self.name not in user_store
            with user_store.edit(self.name, self._default()) as value:
                yield value
            if is_new and self._ttl is not None:
                user_store.expire(self.name, self._ttl)

    def delete(self) -> None:
        """Remove the key, if it is stored."""
        with suppress(KeyError):
            del user_store[self.name]

    @property
    def changed(self) -> Input:
        """``Changed(name)``, a Dash ``Input`` that calls a callback when the key changes."""
        from .dash.changed import Changed

        return Changed(self.name)
