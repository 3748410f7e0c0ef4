"""The present visitor's store, importable anywhere."""

from __future__ import annotations

from typing import cast

from flask import has_request_context, request
from werkzeug.local import LocalProxy

from .errors import OutsideRequest
from .user_store import UserStore
from .wsgi import ENVIRON_KEY


def _visitors_store() -> UserStore:
    store = request.environ.get(ENVIRON_KEY) if has_request_context() else None
    if store is None:
        raise OutsideRequest(
            "There is no visitor here, so there is no user store. It exists while a request is handled by an app with "
            "UserStoreMiddleware. Dash calls a layout function once without a request, when it is assigned: ask "
            "flask_dash_store.is_available() there. Elsewhere use middleware.for_user(user_id) or "
            "middleware.open(session_id)."
        )
    return cast(UserStore, store)


def is_available() -> bool:
    """Whether there is a visitor, and so a :data:`user_store`, here."""
    return has_request_context() and ENVIRON_KEY in request.environ


user_store = cast(UserStore, LocalProxy(_visitors_store))
"""The present visitor's store, the same as ``g.user_store``, importable anywhere.

:raises OutsideRequest: when it is used where there is no visitor
"""
