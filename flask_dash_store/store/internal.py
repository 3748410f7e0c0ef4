"""What the package does with a store that is not for its users, and so is no method of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from ..errors import SessionEnded
from ..owner import user_hash, user_owner, visitor_name
from .base import StoreBase
from .session_state import SessionState
from .user_store import UserStore

current_store: ContextVar[UserStore | None] = ContextVar("flask_dash_store.current_store", default=None)
"""The store of the ASGI request or the job that this context belongs to; None where it belongs to neither.

It is a context variable, so that tasks, threads with a copy of the context, and streaming responses find it.
"""


@contextmanager
def context_with(store: UserStore) -> Iterator[None]:
    """A block in which this is the current store."""
    token = current_store.set(store)
    try:
        yield
    finally:
        current_store.reset(token)


def state_of(store: StoreBase) -> SessionState:
    """What the request has done to the session of its store."""
    return store._state  # noqa: SLF001


def app_of(store: UserStore) -> str:
    """The name of the app that a store belongs to."""
    return store._context.app  # noqa: SLF001


def is_hidden(store: UserStore) -> bool:
    """Whether it is the store of a session outside of its request: from ``open``, or an empty one for Dash's setup."""
    state = state_of(store)
    return state.arrived_at is None and state.session_id is not None


def is_session_of(store: UserStore, user_id: str | int) -> bool:
    """Whether the session is bound to this user.

    :raises InvalidKey: when the user id is too long or holds a lone surrogate
    """
    user, owner = user_hash(user_owner(user_id)), state_of(store).owner
    with suppress(SessionEnded):
        return store._storage.stat(owner, store._first_access()).user == user  # noqa: SLF001
    return False


def versions_of(store: UserStore, keys: Collection[str] | None) -> dict[str, bytes]:
    """A version of each value, which changes when another value is stored. This is not a use of the session.

    :param keys: the keys that are asked for; None for all
    :returns: the versions by key, without the keys that are not stored
    :raises SessionEnded: when the session has just ended, or got another id that the browser may not have yet
    """
    state, access = state_of(store), store._context.expiry.access(counts_as_use=False)  # noqa: SLF001
    state.is_named = True  # The response depends on who the visitor is.
    try:
        versions = store._storage.versions(state.owner, keys, access)  # noqa: SLF001
    except SessionEnded as ended:
        if state.is_past_grace(ended.ended_at, access.now):
            return {}
        raise
    return {key: versions[key] for key in store._visible(list(versions))}  # noqa: SLF001


# Names that are derived from the session


def name_of_visitor(store: UserStore) -> str:
    """What :func:`~flask_dash_store.visitor` returns."""
    state = state_of(store)
    state.is_named = True
    return visitor_name(store._context.visitor_key, state.owner)  # noqa: SLF001


def csrf_token(store: UserStore) -> str:
    """The CSRF token of forms that are sent from this session, on which parallel requests agree."""
    return store._context.ids.csrf_token(str(state_of(store).session_id))  # noqa: SLF001


def results_name(store: UserStore) -> str:
    """A name for the results of the session's background callbacks, for as long as the session has this id.

    Unlike :func:`~flask_dash_store.visitor`'s name it is shown nowhere, and an id that was planted before a login does
    not lead to it.
    """
    state = state_of(store)
    state.is_named = True
    return store._context.ids.of_results(str(state.session_id))  # noqa: SLF001


# The package's own keys, which no method of a store accepts. Each function raises what the store's own methods raise.


def read(store: UserStore, key: str) -> tuple[Any, bytes | None]:
    """The value under a key, and its payload, for :func:`replace`; None and None if there is none."""
    owner, stored = store._stored(key)  # noqa: SLF001
    return (None, None) if stored is None else (store._codec.decode(owner.name, key, stored), stored[0])  # noqa: SLF001


def replace(store: UserStore, key: str, former: bytes, value: Any) -> bool:
    """Store a value if the payload under the key is still the former one. Returns whether it is."""
    stored = store._encode_value(key, value)  # noqa: SLF001
    return store._write(lambda owner, access: store._storage.replace(owner, key, former, stored, access), (key,))  # noqa: SLF001


def write(store: UserStore, key: str, value: Any) -> None:
    """Store a value."""
    store._put(key, value, lambda _: None)  # noqa: SLF001


def delete(store: UserStore, key: str) -> None:
    """Delete a key, if it is stored."""
    store._write(lambda owner, access: store._storage.delete(owner, key, access), (key,))  # noqa: SLF001
