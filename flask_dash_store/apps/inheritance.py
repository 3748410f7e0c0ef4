"""Takes over the sessions of cookies that Flask itself, or the extension Flask-Session, has set.

So an app that begins to keep ``flask.session`` in the visitor's store does not log its visitors out. A cookie's session
is taken over once. Its new id is derived from the cookie and from the time of the takeover, so all requests with that
cookie agree on it. Once that session has ended, or a login has given it another id, the cookie opens nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import BadSignature, Signer, URLSafeTimedSerializer
from werkzeug.http import parse_cookie

from ..errors import SessionEnded, StorageError, UserStoreError
from ..http.sessions import Inheritance
from ..owner import FLASK_SESSION_KEY as KEY
from ..owner import DerivedIds, new_session_id, session_digest, session_owner, user_hash, user_owner
from ..settings import Settings
from ..store.internal import write
from ..store.session_state import SessionState
from ..store.user_store import SessionContext, UserStore
from .session_values import serialize, user_of

logger = logging.getLogger("flask_dash_store")

# A browser sends several cookies of one name only for several paths and domains. Each costs reads of the storage.
MAX_COOKIES = 8

Inherit = Callable[[str], Inheritance | None]


class ImportedSessions:
    """The sessions that ``flask user-store import`` has imported from Flask-Session, and those of Flask's own cookies.

    Each is found by a name: the hash of Flask-Session's key for it, which ends with its cookie, or the hash of Flask's
    cookie. A session id is derived from the name, and replaced by another one during the import, as at a login. So the
    first id opens nothing, and the storage knows when it was replaced. The second id is derived from both. A name that
    was not imported leads to no session, so an attacker cannot choose the id of a session by planting a cookie.

    :param secrets: the app's secrets, the current one first
    """

    def __init__(self, context: SessionContext, settings: Settings, secrets: Sequence[bytes]) -> None:
        self._context = context
        self._settings = settings
        self._ids = [DerivedIds(secret) for secret in secrets]
        self.lifetime, self.clock = context.lifetime, context.expiry.clock

    def add(self, name: str, values: Mapping[str, Any], expires: float) -> bool:
        """Store a session. Returns False, and changes nothing, if it was imported before.

        :param values: the values of ``flask.session``
        :param expires: when they expire, in seconds since the epoch; the app's lifetime may end them earlier
        :raises UserStoreError: if they cannot be stored
        """
        if self.find(name) is not None:
            return False
        context, ids = self._context, self._ids[0]
        now = context.expiry.clock()  # find() derives the id from this time, which the storage keeps.
        former = ids.of_imported(name)
        session_id = ids.after_import(former, now)
        state = SessionState(session_owner(session_id))
        state.session_id, state.ends_at = session_id, min(expires, now + context.lifetime)
        access = context.expiry.access(state.ends_at)._replace(now=now)
        user = user_of(values, self._settings.flask_session_user_key)
        user_is = None if user is None else user_hash(user_owner(user))
        with suppress(SessionEnded), context.storage.transaction(state.owner):
            context.storage.renew(session_owner(former), session_digest(session_id), access, user_is)
            write(UserStore(context, state), KEY, serialize(values, self._settings))
            return True
        return False  # A parallel request was faster.

    def take_over(self, name: str, values: Mapping[str, Any], issued_at: float) -> Inheritance:
        """The session of one of Flask's own cookies, taken over by this request or an earlier one.

        The cookie's values are stored once. So a copy of the cookie does not bring them back after the session was
        emptied, or has expired.

        :param values: the values in the cookie
        :param issued_at: when Flask signed it, in seconds since the epoch
        """
        try:
            found = self.find(name)
            if found is None:
                self.add(name, values, issued_at + self._context.lifetime)
                found = self.find(name)
        except UserStoreError as error:
            logger.warning(
                "This request could not take over the session of Flask's own cookie; a later one may: %s", error
            )
            found = None
        # The lifetime counts from the time at which Flask signed the cookie.
        return self._empty_session() if found is None else found._replace(issued_at=issued_at)

    def find(self, name: str) -> Inheritance | None:
        """The session that was imported under this name; None if there is none.

        :raises StorageError: if the storage fails
        """
        access = self._context.expiry.access()
        for ids in self._ids:
            former = ids.of_imported(name)
            try:
                self._context.storage.stat(session_owner(former), access)
            except SessionEnded as ended:
                # After a login or a logout, this is another time, and the id derived from it opens nothing.
                return Inheritance(ids.after_import(former, ended.ended_at), ended.ended_at)
        return None

    def find_first(self, names: Iterable[str]) -> Inheritance | None:
        """The first session that was imported under one of these names; None if there is none."""
        try:
            return next(filter(None, map(self.find, names)), None)
        except StorageError as error:
            logger.warning(
                "A request has an empty session, because its cookie could not be looked up: %s",
                error,
            )
            return self._empty_session()

    def _empty_session(self) -> Inheritance:
        """An empty session for one request. As it is not stored, the response does not replace the cookie."""
        return Inheritance(new_session_id(), self._context.expiry.clock())


def inherit_from_cookies(app: Flask, cookie_name: str, secrets: Sequence[bytes], imported: ImportedSessions) -> Inherit:
    """A function that finds the session of a Cookie header whose cookies this package has not signed.

    :param secrets: the app's secrets, the current one first
    :param imported: the imported sessions among which it looks
    """
    serializers = [_flasks_serializer(secret) for secret in secrets]

    def inherit(header: str) -> Inheritance | None:
        if f"{cookie_name}=" not in header:
            return None
        cookies = [cookie for cookie in parse_cookie(header).getlist(cookie_name) if cookie][:MAX_COOKIES]
        max_age = int(app.permanent_session_lifetime.total_seconds())
        for cookie, serializer in product(cookies, serializers):
            with suppress(BadSignature):
                values, signed_at = serializer.loads(cookie, max_age=max_age, return_timestamp=True)
                issued_at = signed_at.timestamp()
                if values and issued_at + imported.lifetime > imported.clock():
                    return imported.take_over(_cookie_name(cookie), values, issued_at)
        return imported.find_first(name for cookie in cookies for name in _names(app, secrets, cookie))

    return inherit


def _cookie_name(cookie: str) -> str:
    return hashlib.sha256(f"cookie {cookie}".encode()).hexdigest()


def _flasks_serializer(secret: bytes) -> URLSafeTimedSerializer:
    flasks = SecureCookieSessionInterface
    return URLSafeTimedSerializer(
        secret,
        salt=flasks.salt,
        serializer=flasks.serializer,
        signer_kwargs={"key_derivation": flasks.key_derivation, "digest_method": flasks.digest_method},
    )


# Flask-Session


def key_prefix(app: Flask) -> str:
    """The prefix of Flask-Session's keys. The value of its cookie follows."""
    return str(app.config.get("SESSION_KEY_PREFIX", "session:"))


def _names(app: Flask, secrets: Sequence[bytes], cookie: str) -> Iterator[str]:
    if app.config.get("SESSION_USE_SIGNER"):
        signer = Signer(list(secrets), salt="flask-session", key_derivation="hmac")
        try:
            cookie = signer.unsign(cookie).decode()
        except BadSignature:
            return
    key = (key_prefix(app) + cookie).encode()
    # The file names of cachelib, which used MD5 before version 0.16.
    yield hashlib.sha256(key).hexdigest()
    yield hashlib.md5(key, usedforsecurity=False).hexdigest()
