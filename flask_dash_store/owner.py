"""Owners: the names under which a storage keeps the values of sessions and user ids; session ids; and keys.

A session id is 64 characters of url-safe base64. The first 20 name the owner. They stay the same when the session gets
a new id at login, so that no value has to be moved or signed again. The other 44, 264 random bits, are the secret. A
storage keeps only the SHA-256 of the whole id, so nothing in it opens a session.

No owner's name contains a ``/``, and sessions and users have different prefixes, so names cannot collide
(Django's CVE-2011-4136 was such a collision).
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote, unquote

from .errors import InvalidKey, InvalidKeyType

USER_PREFIX = "u."
SESSION_PREFIX = "s."
MAX_USER_ID_LENGTH = 512
DEFAULT_MAX_KEY_LENGTH = 512

SESSION_ID_BYTES = 48  # A multiple of 3, so that base64 leaves no bit unused and each id has one spelling.
_OWNER_CHARACTERS = 20
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{64}", re.ASCII)

# The package's own keys among those of a session contain a "/", which an app's keys cannot. So an app that lets
# visitors choose keys does not let them write their flask.session, which holds the id of the logged-in user.
TABS_PREFIX = "tab/"  # The prefix of the keys of tab stores.
FLASK_SESSION_KEY = "flask/session"

_REFUSED_IN_KEYS = re.compile("[\0/%\ud800-\udfff]")


class Owner(NamedTuple):
    """The owner of values in a storage.

    :ivar name: ``s.`` and the first characters of a session id, or ``u.`` and a quoted user id
    :ivar session: the SHA-256 of the session id that opens the values, 32 bytes; None for the values of a user id
    """

    name: str
    session: bytes | None = None


def new_session_id() -> str:
    """A random session id, of a new owner."""
    return secrets.token_urlsafe(SESSION_ID_BYTES)


def renewed_session_id(session_id: str) -> str:
    """Another random session id, of the same owner."""
    return session_id[:_OWNER_CHARACTERS] + new_session_id()[_OWNER_CHARACTERS:]


# What the package keeps for itself is neither a session nor a user. Its names come before theirs, which SQL relies on.
HEALTH_OWNER = Owner("h.health")
SAMPLES_OWNER = Owner("a.samples")
TASKS_OWNER = Owner("a.tasks")


class DerivedIds:
    """Session ids, and names derived from one, on which parallel requests agree, in any worker.

    Each request derives the id from the same facts: the former id, and when it ended, which the storage knows. Without
    SECRET_KEY, it cannot be derived from the storage.

    :param secret: the app's current secret
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"flask_dash_store.derived_id", "sha256")

    def after_lifetime(self, session_id: str, ended_at: float) -> str:
        """The next id, of a new owner, after the end of a session's lifetime."""
        return self._derive("lifetime", session_id, ended_at)

    def after_login(self, session_id: str, renewed_at: float, user: str) -> str:
        """The next id, of the same owner, after a login.

        :param user: the name of the user's owner
        """
        derived = self._derive("login", session_id, renewed_at, user)
        return session_id[:_OWNER_CHARACTERS] + derived[_OWNER_CHARACTERS:]

    def of_imported(self, name: str) -> str:
        """The id, of a new owner, that a session of this name has before it is imported."""
        return self._derive("imported", name)

    def after_import(self, session_id: str, imported_at: float) -> str:
        """The next id, of the same owner, after the import."""
        return session_id[:_OWNER_CHARACTERS] + self._derive("import", session_id, imported_at)[_OWNER_CHARACTERS:]

    def after_end(self, session_id: str, ended_at: float, user: str) -> str:
        """The next id, of a new owner, after a login in a session that has ended.

        :param user: the name of the user's owner
        """
        return self._derive("instead", session_id, ended_at, user)

    def csrf_token(self, session_id: str) -> str:
        """The CSRF token of a session's forms. It does not reveal the id, and differs for each id."""
        return self._derive("csrf", session_id)

    def of_results(self, session_id: str) -> str:
        """A name for the results of a session's background callbacks. It does not reveal the id."""
        return self._derive("results", session_id)

    def _derive(self, *facts: str | float) -> str:
        # SHA-384 gives the 48 bytes of an id. Only the last fact, a user's name, can contain a space.
        digest = hmac.digest(self._key, " ".join(map(str, facts)).encode(), "sha384")
        return urlsafe_b64encode(digest).decode("ascii")


