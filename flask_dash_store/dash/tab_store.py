"""The store of the current browser tab.

A browser does not tell a server from which tab a request comes. So a script gives each tab a name and sends it in a
header, with the requests for callbacks and layouts. Callbacks over a websocket have it in their payload, because all
tabs of a browser share one socket. The name is not a secret: it opens nothing without the visitor's cookie, and with it
only the visitor's own values.
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
    if not name and is_available() and is_hidden(user_store):  # Dash calls the layout functions at start-up.
        name = NO_TAB
    if _NAME.fullmatch(name) is None:
        raise OutsideRequest(_WHAT_TO_DO)
    return TabStore(user_store, name)


def _note_tab(_: Any, message: Any) -> None:
    """Remember the tab of a websocket message for its callback, which runs in a copy of this context."""
    payload = message.get("payload") if isinstance(message, dict) else None
    current_tab.set(str(payload.get(_IN_PAYLOAD, "")) if isinstance(payload, dict) else "")


if hasattr(hooks, "websocket_message"):  # Older versions of Dash have no websockets.
    hooks.websocket_message()(_note_tab)


def _tab_of_request() -> str:
    return next((value for header, value in _headers() if header.lower() == TAB_HEADER.lower()), "")


def _headers() -> Iterable[tuple[str, str]]:
    """The headers of the request; in the job of a callback, those of the request that started it."""
    # The request comes first: on Flask with async callbacks, Dash's context may be that of the thread's last callback.
    if _is_in_job():
        return itertools.chain(_headers_of_callback(), _headers_of_request())
    if has_request_context():
        return request.headers.items()
    return itertools.chain(_headers_of_other_servers(), _headers_of_callback())


def _headers_of_request() -> Iterable[tuple[str, str]]:
    return request.headers.items() if has_request_context() else _headers_of_other_servers()


def _headers_of_callback() -> Iterable[tuple[str, str]]:
    """The headers in Dash's callback context; none in a test that calls a callback directly."""
    try:
        return cast("Iterable[tuple[str, str]]", ctx.headers.items())
    except (LookupError, MissingCallbackContextException):
        return ()


def _is_in_job() -> bool:
    return is_available() and state_of(user_store).arrived_at is None


def _headers_of_other_servers() -> Iterable[tuple[str, str]]:
    """The headers of the current request on FastAPI or Quart, which Dash supports since 4.0."""
    try:
        headers: Mapping[str, str] = get_app().backend.request_adapter().headers  # type: ignore[no-untyped-call]
    except Exception:  # No request, no app, or an older Dash: the exception differs between servers and versions.
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
