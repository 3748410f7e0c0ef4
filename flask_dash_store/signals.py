"""What apps are told of sessions, as signals like Flask's own (https://flask.palletsprojects.com/en/stable/signals/).

The sender of each is the app; of a Dash app, its server. ``visitor`` is a name of the session that is the same in all
processes and for as long as the session lasts, through logins, and that opens nothing: it can be logged. An argument
that is not known is None. Receivers are called after the commit, with no lock held. One that raises is logged, and
breaks nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from blinker import NamedSignal, Namespace

from .owner import SESSION_PREFIX, TABS_PREFIX, Owner, user_id_of, visitor_name

logger = logging.getLogger("flask_dash_store")

How = Literal["destroyed", "expired", "lifetime"]

_signals = Namespace()

session_started = _signals.signal(
    "user-store-session-started",
    """A response brings the browser the cookie of a new session: ``(app, visitor)``.

    It is sent in that request, once for each session, whether something is stored or not. With eager cookies, as with
    Dash, that is a visitor's first response; else the first one whose request uses the store. A crawler keeps no
    cookies, so it begins a session with each response that brings one. A logout, and the login of another user in the
    same browser, begin a session too.
    """,
)

session_regenerated = _signals.signal(
    "user-store-session-regenerated",
    """``regenerate()`` has given the session another id: ``(app, visitor, user_id)``.

    ``user_id`` is what ``regenerate`` was called with, as text. A session that begins with this very request keeps its
    id, for no other request knows it.
    """,
)

session_ended = _signals.signal(
    "user-store-session-ended",
    """A session has ended, or its values have expired: ``(app, visitor, how, keys, user_id)``.

    ``keys`` are those of its values, which cannot be read any more. ``user_id`` is known when ``end_sessions(user_id)``
    ended it; of a user, the storage keeps a hash alone. ``how`` is one of these:

    - ``"destroyed"``: by ``destroy()``, by ``end_sessions()``, or by the login of another user in the same browser.
    - ``"lifetime"``: the browser came back with a session that was too old, and gets another one.
    - ``"expired"``: its values were idle for too long, and maintenance has removed them. The process that removed them
      sends it, once, after a response and outside of any request, or in ``purge()``. The cookie stays good: a visitor
      who comes back goes on with the same session, without values, and it can end once more. It is not sent for a
      session without values, nor where the visitor has written to it before maintenance came; and never on Redis,
      which removes by itself what has expired.
    """,
)

user_logged_in = _signals.signal(
    "user-store-user-logged-in",
    """``regenerate(user_id=...)`` has bound the session to a user: ``(app, visitor, user_id)``.

    ``user_id`` is text. Flask-Login's ``login_user`` sends it too, unless ``flask_login=False``. A double click on "Log
    in" sends it twice.
    """,
)


class Signals:
    """Sends the signals of one app. Without a receiver, each call does nothing.

    :param app: the sender
    :param ensure_sync: gives a function that calls a receiver, which may be a coroutine function
    :param visitor_key: from which the names of visitors are derived
    """

    def __init__(
        self, app: object, ensure_sync: Callable[[Callable[..., Any]], Callable[..., Any]], visitor_key: bytes
    ) -> None:
        self._app = app
        self._ensure_sync = ensure_sync
        self._visitor_key = visitor_key

    def started(self, owner: Owner) -> None:
        """Send :data:`session_started`."""
        self._send(session_started, owner)

    def regenerated(self, owner: Owner, user: Owner | None) -> None:
        """Send :data:`session_regenerated`."""
        self._send(session_regenerated, owner, user_id=None if user is None else user_id_of(user.name))

    def logged_in(self, owner: Owner, user: Owner) -> None:
        """Send :data:`user_logged_in`."""
        self._send(user_logged_in, owner, user_id=user_id_of(user.name))

    def ended(self, owner: Owner, how: How, keys: list[str], user_id: str | None = None) -> None:
        """Send :data:`session_ended`."""
        keys = [key for key in keys if not key.startswith(TABS_PREFIX)]
        self._send(session_ended, owner, how=how, keys=keys, user_id=user_id)

    @property
    def tells_of_ends(self) -> bool:
        """Whether :meth:`ended` has a receiver."""
        return session_ended.has_receivers_for(self._app)

    def expired(self) -> Callable[[str, list[str]], None] | None:
        """What is to be called for each owner whose values have expired; None for nothing."""
        return self._expired if self.tells_of_ends else None

    def _expired(self, name: str, keys: list[str]) -> None:
        if name.startswith(SESSION_PREFIX):  # The values of a user id are no session.
            self.ended(Owner(name), "expired", keys)

    def _send(self, signal: NamedSignal, owner: Owner, **arguments: Any) -> None:
        if not signal.has_receivers_for(self._app):
            return
        visitor = visitor_name(self._visitor_key, owner)
        for receiver in signal.receivers_for(self._app):
            try:
                self._ensure_sync(receiver)(self._app, visitor=visitor, **arguments)
            except Exception:
                logger.exception("A receiver of the signal %s failed.", signal.name)
