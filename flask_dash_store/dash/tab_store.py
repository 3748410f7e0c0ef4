"""The present browser tab's own store.

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
from ..store.tab_values import NO_TAB, TAB_HEADER, TabStore, current_tab
from ..store.user_store import is_hidden

_NAME = re.compile("[0-9a-f]{32}", re.ASCII)
_IN_PAYLOAD = "userStoreTab"  # as in tab_store.js

_WHAT_TO_DO = (
    "There is no browser tab here, so there is no tab_store. It exists in Dash's callbacks, in the jobs of its "
    "background callbacks, and in a layout function that is called for a page. In a view use user_store, which all of "
    f"a visitor's tabs share. In a test, send the header {TAB_HEADER} with 32 hexadecimal digits."
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
    headers = itertools.chain(_headers_of_callback(), _headers_of_request())
    return next((value for header, value in headers if header.lower() == TAB_HEADER.lower()), "")


def _headers_of_callback() -> Iterable[tuple[str, str]]:
    """Those of the request of a callback, also in the job that it has begun; none in a test that calls one directly."""
    try:
        return cast("Iterable[tuple[str, str]]", ctx.headers.items())
    except (LookupError, MissingCallbackContextException):
        return ()


def _headers_of_request() -> Iterable[tuple[str, str]]:
    return request.headers.items() if has_request_context() else _headers_of_other_servers()


def _headers_of_other_servers() -> Iterable[tuple[str, str]]:
    """Those of the present request on FastAPI or Quart, which Dash has since 4.0."""
    try:
        headers: Mapping[str, str] = get_app().backend.request_adapter().headers  # type: ignore[no-untyped-call]
    except Exception:  # There is no request, no app, or Dash is older: each server and version says it another way.
        return ()
    return headers.items()


tab_store = cast(TabStore, LocalProxy(_tabs_store))
"""The store of the browser tab that called back: as ``user_store``, which all tabs of a visitor share, for one tab.

It survives a reload. A tab that is duplicated has its own, empty one, if the page came by https or from localhost; by
plain http browsers lack what tells the two apart (Web Locks). The values are gone when the tab has not used them for
USER_STORE_TAB_TTL, by default an hour, and when the session ends. They count for the visitor's quotas, and
``user_store`` does not show them.

:raises OutsideRequest: when it is used where there is no tab
"""
