"""Callbacks that fire when a key of the visitor's store changes, no matter what changed it.

``Changed(key)`` is an ``Input`` on a hidden ``dcc.Store``, which a layout hook adds to the page and which holds the
key's *version*. A callback that writes sends the new version with its own response (``set_props``). The page learns of
writes by other tabs, views, workers and jobs from a small GET each second (``changed.js``), which costs one SELECT. The
GET is not a use of the session: it moves no expiry and sets no cookie. The job of a background callback does not use
``set_props``, because Dash keeps only the last call between two of its polls, so the job's own would be lost.

A version is a digest of the MAC that the value is signed with, so all workers compute the same one. It reveals nothing
of the value: without SECRET_KEY, even a guess cannot be verified.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from dash import Dash, Input, ctx, dcc, get_app, hooks, set_props
from dash.exceptions import MissingCallbackContextException
from flask import current_app, has_request_context, request

from ..errors import InvalidKey, SessionEnded, StorageError
from ..owner import check_key
from ..proxy import is_available, user_store
from ..store.base import StoreBase, write_listeners
from ..store.internal import state_of, versions_of
from ..store.session_state import Cookie
from .jobs import CHANGED_ROUTE as ROUTE

logger = logging.getLogger("flask_dash_store")

TYPE = "user-store-changed"  # The type in the ids of the hidden stores, as in changed.js.
DASHS_ROUTES = ("_dash-layout", "_dash-update-component")
VERSION_BYTES = 12

_watches: dict[str, Changed] = {}
"""Every ``Changed`` of this process with other keys, by the keys as they are in an id."""

_apps: WeakSet[Dash] = WeakSet()

_watches_of: WeakKeyDictionary[Dash, tuple[int, list[Changed]]] = WeakKeyDictionary()
"""For each app, the number of its callbacks and what they watch."""


class Changed(Input):
    """An ``Input`` that calls a callback when a key of the visitor's ``user_store`` changes::

        @callback(Output("total", "children"), Changed("cart"))
        def show_total(_):
            return sum(user_store.get("cart", []))

    It fires once when the page is loaded, like every ``Input``, and then each time the stored value changes, or the
    key is deleted or expires. A change by a callback of the same page arrives at once; changes by other tabs, views,
    workers and jobs arrive within about a second. Several changes in a row may lead to one call. A callback must not
    watch a key that it writes, or it calls itself forever.

    It fires only for this visitor's values, on pages of apps that have UserStoreMiddleware. The argument that the
    callback receives is an opaque str, or None if no key is stored: read the store instead. It does not watch
    ``tab_store``.

    :param keys: one or more keys, as arguments or as a list; or the built-in function ``any``, for all keys of the
        store
    :raises InvalidKey: if one of them is not a valid key, or if there are none
    :raises InvalidKeyType: if one of them is not a str
    """

    def __init__(self, *keys: str | Iterable[str] | Callable[[Iterable[object]], bool]) -> None:
        self.keys = None if keys == (any,) else _names(keys)
        self.name = "any" if self.keys is None else json.dumps(self.keys)
        self.store_id = {"type": TYPE, "keys": self.name}
        # Optional, because Dash checks the ids of callbacks with a layout that lacks the hidden stores.
        super().__init__(self.store_id, "data", allow_optional=True)
        _watches.setdefault(self.name, self)

    def __repr__(self) -> str:
        return f"Changed({'any' if self.keys is None else ', '.join(map(repr, self.keys))})"


def _concerns(watch: Changed, keys: Collection[str] | None) -> bool:
    """Whether it watches one of these keys; None for all keys."""
    return keys is None or watch.keys is None or any(key in keys for key in watch.keys)


def _digest(key: str, version: bytes) -> int:
    return int.from_bytes(blake2b(key.encode() + b"\0" + version, digest_size=VERSION_BYTES).digest())


def _version(digest_sum: int) -> str | None:
    """The version of what a callback watches, from the sum of its keys' digests; None when no key is stored.

    A sum can follow a write of one key without looking at the others.
    """
    return f"{digest_sum % 2 ** (8 * VERSION_BYTES):0{2 * VERSION_BYTES}x}" if digest_sum else None


def _names(keys: Iterable[Any]) -> list[str]:
    names = [name for key in keys for name in ([key] if isinstance(key, str) or not _is_iterable(key) else key)]
    if not names:
        raise InvalidKey("Changed() needs one or more keys to watch, or the built-in any for all keys.")
    return sorted({check_key(name) for name in names})


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable)


def _stored_versions(watches: Iterable[Changed]) -> dict[Changed, str | None]:
    """The versions of what is watched, by one SELECT.

    :raises SessionEnded: if another request has just given the session another id, or ended it
    """
    keys = _keys_of(watches)
    digests = {key: _digest(key, version) for key, version in versions_of(user_store, keys).items()}
    return {watch: _version(sum(digests.get(key, 0) for key in watch.keys or digests)) for watch in watches}


def _keys_of(watches: Iterable[Changed]) -> set[str] | None:
    """All keys that are watched; None for every key of the store."""
    keys: set[str] = set()
    for watch in watches:
        if watch.keys is None:
            return None
        keys.update(watch.keys)
    return keys


def _own_watches(is_route: bool = False) -> list[Changed]:
    """What the callbacks of the current app watch; everything that is watched if the current app is not known.

    :param is_route: whether this is called in the route of a hook
    """
    app = _current_app(is_route)
    if app is None:
        return list(_watches.values())
    callbacks, watches = _watches_of.get(app, (0, []))
    if callbacks != len(app.callback_map):
        ids = {each["id"] for callback in app.callback_map.values() for each in callback["inputs"]}
        watches = [watch for watch in _watches.values() if watch.component_id_str() in ids]
        _watches_of[app] = len(app.callback_map), watches
    return watches


def _current_app(is_route: bool) -> Dash | None:
    """The app of the current request. Hooks are called for all apps of a process, and are not told which one it is."""
    found = [app for app in list(_apps) if _is_current(app)]
    if len(found) == 1:
        return found[0]
    # In the route of a hook, get_app() knows the app. Before Dash 4 it returns the app that was made last.
    return None if has_request_context() or found or not is_route else get_app()  # type: ignore[no-untyped-call]


def _is_current(app: Dash) -> bool:
    if has_request_context():
        return bool(app.server == current_app) and request.path in _paths_of(app)
    backend: Any = getattr(app, "backend", None)  # Since Dash 4, which also runs on other servers than Flask.
    has_request = backend is not None and backend.has_request_context()
    return has_request and backend.request_adapter().path in _paths_of(app)


def _paths_of(app: Dash) -> list[str]:
    return [f"{app.config.routes_pathname_prefix}{route}" for route in (*DASHS_ROUTES, ROUTE)]


# The page


def _with_stores(layout: Any) -> Any:
    watches = _own_watches() if is_available() else []
    if not watches:
        return layout
    versions: dict[Changed, str | None] = {}
    with suppress(SessionEnded, StorageError):  # The next poll brings what cannot be read now.
        versions = _stored_versions(watches)
    stores = [dcc.Store(id=watch.store_id, data=versions.get(watch)) for watch in watches]
    return [*layout, *stores] if isinstance(layout, (list, tuple)) else [layout, *stores]


# What the page's own callbacks write


class _Callback:
    """What a running callback tells its page, kept up to date write by write.

    The first write reads the versions of all that is watched, and each later one those of its own keys, so that a
    thousand writes cost a thousand times as much as one. What other requests write meanwhile comes with the next poll.

    :param inputs: the callback's, with the versions that the page has of them
    """

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.owner = state_of(user_store).owner.name
        self._watches = _own_watches()
        self._told: dict[Changed, Any] = {watch: inputs.get(str(watch), ...) for watch in self._watches}
        self._digests: dict[str, int] | None = None
        self._sums = dict.fromkeys(self._watches, 0)

    def news(self, keys: Collection[str] | None) -> dict[Changed, str | None]:
        """The versions that the page does not have, of what a write of these keys has changed; None for all keys."""
        self._read(None if self._digests is None else keys)
        versions = {watch: _version(self._sums[watch]) for watch in self._watches if _concerns(watch, keys)}
        news = {watch: version for watch, version in versions.items() if version != self._told[watch]}
        self._told |= news
        return news

    def _read(self, keys: Collection[str] | None) -> None:
        """Read the versions of those keys that are watched; None for all."""
        watched = _keys_of(self._watches)
        wanted = watched if keys is None else set(keys) if watched is None else watched.intersection(keys)
        known = self._digests or {}
        try:
            found = versions_of(user_store, wanted)
        except SessionEnded:
            wanted, found = None, {}
        for key in known.keys() | found if wanted is None else wanted:
            digest = _digest(key, found[key]) if key in found else 0
            for watch in self._watches:
                if watch.keys is None or key in watch.keys:
                    self._sums[watch] += digest - known.get(key, 0)
            known[key] = digest
        self._digests = known


_callbacks: WeakKeyDictionary[object, _Callback] = WeakKeyDictionary()
"""The running callbacks that have written, by Dash's object for the response to each."""


