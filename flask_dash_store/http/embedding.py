"""Apps in an iframe on other sites, as in Jupyter: which requests may use their session, and which warnings help.

Two pages are same-site if their scheme and registrable domain are the same; the port does not matter. So a notebook on
``localhost`` and an app on ``127.0.0.1`` are different sites. In such an iframe, browsers neither send nor keep cookies
with SameSite=Lax or Strict, and many of them only keep Partitioned ones
(https://developer.mozilla.org/docs/Web/Privacy/Guides/Privacy_sandbox/Partitioned_cookies).

Browsers tell a server where a request comes from in Fetch Metadata headers (https://www.w3.org/TR/fetch-metadata/),
which scripts cannot set. They send them only to https and to localhost, where they also keep Secure cookies. Chromium
sends none with a websocket request, but every browser sends the page's Origin with that (RFC 6455, 4.1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from .cookie import SessionCookie

logger = logging.getLogger("flask_dash_store")

Header = Callable[[str], str | None]

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")


def is_withheld(samesite: str | None, method: str, header: Header) -> bool:
    """Whether SameSite keeps the browser from sending the cookie with this request from another site.

    :param samesite: None, which browsers treat as Lax, or the attribute
    :param method: in upper case
    :param header: returns a header of the request; None if there is none
    """
    is_sent = samesite == "None" or (samesite != "Strict" and method in _SAFE_METHODS)
    return not is_sent and header("Sec-Fetch-Site") == "cross-site"


def is_withheld_from_embedded(method: str, header: Header) -> bool:
    """Whether an embedded app must ignore the cookie, because the request comes from another site.

    Browsers send the cookie with every request of the embedding page. Only the navigation that shows the app is
    allowed, as with Lax. Requests of the app in the iframe are same-site.

    :param method: in upper case
    :param header: returns a header of the request; None if there is none
    """
    fetch_site = header("Sec-Fetch-Site")
    if fetch_site is not None:
        return fetch_site == "cross-site" and (method not in _SAFE_METHODS or header("Sec-Fetch-Mode") != "navigate")
    origin = header("Origin")
    return origin is not None and not _is_host(origin, header("Host"))


def _is_host(origin: str, host: str | None) -> bool:
    try:
        name = urlsplit(origin).hostname
        return name is not None and name == urlsplit(f"//{host}").hostname
    except ValueError:  # Not a URL, so not from a browser.
        return False


class CookieAdvisor:
    """Warns, once each, if the browser cannot send the cookie back, so that each request begins a session."""

    def __init__(self, cookie: SessionCookie) -> None:
        self._cookie = cookie
        self._has_warned_of_iframe = self._has_warned_of_http = False

    def check(self, header: Header, scheme: str) -> None:
        """Check a request that came without the cookie.

        :param header: returns a header of the request; None if there is none
        :param scheme: the scheme of the request
        """
        if not self._has_warned_of_iframe and header("Sec-Fetch-Dest") == "iframe":
            self._check_iframe(header)
        if not self._has_warned_of_http and self._cookie.attributes.secure and scheme == "http":
            self._check_http(header)

    def _check_iframe(self, header: Header) -> None:
        attributes = self._cookie.attributes
        # Chromium sends this if it only sends Partitioned cookies.
        is_blocked = not attributes.partitioned and header("Sec-Fetch-Storage-Access") == "none"
        if header("Sec-Fetch-Site") == "cross-site" and (attributes.samesite != "None" or is_blocked):
            self._has_warned_of_iframe = True
            logger.warning(
                "A page of another site shows this app in an iframe, as Jupyter does. There, browsers do not send the "
                "cookie %s (SameSite=%s), so each request begins a new session and finds nothing that was stored "
                "before. Set UserStoreMiddleware(app, embedded=True), or USER_STORE_EMBEDDED = True.",
                attributes.name,
                attributes.samesite,
            )

    def _check_http(self, header: Header) -> None:
        # A browser requests a page, and without Fetch Metadata. So it does not keep Secure cookies here. Behind a proxy
        # that ends TLS it would send them, although the app sees http.
        if header("Upgrade-Insecure-Requests") == "1" and header("Sec-Fetch-Site") is None:
            self._has_warned_of_http = True
            logger.warning(
                "A browser requested a page over plain http, but the cookie %s is Secure%s, so the browser does not "
                "keep it, and each request begins a new session. Serve the app over https, or open it as localhost or "
                "127.0.0.1 on the same machine.",
                self._cookie.attributes.name,
                ", which iframes on other sites require (embedded)" if self._cookie.attributes.embedded else "",
            )