def session_owner(session_id: str) -> Owner:
    """The owner of the values of the session with this id.

    :raises InvalidKey: if the text is not a session id
    """
    digest = session_digest(session_id)
    return Owner(SESSION_PREFIX + session_id[:_OWNER_CHARACTERS], digest)


def session_digest(session_id: str) -> bytes:
    """The hash of a session id that a storage keeps.

    :raises InvalidKey: if the text is not a session id
    """
    if not isinstance(session_id, str) or _SESSION_ID.fullmatch(session_id) is None:
        raise InvalidKey(
            "This is not a session id, which has 64 characters of url-safe base64, as in UserStore.session_id."
        )
    return sha256(session_id.encode("ascii")).digest()


def user_owner(user_id: str | int) -> Owner:
    """The owner of the values of a user id. An int is the same user as its decimal text.

    :raises InvalidKeyType: when the id is neither str nor int
    :raises InvalidKey: when it is longer than 512 characters or holds a lone surrogate
    """
    if not isinstance(user_id, (str, int)):
        raise InvalidKeyType(f"A user id must be a str or an int, not {type(user_id).__name__}.")
    text = str(user_id)
    if len(text) > MAX_USER_ID_LENGTH:
        raise InvalidKey(
            f"A user id must have at most {MAX_USER_ID_LENGTH} characters; this one has {len(text)}. Hash longer ids."
        )
    try:
        return Owner(USER_PREFIX + quote(text, safe=""))
    except UnicodeEncodeError:
        raise InvalidKey(f"The user id {text!a} contains a lone surrogate, which cannot be encoded.") from None


def user_hash(user: Owner) -> bytes:
    """The hash by which a storage finds a user's sessions. It does not reveal the user id."""
    return sha256(user.name.encode()).digest()


def visitor_name(key: bytes, owner: Owner) -> str:
    """A name for an owner that does not reveal it: 22 characters of url-safe base64.

    :param key: a key that is derived from the app's secret
    """
    return urlsafe_b64encode(hmac.digest(key, owner.name.encode(), "sha256")[:16]).decode("ascii").rstrip("=")


def user_id_of(name: str) -> str:
    """The user id in the name of an owner."""
    return unquote(name.removeprefix(USER_PREFIX))


def is_own_key(key: str) -> bool:
    """Whether a key of a session is the package's own, and not the app's."""
    return "/" in key


def check_key(key: object, max_length: int = DEFAULT_MAX_KEY_LENGTH) -> str:
    """The key, if it is valid.

    :param max_length: the maximum length in characters
    :raises InvalidKeyType: if it is not a str
    :raises InvalidKey: if it is empty, longer than ``max_length`` characters, or contains NUL, ``/``, ``%`` or a lone
        surrogate
    """
    if not isinstance(key, str):
        raise InvalidKeyType(f"A key must be a str, not {type(key).__name__}; use str(key).")
    if not 1 <= len(key) <= max_length:
        raise InvalidKey(
            f"A key must have 1 to {max_length} characters; this one has {len(key)}. "
            "USER_STORE_MAX_KEY_LENGTH (max_key_length=) sets the limit.",
            limit=max_length,
        )
    refused = _REFUSED_IN_KEYS.search(key)
    if refused:
        raise InvalidKey(
            f"The key {key!a} contains {refused[0]!a}; a key cannot contain NUL, '/', '%' or surrogates.", key=key
        )
    return key
