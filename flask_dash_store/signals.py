"""Signals about sessions, like Flask's own (https://flask.palletsprojects.com/en/stable/signals/).

The sender is the app; for a Dash app, its server. ``visitor`` is a name of the session: it is the same in all processes
and after a login, for as long as the session lasts, and it gives no access, so it can be logged. An argument that is
not known is None. Receivers are called after the commit, with no lock held. If one raises, the error is logged and the
request continues.
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
    """A response sets the cookie of a new session: ``(app, visitor)``.

    It is sent in that request, once for each session, whether anything is stored or not. With eager cookies, the
    default with Dash, this is a visitor's first response; otherwise the first response whose request used the store. A
    crawler keeps no cookies, so each response that sets one begins a session. A logout, and the login of a different
    user in the same browser, also begin a session.
    """,
)

session_regenerated = _signals.signal(
    "user-store-session-regenerated",
    """``regenerate()`` has given the session a new id: ``(app, visitor, user_id)``.

    ``user_id`` is the one passed to ``regenerate``, as a str, or None. A session that begins with this request keeps
    its id, because no other request knows it.
    """,
)

session_ended = _signals.signal(
    "user-store-session-ended",
    """A session has ended, or its values have expired: ``(app, visitor, how, keys, user_id)``.

    ``keys`` is a list of the keys of its values, which can no longer be read. ``user_id`` is a str if
    ``end_sessions(user_id)`` ended the session, else None, because the storage keeps only a hash of it. ``how`` is one
    of these:

    - ``"destroyed"``: by ``destroy()``, by ``end_sessions()``, or by the login of a different user in the same browser.
    - ``"lifetime"``: the browser came back with a session that was too old, and gets a new one.
    - ``"expired"``: its values were not used for too long, and maintenance has removed them. The process that removed
      them sends the signal once, after a response and outside of any request, or in ``purge()``. The cookie stays
      valid: a visitor who comes back continues the same session, without values, and it can end again. The signal is
      not sent for a session without values, or if the visitor writes to it before maintenance removes them; and never
      on Redis, where the server removes expired values.
    """,
)

user_logged_in = _signals.signal(
    "user-store-user-logged-in",
    """``regenerate(user_id=...)`` has bound the session to a user: ``(app, visitor, user_id)``.

    ``user_id`` is a str. Flask-Login's ``login_user`` sends the signal, too, unless ``flask_login=False``. A double
    click on "Log in" sends it twice.
    """,
)


class Signals:
    """Sends the signals of one app. Without a receiver, each call does nothing.

    :param app: the sender
    :param ensure_sync: makes a plain function of a receiver, which may be a coroutine function
    :param visitor_key: the key from which the names of visitors are derived
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
        """The function to call for each owner whose values have expired; None without a receiver."""
        return self._expired if self.tells_of_ends else None

    def _expired(self, name: str, keys: list[str]) -> None:
        if name.startswith(SESSION_PREFIX):  # The values of a user id are not a session.
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
