"""The headers that keep shared caches from giving one visitor's response to another.

The rules are those of RFC 9111. Flask's CVE-2023-30861 shows what happens without them.
"""

from __future__ import annotations

import time

from werkzeug.datastructures import ResponseCacheControl
from werkzeug.http import parse_cache_control_header, parse_date, parse_list_header

Headers = list[tuple[str, str]]


def _values(headers: Headers, name: str) -> str:
    return ", ".join(value for header, value in headers if header.lower() == name)


def _control(value: str) -> ResponseCacheControl:
    return parse_cache_control_header(value.lower(), cls=ResponseCacheControl)


def may_be_shared(headers: Headers) -> bool:
    """Whether a shared cache may give this response to another visitor without asking."""
    # A header for one CDN overrides, for that CDN, the header for all caches (RFC 9213).
    targeted = [_control(value) for header, value in headers if _is_targeted(header.lower())]
    if any(_allows_sharing(control) for control in targeted):
        return True
    allowed = _allows_sharing(_control(_values(headers, "cache-control")))
    if allowed is not None:
        return allowed
    expires = parse_date(_values(headers, "expires"))
    return expires is not None and expires.timestamp() > time.time()


def _is_targeted(header: str) -> bool:
    return header.endswith("-cache-control") or header == "surrogate-control"


def _allows_sharing(control: ResponseCacheControl) -> bool | None:
    """Whether the directives allow it; None if they do not say."""
    if _is_private(control) or control.no_store:
        return False
    if control.public or (control.s_maxage or 0) > 0:
        return True
    if control.no_cache:
        return False
    return None if control.max_age is None else control.max_age > 0


def _is_private(control: ResponseCacheControl) -> bool:
    return control.private in (True, "*")  # With a value, as in private="Set-Cookie", it only covers those headers.


def keep_private(headers: Headers) -> None:
    """Forbid shared caches to store the response, unless its headers already do."""
    value = _values(headers, "cache-control")
    control = _control(value)
    if not (_is_private(control) or control.no_store):
        _replace(headers, "Cache-Control", f"{value}, private" if value else "private")


def vary_on_cookie(headers: Headers) -> None:
    """Tell caches that the response depends on the visitor."""
    for header, _ in headers:
        if header.lower() == "vary":
            break
    else:  # The fast path: most responses have no Vary header.
        headers.append(("Vary", "Cookie"))
        return
    value = _values(headers, "vary")
    named = {name.lower() for name in parse_list_header(value)}
    if not named & {"cookie", "*"}:
        _replace(headers, "Vary", f"{value}, Cookie" if value else "Cookie")


def _replace(headers: Headers, name: str, value: str) -> None:
    headers[:] = [header for header in headers if header[0].lower() != name.lower()]
    headers.append((name, value))
