"""Flask-Login: a login gives the session a new id and binds it to the user, and a logout ends it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flask import Flask, request, session

from ..errors import OutsideCookiePath, ResponseStarted, SessionRefused
from ..proxy import is_available, user_store
from ..store.internal import is_session_of, state_of


class LoginSignals:
    """The receivers of an app's signals. They are connected for as long as this object lives.

    :param is_wanted: called with each signal; returns whether the app's settings want it handled
    """

    def __init__(self, app: Flask, is_wanted: Callable[[], bool]) -> None:
        self._is_wanted = is_wanted
        try:
            from flask_login import user_loaded_from_cookie, user_logged_in, user_logged_out
        except ImportError:
            return
        user_logged_in.connect(self._log_in, sender=app)
        user_logged_out.connect(self._log_out, sender=app)
        user_loaded_from_cookie.connect(self._remember, sender=app)

    def _log_in(self, app: Flask, user: Any, **_: Any) -> None:
        if is_available() and self._is_wanted():
            user_id, is_answered = _id_of(app, user), state_of(user_store).is_answered
            # The storage forgets the former user when the values expire, but Flask's session still has their id.
            if not is_answered and _was_another_user(app) and not is_session_of(user_store, user_id):
                user_store.destroy()
            user_store.regenerate(user_id)

    def _log_out(self, app: Flask, **_: Any) -> None:  # noqa: ARG002
        if is_available() and self._is_wanted():
            user_store.destroy()

    def _remember(self, app: Flask, user: Any, **_: Any) -> None:
        """A login by Flask-Login's remember-me cookie, which any use of ``current_user`` can trigger."""
        if is_available() and self._is_wanted():
            with suppress(OutsideCookiePath, SessionRefused):
                try:
                    user_store.regenerate(_id_of(app, user))
                except ResponseStarted:
                    session.pop(
                        "_user_id", None
                    )  # No response can bring the new id, so the login holds for this request only.


def _was_another_user(app: Flask) -> bool:
    """Whether another user was logged in when the request came. Flask's session already has the new user's id."""
    before = app.session_interface.open_session(app, request)
    return before is not None and "_user_id" in before and before["_user_id"] != session.get("_user_id")


def _id_of(app: Flask, user: Any) -> str | int:
    # Flask-Security's id in sessions, "fs_uniquifier", changes with the password. The primary key does not.
    has_key = "security" in app.extensions and hasattr(user, "id")
    user_id = user.id if has_key else getattr(user, app.login_manager.id_attribute)()  # type: ignore[attr-defined]
    return user_id if isinstance(user_id, int) else str(user_id)
