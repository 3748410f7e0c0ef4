"""The signed session id in the visitor's cookie: issue and verify.

The cookie is ``<session id>.<scope>.<time of issue>.<signature>``. It alone says who the visitor is and how old the
session is, so a request is known without asking the storage. The scope stands for the cookie's path and domain.

A browser can hold several cookies of our name: of a sibling app, of a sibling subdomain, from before a change of path
or domain (RFC 6265, 5.4 and 8.6). It sends them without saying which is which, so the value has to.
"""

from __future__ import annotations

import hashlib
import logging
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from itsdangerous import BadSignature, Signer
from werkzeug.http import dump_cookie

from .expiry import Clock
from .owner import Owner, session_owner

logger = logging.getLogger("flask_dash_store")

MAX_COOKIE_LENGTH = 256
VERIFIED_COOKIES = 8192

# The decoder behind itsdangerous passes over foreign characters and unused bits, so that many texts would carry
# one valid signature. This form, with the 48 bytes of SHA-384 that leave no bit of base64 unused, admits one.
_FORM = re.compile(r"([A-Za-z0-9_-]{64})\.([A-Za-z0-9_-]{4})\.([0-9]{1,15})\.[A-Za-z0-9_-]{64}", re.ASCII)


class Session(NamedTuple):
    """Who a cookie says the visitor is.

    ``issued_at`` is when it was issued, in seconds since the epoch; ``is_own`` whether for this app's path and domain;
    ``is_current`` whether it is as this app issues it now: for its path and domain, and with the current secret.
    """

    id: str
    owner: Owner
    issued_at: float
    is_own: bool
    is_current: bool


@dataclass(frozen=True)
class CookieAttributes:
    """The attributes of the cookie (RFC 6265, 5.3), which is always HttpOnly.

    :param path: under which browsers send it
    :param domain: to whose hosts browsers send it; None for the one host that has set it
    :param samesite: ``"Lax"``, ``"Strict"`` or ``"None"``
    :param secure: whether browsers send it over https alone; None follows the scheme of each request
    :param partitioned: whether each site that embeds the app has a cookie of its own (CHIPS)
    """

    name: str
    path: str
    domain: str | None
    samesite: str
    secure: bool | None
    partitioned: bool


def _signer(secrets: Sequence[bytes]) -> Signer:
    return Signer(list(secrets), salt="flask_dash_store.session", key_derivation="hmac", digest_method=hashlib.sha384)


class SessionCookie:
    """Reads and writes the cookie of one app.

    :param secrets: the app's secrets, the current one first
    :param lifetime: seconds for which the browser keeps the cookie
    """

    def __init__(self, attributes: CookieAttributes, secrets: Sequence[bytes], lifetime: float, clock: Clock) -> None:
        self.attributes = attributes
        self._prefix = attributes.name + "="
        self._scope = _scope(attributes)
        self._signer, self._former = _signer(secrets[:1]), [_signer([secret]) for secret in secrets[1:]]
        self._lifetime = lifetime
        self._clock = clock
        # Whether a signature is valid depends on the secrets alone, which never change in this object.
        self._verify = lru_cache(VERIFIED_COOKIES)(self._verify_signature)
        self._has_warned = False

    def read(self, header: str) -> Session | None:
        """The session that a Cookie header names; None when it holds no cookie of this app that is authentic.

        Of several, one that was issued for this app's path and domain counts before others: so two apps with one
        SECRET_KEY keep each its own. Then the one that was issued last counts.
        """
        prefix, found = self._prefix, None
        for part in header.split(";"):
            crumb = part.strip(" \t")
            if crumb.startswith(prefix) and len(crumb) <= MAX_COOKIE_LENGTH:
                session = self._verify(crumb[len(prefix) :])
                if session is not None:
                    found = session if found is None else self._better(found, session)
        return found

    def _better(self, first: Session, other: Session) -> Session:
        if first.id == other.id:
            return first if first.is_current else other
        if (first.is_own, first.issued_at) == (other.is_own, other.issued_at) and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "A browser sends two valid cookies %s of two sessions, issued in one second, so the first one counts. "
                "They may come from apps with one SECRET_KEY: give each a cookie_name of its own.",
                self.attributes.name,
            )
        return max(first, other, key=lambda session: (session.is_own, session.issued_at))

    def _verify_signature(self, value: str) -> Session | None:
        form = _FORM.fullmatch(value)
        if form is None:
            return None
        is_current = _is_signed(self._signer, value)
        if not is_current and not any(_is_signed(former, value) for former in self._former):
            return None
        session_id, scope, issued = form.groups()
        is_own = scope == self._scope
        return Session(session_id, session_owner(session_id), float(issued), is_own, is_own and is_current)

    def dump(self, session_id: str, issued_at: float, scheme: str) -> str:
        """The value of a Set-Cookie header that gives the browser this session.

        :param issued_at: seconds since the epoch, from which the session's lifetime counts
        :param scheme: of the request, for a cookie whose Secure follows it
        """
        attributes = self.attributes
        return dump_cookie(
            attributes.name,
            self._signer.sign(f"{session_id}.{self._scope}.{int(issued_at)}").decode("ascii"),
            max_age=int(self._lifetime) - max(0, int(self._clock() - issued_at)),
            path=attributes.path,
            domain=attributes.domain,
            secure=scheme == "https" if attributes.secure is None else attributes.secure,
            httponly=True,
            samesite=attributes.samesite,
            partitioned=attributes.partitioned,
        )


def _is_signed(signer: Signer, value: str) -> bool:
    try:
        signer.unsign(value)
    except BadSignature:
        return False
    return True


def _scope(attributes: CookieAttributes) -> str:
    """Stands for where the browser sends a cookie; three bytes are enough to tell a few apps of one host apart."""
    where = f"{(attributes.domain or '').lstrip('.').lower()} {attributes.path}"
    return urlsafe_b64encode(hashlib.sha256(where.encode()).digest()[:3]).decode("ascii")
