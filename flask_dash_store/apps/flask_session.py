"""``flask.session`` in the visitor's store: one cookie for both, and no lost updates.

The session is one value of the store. A request reads it on first use, and at its end merges the keys that it has
changed into the value that is stored by then. So parallel requests keep each other's changes, and a logout is not
overwritten. If two requests change the same key, the last one wins.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from flask.sessions import SecureCookieSessionInterface, SessionMixin, session_json_serializer
from werkzeug.datastructures import Headers

from ..errors import (
    ConfigurationError,
    ResponseStarted,
    SessionEnded,
    StorageError,
    TamperedValue,
    UnreadableValue,
    UnstorableValue,
)
from ..http.wsgi import ENVIRON_KEY
from ..owner import FLASK_SESSION_KEY as KEY
from ..proxy import EXTENSION, store_of
from ..settings import Settings
from ..store.internal import csrf_token, delete, read, replace, state_of, write
from ..store.session_state import Fate, SessionState, Use
from .session_values import SessionValues, serialize, user_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

logger = logging.getLogger("flask_dash_store")


class StoreSession(SessionMixin):
    """The session of one request.

    :param environ: the request's, in which its store is found on first use
    :param settings: returns the app's settings
    """

    def __init__(self, app: Flask, environ: WSGIEnvironment, settings: Callable[[], Settings]) -> None:
        self.environ = environ
        self._app = app
        self._settings = settings
        self._loaded: SessionValues | None = None
        self._is_marked = False

    @property
    def modified(self) -> bool:
        """Whether anything in it has changed, at any depth. Flask-SocketIO then saves it after an event."""
        return self._is_marked or (self._loaded is not None and bool(self._loaded.changes()))

    @modified.setter
    def modified(self, value: bool) -> None:
        self._is_marked = value

    @property
    def is_loaded(self) -> bool:
        """Whether the request has read or written it."""
        return self._loaded is not None

    # As a mapping

    def __getitem__(self, key: str) -> Any:
        return self._values()[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._values().get(key, default)

    def __contains__(self, key: object) -> bool:
        values = self._values()
        if key not in values and _is_csrf_key(self._app, key) and self._state.fate is not Fate.DESTROYED:
            values[str(key)] = csrf_token(self._store)
        return key in values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __setitem__(self, key: str, value: Any) -> None:
        self._values()[key] = value
        self.modified = True

    def __delitem__(self, key: str) -> None:
        del self._values()[key]
        self.modified = True

    def clear(self) -> None:
        self._values().clear()
        self.modified = True

    def copy(self) -> dict[str, Any]:
        return dict(self._values())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {dict(self._values())!r}>"

    # Reading it, once

    def _values(self) -> SessionValues:
        if self._loaded is None:
            self._loaded = self._load()
        elif self._owner_name() != self._owner:
            self._loaded = self._own_changes(self._loaded)
        return self._loaded

    def _load(self) -> SessionValues:
        self._store = store_of(self._app, self.environ)
        self._state = state = state_of(self._store)
        stored, self._payload = self._stored()
        self._owner = self._owner_name()
        values = SessionValues(stored or {})
        if stored is not None:
            state.confirm_inherited()
        self._user = self._user_of(values)
        return values

    def _stored(self) -> tuple[dict[str, Any] | None, bytes | None]:
        """The stored values, and their payload."""
        if self._state.fate is Fate.NEW and self._state.use is not Use.WRITTEN:
            return None, None  # Nothing is stored yet, and reading the store would set a cookie.
        try:
            stored, payload = read(self._store, KEY)
        except (TamperedValue, UnreadableValue) as error:
            logger.warning("A visitor's flask.session begins empty: %s", error)
            return None, None
        return dict(session_json_serializer.loads(stored)) if isinstance(stored, str) else stored, payload

    def _owner_name(self) -> str | None:
        return None if self._state.fate is Fate.DESTROYED else self._state.owner.name

    def _own_changes(self, values: SessionValues) -> SessionValues:
        """What this request has set itself, without the values of the session, which has ended in the meantime."""
        self._owner, self._user, self._payload = self._owner_name(), None, None
        kept = SessionValues({})
        kept.update(values.merged({}))
        return kept

    # Storing it

    def save(self) -> bool:
        """Store what this request has changed. Returns whether it has changed anything.

        :raises SessionEnded: if another request has ended the session
        :raises ResponseStarted: for a login, if no response can bring the browser the new id
        :raises UnstorableValue: if a value cannot be stored; the message names its key in ``flask.session``
        """
        if not self._values().changes():
            return False
        self._apply_login()
        if self._state.fate is Fate.DESTROYED:
            if not self._values() or self._state.is_answered:
                return True
            self._store.regenerate()  # A message that is flashed at logout needs a session.
        values = self._values()
        try:
            self._write(values)
        except UnstorableValue as error:
            # The session is one value of the store, so the error does not say which of the app's values is at fault.
            keys = " and ".join(f"flask.session[{key!r}]" for key in values.unstorable())
            raise UnstorableValue(f"{error} The cause is {keys}." if keys else str(error), key=KEY) from None
        return True

    def _write(self, values: SessionValues) -> None:
        # Usually no other request has changed it since it was read. Then one statement is enough, instead of five.
        if self._payload is not None and values and self._replace(self._payload, values):
            values.mark_saved()
        else:
            values = SessionValues(self._merge(values))
        self._state.confirm_inherited()
        self._owner, self._loaded, self._payload = self._owner_name(), values, None

    def _replace(self, payload: bytes, values: SessionValues) -> bool:
        return replace(self._store, KEY, payload, serialize(values, self._settings()))

    def _merge(self, values: SessionValues) -> dict[str, Any]:
        """Merge the changes into what is stored now. Returns the merged values."""
        store, state = self._store, self._state
        with store.transaction():
            present, _ = self._stored()
            merged = values.merged(present or {})
            if merged:
                write(store, KEY, serialize(merged, self._settings()))
            elif present is not None:
                delete(store, KEY)
        if present is None and merged and state.fate is Fate.KEPT:
            state.reissue_cookie()  # A parallel request may have emptied the session, and removed its cookie.
        return merged

    # Logins

    def _apply_login(self) -> None:
        """Give the session a new id after a login, and end it after a logout, as seen in the user id that it holds."""
        user = self._user_of(self._values())
        if user == self._user:
            return
        if user is not None and self._state.is_answered:
            raise ResponseStarted(
                "flask.session logged a user in after the response headers were sent, as in a socket event, so they "
                "could not bring the browser the new session id. Nothing was stored. Log in from a view."
            )
        if user is not None and self._state.user is not None:  # regenerate(user_id=...) has said who it is.
            self._user = user
            return
        if self._user is not None:
            self._store.destroy()
        self._values()
        if user is not None:
            self._store.regenerate(user)
        self._values()  # Drops the values of a session that has just ended.
        self._user = user

    def _user_of(self, values: SessionValues) -> str | int | None:
        return user_of(values, self._settings().flask_session_user_key)


class StoreSessionInterface(SecureCookieSessionInterface):
    """Opens and saves sessions for Flask.

    It derives from SecureCookieSessionInterface for extensions that ask for the cookie's name or for a serializer.

    :param settings: returns the app's settings
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings

    def open_session(self, app: Flask, request: Request) -> StoreSession | None:  # type: ignore[override]
        if not app.config["SECRET_KEY"]:
            return None
        return StoreSession(app, request.environ, self._settings)

    def save_session(self, app: Flask, session: StoreSession, response: Response) -> None:  # type: ignore[override]
        store = session.environ.get(ENVIRON_KEY)
        state = None if store is None else state_of(store)
        if session.accessed and not (state and state.use):
            response.vary.add("Cookie")
        if state is None:  # A test's request context that has used neither the session nor the store.
            return
        # As in Flask, each request keeps a permanent session alive, so it has to be read.
        is_refreshed = state.is_permanent and app.config["SESSION_REFRESH_EACH_REQUEST"]
        if session.is_loaded:
            _save(app, session, state)
        elif is_refreshed or state.fate is Fate.INHERITED:
            try:
                _save(app, session, state)
            except StorageError as error:
                logger.warning(
                    "A request that does not use flask.session could not keep it alive, or not take it over: %s", error
                )
        if not (state.is_in_wsgi_call or state.is_answered):
            finish = app.extensions[EXTENSION].opened(app).request_sessions.finish
            scheme = session.environ["wsgi.url_scheme"]
            response.headers = Headers(finish(state, response.headers.to_wsgi_list(), scheme))


