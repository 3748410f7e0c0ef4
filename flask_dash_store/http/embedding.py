"""Apps that pages of other sites show in an iframe, as Jupyter does: what protects them, and what is warned of.

Two pages are of one site when their scheme and registrable domain are the same, whatever their ports. So a notebook on
``localhost`` and an app on ``127.0.0.1`` are two sites. In such an iframe browsers neither send nor keep a cookie that
is SameSite=Lax or Strict, and many of them none that is not Partitioned
(https://developer.mozilla.org/docs/Web/Privacy/Guides/Privacy_sandbox/Partitioned_cookies).

What a browser says of a request's origin is in its Fetch Metadata (https://www.w3.org/TR/fetch-metadata/), which no
script of a page can set. It sends them to https, and to localhost and the like, alone: where it keeps Secure cookies.
With a websocket's request Chromium sends none of them, but each browser sends the page's Origin (RFC 6455, 4.1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from .cookie import SessionCookie

logger = logging.getLogger("flask_dash_store")

Header = Callable[[str], str | None]

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")


def is_withheld(samesite: str | None, fetch_site: str | None, method: str) -> bool:
    """Whether SameSite keeps a browser from sending a cookie with a request, which then comes from another site.

    :param samesite: None is what browsers take for Lax
    :param fetch_site: the request's Sec-Fetch-Site; None if there is none
    :param method: in upper case
    """
    return fetch_site == "cross-site" and (samesite == "Strict" or (samesite != "None" and method not in _SAFE_METHODS))


def is_withheld_from_embedded(fetch_site: str | None, method: str, header: Header) -> bool:
    """Whether a request is another site's, so that it must not find the session of an app that is embedded.

    Browsers send its cookie with all that the page which embeds it asks for. Of that, only to show the app is allowed,
    as with Lax; what the app in the iframe then asks for itself is its own.

    :param fetch_site: as for :func:`is_withheld`
    :param header: gives a header of the request; None if there is none
    """
    if fetch_site is not None:
        return fetch_site == "cross-site" and (method not in _SAFE_METHODS or header("Sec-Fetch-Mode") != "navigate")
    origin = header("Origin")
    return origin is not None and not _is_host(origin, header("Host"))


def _is_host(origin: str, host: str | None) -> bool:
    try:
        name = urlsplit(origin).hostname
        return name is not None and name == urlsplit(f"//{host}").hostname
    except ValueError:  # It is no URL, and no browser's.
        return False


class CookieAdvisor:
    """Warns, once of each, where a page's cookie cannot come back, so that each request begins a session."""

    def __init__(self, cookie: SessionCookie) -> None:
        self._cookie = cookie
        self._has_warned_of_iframe = self._has_warned_of_http = False

    def look(self, header: Header, scheme: str) -> None:
        """Look at a request that came without the cookie.

        :param header: gives a header of it; None if there is none
        :param scheme: by which it came
        """
        if not self._has_warned_of_iframe and header("Sec-Fetch-Dest") == "iframe":
            self._look_at_iframe(header)
        if not self._has_warned_of_http and self._cookie.attributes.secure and scheme == "http":
            self._look_at_http(header)

    def _look_at_iframe(self, header: Header) -> None:
        attributes = self._cookie.attributes
        # Chromium says so where it sends Partitioned cookies alone.
        is_blocked = not attributes.partitioned and header("Sec-Fetch-Storage-Access") == "none"
        if header("Sec-Fetch-Site") == "cross-site" and (attributes.samesite != "None" or is_blocked):
            self._has_warned_of_iframe = True
            logger.warning(
                "A page of another site shows this app in an iframe, as Jupyter does, where browsers do not send the "
                "cookie %s (SameSite=%s). So each request begins a session of its own, and finds nothing that was "
                "stored before. Set UserStoreMiddleware(app, embedded=True), or USER_STORE_EMBEDDED = True.",
                attributes.name,
                attributes.samesite,
            )

    def _look_at_http(self, header: Header) -> None:
        # Browsers ask so for a page, and send Fetch Metadata wherever they keep Secure cookies: behind a proxy that
        # ends TLS, too, though the app sees http.
        if header("Upgrade-Insecure-Requests") == "1" and header("Sec-Fetch-Site") is None:
            self._has_warned_of_http = True
            logger.warning(
                "A browser asks for a page by plain http, but the cookie %s is Secure%s, so it does not keep it: each "
                "request begins a session of its own. Serve the app by https; on the browser's own machine, open it as "
                "localhost or 127.0.0.1.",
                self._cookie.attributes.name,
                ", which the iframes of other sites demand (embedded)" if self._cookie.attributes.embedded else "",
            )
