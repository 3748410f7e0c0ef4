"""The signed session id in the visitor's cookie: issue and verify.

The cookie is ``<session id>.<scope>.<time of issue>.<signature>``. It alone says who the visitor is and how old the
session is, so this costs no call to the storage. The scope identifies the cookie's path and domain and, in its last
character, the other attributes, so that browsers get a new cookie when a setting changes. A ``p`` after the time marks
a permanent session of Flask, whose cookie is renewed even by requests that do not read the session.

A browser can hold several cookies of this name: of a sibling app or subdomain, or from before a change of path or
domain (RFC 6265, 5.4 and 8.6). It sends only their values, so the value must tell them apart.
"""

from __future__ import annotations

import hashlib
import logging
import re
import string
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from itsdangerous import BadSignature, Signer
from werkzeug.http import dump_cookie

from ..expiry import Clock
from ..owner import Owner, session_owner

logger = logging.getLogger("flask_dash_store")

MAX_COOKIE_LENGTH = 256
VERIFIED_COOKIES = 8192

_BASE64 = string.ascii_letters + string.digits + "-_"
_WHERE_LENGTH = 3

# The decoder of itsdangerous ignores foreign characters and unused bits, so many texts would have the same valid
# signature. This form admits only one: the 48 bytes of SHA-384 leave no bit of base64 unused.
_FORM = re.compile(r"([A-Za-z0-9_-]{64})\.([A-Za-z0-9_-]{4})\.([0-9]{1,15})(p?)\.[A-Za-z0-9_-]{64}", re.ASCII)


class Session(NamedTuple):
    """The session that a cookie names.

    :ivar issued_at: when the cookie was issued, in seconds since the epoch
    :ivar is_own: whether it was issued for this app's path and domain
    :ivar is_current: whether the app would issue the same cookie now: with these attributes and the current secret
    :ivar is_permanent: whether it is a permanent session of Flask, whose cookie outlives the browser's run
    """

    id: str
    owner: Owner
    issued_at: float
    is_own: bool
    is_current: bool
    is_permanent: bool


@dataclass(frozen=True)
class CookieAttributes:
    """The attributes of the cookie (RFC 6265, 5.3).

    :param path: the path under which browsers send it
    :param domain: the domain to whose hosts browsers send it; None for only the host that set it
    :param samesite: ``"Lax"``, ``"Strict"`` or ``"None"``; None leaves the attribute out
    :param secure: whether browsers send it only over https; None follows the scheme of each request
    :param partitioned: whether each site that embeds the app has its own cookie (CHIPS)
    :param httponly: whether it is hidden from scripts of the page
    :param embedded: whether other sites show the app in an iframe, so that the app itself protects it as Lax would
    """

    name: str
    path: str
    domain: str | None
    samesite: str | None
    secure: bool | None
    partitioned: bool
    httponly: bool = True
    embedded: bool = False


def _signer(secrets: Sequence[bytes]) -> Signer:
    return Signer(list(secrets), salt="flask_dash_store.session", key_derivation="hmac", digest_method=hashlib.sha384)