def _tell_page(store: StoreBase, keys: Collection[str] | None) -> None:
    """Let the response to the current callback say which versions its write has changed."""
    try:
        if (
            any(_concerns(watch, keys) for watch in _watches.values())
            and is_available()
            and state_of(store).owner.name == state_of(user_store).owner.name
        ):
            callback = _current_callback()
            for watch, version in callback.news(keys).items() if callback is not None else ():
                set_props(watch.store_id, {"data": version})
    except Exception:  # The write is stored, and the page learns of it with its next poll.
        logger.exception("The response to a callback cannot say which keys it has changed. The page's next poll will.")


def _current_callback() -> _Callback | None:
    """The callback that runs here; None where there is none, or no response to it, as in a job."""
    # On Flask with async callbacks, Dash's context stays with the thread, whose next request may be for a view.
    if has_request_context() and not request.path.endswith(DASHS_ROUTES[1]):
        return None
    try:
        response, inputs = ctx.response, ctx.inputs
    except (LookupError, AttributeError, MissingCallbackContextException):
        return None
    if response is None:
        return None
    callback = _callbacks.get(response)
    if callback is None or callback.owner != state_of(user_store).owner.name:
        callback = _callbacks[response] = _Callback(inputs)
    return callback


# What others write: the route that a page polls


