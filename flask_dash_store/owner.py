"""Whose values: the names under which the storage keeps what belongs to a session or to a user id.

No owner holds a ``/``, and sessions and users have prefixes of their own, so no two owners can meet
(Django's CVE-2011-4136 was such a meeting).
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256
from urllib.parse import quote, unquote

from .errors import InvalidKey, InvalidKeyType

USER_PREFIX = "u."
SESSION_PREFIX = "s."
MAX_USER_ID_LENGTH = 512

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


def new_session_id() -> str:
    """A session id that nobody can guess: 256 random bits, in 43 characters of url-safe base64."""
    return secrets.token_urlsafe(32)


def is_session_id(text: str) -> bool:
    """Whether the text has the form of a session id."""
    return _SESSION_ID.fullmatch(text) is not None


def session_owner(session_id: str) -> str:
    """The owner of a session's values. It is a hash, so that nothing at rest opens a session.

    :raises InvalidKey: when the text has not the form of a session id
    """
    if not isinstance(session_id, str) or not is_session_id(session_id):
        raise InvalidKey("A session id is 43 characters of url-safe base64, as UserStore.session_id gives it.")
    return SESSION_PREFIX + sha256(session_id.encode()).hexdigest()


def user_owner(user_id: str | int) -> str:
    """The owner of the values of a user id. An int is the same user as its decimal text.

    :raises InvalidKeyType: when the id is neither str nor int
    :raises InvalidKey: when it is longer than 512 characters or holds a lone surrogate
    """
    if not isinstance(user_id, (str, int)):
        raise InvalidKeyType(f"A user id is a str or an int, not {type(user_id).__name__}.")
    text = str(user_id)
    if len(text) > MAX_USER_ID_LENGTH:
        raise InvalidKey(f"A user id has at most {MAX_USER_ID_LENGTH} characters, not {len(text)}; hash longer ones.")
    try:
        return USER_PREFIX + quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidKey(f"The user id {text!a} holds a lone surrogate, which no encoding can store.") from None


def user_id_of(owner: str) -> str:
    """The user id, as text, whose owner this is."""
    return unquote(owner.removeprefix(USER_PREFIX))