class SessionCookie:
    """Reads and writes the cookie of one app.

    :param secrets: the app's secrets, the current one first
    :param lifetime: seconds for which the browser keeps the cookie
    :param permanent: for the cookie of Flask's session, seconds for which the browser keeps that of a permanent
        session, at most the lifetime; it keeps others until it is closed. None if the cookie is not Flask's.
    """

    def __init__(
        self,
        attributes: CookieAttributes,
        secrets: Sequence[bytes],
        lifetime: float,
        clock: Clock,
        permanent: float | None = None,
    ) -> None:
        self._prefix = attributes.name + "="
        self.set_attributes(attributes)
        self._signer, self._former = _signer(secrets[:1]), [_signer([secret]) for secret in secrets[1:]]
        self._lifetime = lifetime
        self._permanent = permanent
        self._clock = clock
        # The cache is safe: whether a signature is valid depends only on the secrets, which never change here.
        self._verify = lru_cache(VERIFIED_COOKIES)(self._verify_signature)
        self._has_warned = self._has_warned_of_key = False

    def set_attributes(self, attributes: CookieAttributes) -> None:
        """From now on, issue cookies with these attributes. Cookies with the former ones stay valid."""
        self.attributes = attributes
        self._scope = _scope(attributes)
        self._where = self._scope[:_WHERE_LENGTH]

    def read(self, header: str) -> Session | None:
        """The session that a Cookie header names; None if it has no valid cookie of this app.

        If there are several, one that was issued for this app's path and domain wins, so that two apps with one
        SECRET_KEY each keep their own session. Among those, the one that was issued last wins.
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
                "A browser sent two valid cookies %s of different sessions, issued in the same second, so the first "
                "one is used. They may come from apps with the same SECRET_KEY: give each its own cookie_name.",
                self.attributes.name,
            )
        return max(first, other, key=lambda session: (session.is_own, session.issued_at))

    def _verify_signature(self, value: str) -> Session | None:
        form = _FORM.fullmatch(value)
        if form is None:
            return None
        session_id, scope, issued, permanent = form.groups()
        is_own = scope.startswith(self._where)
        is_current = _is_signed(self._signer, value)
        if not is_current and not any(_is_signed(former, value) for former in self._former):
            if is_own:
                self._warn_of_another_key()
            return None
        is_current = is_current and scope == self._scope
        return Session(session_id, session_owner(session_id), float(issued), is_own, is_current, bool(permanent))

    def _warn_of_another_key(self) -> None:
        if not self._has_warned_of_key:  # Once in a process: a forged cookie looks the same, and must not fill the log.
            self._has_warned_of_key = True
            logger.warning(
                "A browser sent a cookie %s that was not signed with this SECRET_KEY, so its visitor begins a new "
                "session. SECRET_KEY must be the same in all workers and after a restart. If it was changed, keep the "
                "former one in SECRET_KEY_FALLBACKS. If another app on this host, on any port, sets the cookie, give "
                "each its own cookie_name.",
                self.attributes.name,
            )

    def dump(self, session_id: str, issued_at: float, scheme: str, is_permanent: bool = False) -> str:
        """The value of a Set-Cookie header for this session.

        :param issued_at: the start of the session's lifetime, in seconds since the epoch
        :param scheme: the scheme of the request, for a cookie whose Secure attribute follows it
        :param is_permanent: whether it is a permanent session of Flask
        """
        mark = "p" if is_permanent else ""
        value = self._signer.sign(f"{session_id}.{self._scope}.{int(issued_at)}{mark}").decode("ascii")
        return self._dump(value, self._max_age(issued_at, is_permanent), scheme)

    def dump_expired(self, scheme: str) -> str:
        """The value of a Set-Cookie header that makes the browser forget its cookie."""
        return self._dump("", 0, scheme)

    def _max_age(self, issued_at: float, is_permanent: bool) -> int | None:
        remaining = int(self._lifetime) - max(0, int(self._clock() - issued_at))
        if self._permanent is None:
            return remaining
        return min(int(self._permanent), remaining) if is_permanent else None

    def _dump(self, value: str, max_age: int | None, scheme: str) -> str:
        attributes = self.attributes
        return dump_cookie(
            attributes.name,
            value,
            max_age=max_age,
            path=attributes.path,
            domain=attributes.domain,
            secure=scheme == "https" if attributes.secure is None else attributes.secure,
            httponly=attributes.httponly,
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
    """Identifies where the browser sends a cookie, and with which attributes.

    18 bits of a hash of path and domain are enough to tell a few apps on one host apart. The other attributes are
    encoded in full, so that any change of one shows.
    """
    where = f"{(attributes.domain or '').lstrip('.').lower()} {attributes.path}"
    choices = (
        (attributes.samesite, (None, "Lax", "Strict", "None")),
        (attributes.secure, (None, True, False)),
        (attributes.partitioned, (False, True)),
        (attributes.httponly, (True, False)),
    )
    how = 0
    for choice, among in choices:
        how = how * len(among) + among.index(choice)
    return urlsafe_b64encode(hashlib.sha256(where.encode()).digest())[:_WHERE_LENGTH].decode("ascii") + _BASE64[how]
