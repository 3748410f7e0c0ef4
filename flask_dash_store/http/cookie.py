"""The signed session id in the visitor's cookie: issue and verify.

The cookie is ``<session id>.<scope>.<time of issue>.<signature>``. It alone says who the visitor is and how old the
session is, so a request is known without asking the storage. The scope stands for the cookie's path and domain,
and its last character for the other attributes, so that browsers learn of a setting that has changed. A ``p`` behind
the time says of Flask's session that it is permanent, so that a request which does not use it is known to renew the
cookie.

A browser can hold several cookies of our name: of a sibling app, of a sibling subdomain, from before a change of path
or domain (RFC 6265, 5.4 and 8.6). It sends them without saying which is which, so the value has to.
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

# The decoder behind itsdangerous passes over foreign characters and unused bits, so that many texts would carry
# one valid signature. This form, with the 48 bytes of SHA-384 that leave no bit of base64 unused, admits one.
_FORM = re.compile(r"([A-Za-z0-9_-]{64})\.([A-Za-z0-9_-]{4})\.([0-9]{1,15})(p?)\.[A-Za-z0-9_-]{64}", re.ASCII)


class Session(NamedTuple):
    """Who a cookie says the visitor is.

    ``issued_at`` is when it was issued, in seconds since the epoch; ``is_own`` whether for this app's path and domain;
    ``is_current`` whether it is as this app issues it now: with all its attributes, and with the current secret;
    ``is_permanent`` whether the browser keeps the cookie of Flask's session when it is closed.
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

    :param path: under which browsers send it
    :param domain: to whose hosts browsers send it; None for the one host that has set it
    :param samesite: ``"Lax"``, ``"Strict"`` or ``"None"``; None says nothing of it
    :param secure: whether browsers send it over https alone; None follows the scheme of each request
    :param partitioned: whether each site that embeds the app has a cookie of its own (CHIPS)
    :param httponly: whether scripts of the page cannot read it
    :param embedded: whether it is that of an app which other sites show in an iframe, with the protection that Lax is
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
    :param permanent: seconds, within the lifetime, for which it keeps that of a permanent session of Flask, while it
        keeps others until it is closed; None where it is no cookie of Flask's session
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
        # Whether a signature is valid depends on the secrets alone, which never change in this object.
        self._verify = lru_cache(VERIFIED_COOKIES)(self._verify_signature)
        self._has_warned = False

    def set_attributes(self, attributes: CookieAttributes) -> None:
        """From now on, issue cookies with these attributes; those that have come with a request are known by it."""
        self.attributes = attributes
        self._scope = _scope(attributes)
        self._where = self._scope[:_WHERE_LENGTH]

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
        session_id, scope, issued, permanent = form.groups()
        is_own = scope.startswith(self._where)
        is_current = is_current and scope == self._scope
        return Session(session_id, session_owner(session_id), float(issued), is_own, is_current, bool(permanent))

    def dump(self, session_id: str, issued_at: float, scheme: str, is_permanent: bool = False) -> str:
        """The value of a Set-Cookie header that gives the browser this session.

        :param issued_at: seconds since the epoch, from which the session's lifetime counts
        :param scheme: of the request, for a cookie whose Secure follows it
        :param is_permanent: whether the browser keeps the cookie of Flask's session when it is closed
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
    """Stands for where the browser sends a cookie, and how.

    18 bits of a hash are enough to tell a few apps of one host apart. The others are written out, for any of them to
    differ.
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
