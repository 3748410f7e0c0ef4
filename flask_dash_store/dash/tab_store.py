"""The store of the current browser tab.

A browser does not tell a server which tab a request is of. So a script gives each tab a name, which the requests of its
page's callbacks and for its layout carry in a header. Callbacks over a websocket carry it in their payload, for all
tabs of a browser share one socket. The name is no secret: without the visitor's cookie it opens nothing, and with it
only what is the visitor's anyway.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from dash import ctx, get_app, hooks
from dash.exceptions import MissingCallbackContextException
from flask import has_request_context, request
from werkzeug.local import LocalProxy

from ..errors import OutsideRequest
from ..proxy import is_available, user_store
from ..store.internal import is_hidden, state_of
from ..store.tab_values import NO_TAB, TAB_HEADER, TabStore, current_tab

_NAME = re.compile("[0-9a-f]{32}", re.ASCII)
_IN_PAYLOAD = "userStoreTab"  # as in tab_store.js

_WHAT_TO_DO = (
    "There is no browser tab here, so there is no tab_store. It exists in Dash's callbacks, in the jobs of its "
    "background callbacks, and in layout functions while a page is loaded. In a view, use user_store, which all of a "
    "visitor's tabs share. In a test, use flask_dash_store.testing.user_store_context(app), or send the header "
    f"{TAB_HEADER} with 32 hexadecimal digits."
)

hooks.script([{"relative_package_path": "tab_store.js", "namespace": __package__}])


def _tabs_store() -> TabStore:
    name = current_tab.get() or _tab_of_request()
    if not name and is_available() and is_hidden(user_store):  # Dash prepares itself, and asks the layout functions.
        name = NO_TAB
    if _NAME.fullmatch(name) is None:
        raise OutsideRequest(_WHAT_TO_DO)
    return TabStore(user_store, name)


def _note_tab(_: Any, message: Any) -> None:
    """Let the callback that a websocket's message calls, which runs in a copy of this context, know its tab."""
    payload = message.get("payload") if isinstance(message, dict) else None
    current_tab.set(str(payload.get(_IN_PAYLOAD, "")) if isinstance(payload, dict) else "")


if hasattr(hooks, "websocket_message"):  # An older Dash has no websockets.
    hooks.websocket_message()(_note_tab)


def _tab_of_request() -> str:
    return next((value for header, value in _headers() if header.lower() == TAB_HEADER.lower()), "")


def _headers() -> Iterable[tuple[str, str]]:
    """Those of the request, for a callback or a layout; in the job of a callback, of the request that started it."""
    # The request comes first: on Flask with async callbacks, Dash's context is still that of the thread's last one.
    if _is_in_job():
        return itertools.chain(_headers_of_callback(), _headers_of_request())
    if has_request_context():
        return request.headers.items()
    return itertools.chain(_headers_of_other_servers(), _headers_of_callback())


def _headers_of_request() -> Iterable[tuple[str, str]]:
    return request.headers.items() if has_request_context() else _headers_of_other_servers()


def _headers_of_callback() -> Iterable[tuple[str, str]]:
    """Those that Dash's context has; none in a test that calls a callback directly."""
    try:
        return cast("Iterable[tuple[str, str]]", ctx.headers.items())
    except (LookupError, MissingCallbackContextException):
        return ()


def _is_in_job() -> bool:
    return is_available() and state_of(user_store).arrived_at is None


def _headers_of_other_servers() -> Iterable[tuple[str, str]]:
    """Those of the present request on FastAPI or Quart, which Dash has since 4.0."""
    try:
        headers: Mapping[str, str] = get_app().backend.request_adapter().headers  # type: ignore[no-untyped-call]
    except Exception:  # There is no request, no app, or Dash is older: each server and version says it another way.
        return ()
    return headers.items()


tab_store = cast(TabStore, LocalProxy(_tabs_store))
"""The store of the browser tab that sent the request. It is like ``user_store``, which all tabs of a visitor share.

It survives a reload. A duplicated tab has its own, empty store if the page was loaded over https or from localhost;
over plain http, browsers lack Web Locks, which tell the two tabs apart. The values are deleted when the tab has not
used them for USER_STORE_TAB_TTL, by default an hour, and when the session ends. They count towards the visitor's
quotas, and ``user_store`` does not show them.

:raises OutsideRequest: if it is used where there is no tab
"""