def _serve() -> dict[str, dict[str, str | None] | None]:
    """The versions that a page asks for each second.

    ``{}`` if nothing is watched, so that the page stops polling. ``{"versions": None}`` if the session has just got
    another id: the page polls again, by then with the new cookie.
    """
    watches = _own_watches(is_route=True) if is_available() else []
    if not watches:
        return {}
    state_of(user_store).cookie = Cookie.WITHHELD  # The response sets none.
    try:
        versions = _stored_versions(watches)
    except SessionEnded:
        return {"versions": None}
    return {"versions": {watch.name: version for watch, version in versions.items()}}


def _add_route_to_new_app() -> None:
    """Add the route to an app whose pages import this module: it has already added the routes of hooks."""
    try:
        app: Dash = get_app()  # type: ignore[no-untyped-call]
    except Exception:  # There is no app yet. Before Dash 4, the exception has no class of its own.
        return
    _apps.add(app)
    if not any(route.endswith(ROUTE) for route in app.routes):
        with suppress(AssertionError):  # Flask's, for an app that already serves requests: too late for its pages.
            app._add_url(ROUTE, _serve)  # noqa: SLF001


hooks.setup()(_apps.add)
hooks.layout()(_with_stores)
hooks.route(ROUTE)(_serve)
hooks.script([{"relative_package_path": "changed.js", "namespace": __package__}])
write_listeners.append(_tell_page)
_add_route_to_new_app()