def _save(app: Flask, session: StoreSession, state: SessionState) -> None:
    try:
        has_changed = session.save()
    except SessionEnded:
        logger.info(
            "The changes of a request to flask.session are not stored, because another request has ended the session."
        )
        return
    if session:
        is_permanent = bool(session.permanent)
        if is_permanent != state.is_permanent or (is_permanent and app.config["SESSION_REFRESH_EACH_REQUEST"]):
            state.is_permanent = is_permanent
            state.reissue_cookie()
    elif has_changed and state.fate is Fate.KEPT and not store_of(app, session.environ):
        state.fate = Fate.EMPTIED


def _is_csrf_key(app: Flask, key: object) -> bool:
    """Whether Flask-WTF, or WTForms' SessionCSRF, keeps its CSRF token under this key of ``flask.session``.

    Both make a random token when they find none. Two forms that a browser fetches in parallel would then have two
    tokens, of which the session keeps one. And a second click on "Log in" brings the id from before the first click's
    login, under which nothing is stored any more: its form would be refused, and the user locked out. So a session
    always has a token, derived from its id: requests with one id agree on it, even after the session has ended.

    An attacker who has planted a session id can learn the token of that id. A session keeps its token after a login, as
    with Flask's own cookie. If an app removes it at login, the next one is derived from the new id.
    """
    if key == app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token"):
        return "flask_wtf" in sys.modules
    return key == "csrf" and "wtforms.csrf.session" in sys.modules


def check_interface(app: Flask) -> None:
    """Check that an app's flask.session can be kept in the store.

    :raises ConfigurationError: if another session interface keeps it
    """
    interface = type(app.session_interface)
    if interface not in (SecureCookieSessionInterface, StoreSessionInterface):
        raise ConfigurationError(
            f"flask_session=True keeps flask.session in the visitor's store, but the app {app.name!r} already uses the "
            f"session interface {interface.__module__}.{interface.__qualname__}. Remove what sets it, such as "
            "Flask-Session's Session(app), or do not set USER_STORE_FLASK_SESSION (flask_session=)."
        )
