"""The signed session id in the visitor's cookie: issue, verify, succeed.

The cookie is ``<session id>.<time of issue>.<signature>``. It alone tells who the visitor is and how old the
session is, so a request is known without asking the storage.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from itsdangerous import BadData, TimestampSigner
from werkzeug.http import dump_cookie

from .expiry import Clock
from .owner import session_owner

MAX_COOKIE_LENGTH = 256
VERIFIED_COOKIES = 8192

# The decoder behind itsdangerous passes over foreign characters and unused bits, so that many texts would carry
# one valid signature. This form, with the 48 bytes of SHA-384 that leave no bit of base64 unused, admits one.
_FORM = re.compile(r"[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{1,8}\.[A-Za-z0-9_-]{64}", re.ASCII)


class Session(NamedTuple):
    """Who a cookie says the visitor is: a session id, its owner, and when it was issued, in seconds since the epoch."""

    id: str
    owner: str
    issued_at: float


@dataclass(frozen=True)
class CookieAttributes:
    """What a browser is told about the cookie. ``secure`` None follows the scheme of each request."""

    name: str
    path: str
    domain: str | None
    samesite: str
    secure: bool | None
    partitioned: bool


class _Signer(TimestampSigner):
    def __init__(self, secrets: Sequence[bytes], clock: Clock) -> None:
        # itsdangerous signs with the last key of its list: Flask's CVE-2025-47278 was this order reversed.
        super().__init__(
            list(reversed(secrets)),
            salt="flask_dash_store.session",
            key_derivation="hmac",
            digest_method=hashlib.sha384,
        )
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock())


class SessionCookie:
    """Reads and writes the cookie of one app.

    :param secrets: the app's secrets, the current one first
    :param lifetime: seconds for which the browser keeps the cookie
    """

    def __init__(self, attributes: CookieAttributes, secrets: Sequence[bytes], lifetime: float, clock: Clock) -> None:
        self.attributes = attributes
        self._prefix = attributes.name + "="
        self._signer = _Signer(secrets, clock)
        self._successor_key = hmac.digest(secrets[0], b"flask_dash_store.successor", "sha256")
        self._max_age = int(lifetime)
        # A signature that was verified need not be again: it depends on the secrets alone, which are this object's.
        self._verify = lru_cache(VERIFIED_COOKIES)(self._verify_signature)

    def read(self, header: str) -> Session | None:
        """The session that a Cookie header names; None for anything that is not exactly one cookie of ours."""
        prefix, value = self._prefix, None
        for part in header.split(";"):
            crumb = part.strip(" \t")
            if crumb.startswith(prefix):
                if value is not None:
                    return None
                value = crumb[len(prefix) :]
        return self._verify(value) if value is not None and len(value) <= MAX_COOKIE_LENGTH else None

    def _verify_signature(self, value: str) -> Session | None:
        if not _FORM.fullmatch(value):
            return None
        try:
            session_id, issued = self._signer.unsign(value, return_timestamp=True)
        except (BadData, ValueError, OverflowError, OSError):
            return None
        name = session_id.decode("ascii")
        return Session(name, session_owner(name), issued.timestamp())

    def dump(self, session_id: str, scheme: str) -> str:
        """The value of a Set-Cookie header that gives the browser this session, issued now."""
        attributes = self.attributes
        return dump_cookie(
            attributes.name,
            self._signer.sign(session_id).decode("ascii"),
            max_age=self._max_age,
            path=attributes.path,
            domain=attributes.domain,
            secure=scheme == "https" if attributes.secure is None else attributes.secure,
            httponly=True,
            samesite=attributes.samesite,
            partitioned=attributes.partitioned,
        )

    def successor(self, session_id: str, ended_at: float) -> str:
        """The session id that follows one whose lifetime has ended.

        Requests in parallel learn ``ended_at`` from the storage, so they agree; nobody without SECRET_KEY can
        tell it from what is at rest.
        """
        digest = hmac.digest(self._successor_key, f"{session_id} {ended_at!r}".encode(), "sha256")
        return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
