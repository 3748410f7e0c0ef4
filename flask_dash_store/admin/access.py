"""Who gets an answer of the admin page, and what browsers may do with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from flask import Response, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from ..http.same_origin import is_same_origin

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

logger = logging.getLogger("flask_dash_store")


def is_let_in(allow: Callable[[], object]) -> bool:
    """Whether the present request may have an answer: ``allow`` says True, and the page itself has sent it.

    :param allow: what the app has given
    :raises HTTPException: what ``allow`` raises, as by ``flask.abort``
    """
    return _is_allowed(allow) and _is_own_request()


def _is_allowed(allow: Callable[[], object]) -> bool:
    try:
        answer = allow()
    except HTTPException:
        raise
    except Exception:
        logger.exception("The function allow= of the admin page failed, so the request was refused.")
        return False
    if answer is not True and answer is not False and answer is not None:
        logger.warning(
            "The function allow= of the admin page returned a %s, so the request was refused. It has to return True "
            "for those who may see the page.",
            type(answer).__name__,
        )
    return answer is True


def _is_own_request() -> bool:
    """Whether no other site's page can have sent it, whatever the SameSite of the app's cookies is.

    A form of another page cannot be JSON, and browsers say of every POST where it comes from.
    """
    return request.method in ("GET", "HEAD") or (request.is_json and is_same_origin(request))


def refusal() -> Response:
    """The answer to all others, which says nothing."""
    return Response("Forbidden", 403, mimetype="text/plain")


def _cache_control(response: Response) -> str:
    """The page's scripts stay in its browser. If a shared cache gave them out, ``allow`` would not have been asked."""
    if "ETag" in response.headers:
        return "private, no-cache"
    max_age = response.cache_control.max_age  # Dash gives one to scripts whose URL names their version.
    return f"private, max-age={max_age}" if max_age else "no-store"


class ProtectedResponse(Response):
    """An answer with headers that no function of the app's, such as Flask-Talisman's after each request, replaces."""

    kept_headers: dict[str, str]

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        headers = super().get_wsgi_headers(environ)
        for name, value in self.kept_headers.items():
            headers[name] = value
        return headers


def protect(response: Response, script_hashes: Sequence[str]) -> ProtectedResponse:
    """Have browsers and caches keep an answer to the one who asked, and run no scripts but the page's own.

    :param script_hashes: of the page's inline scripts
    """
    policy = [
        "default-src 'none'",
        f"script-src 'self' {' '.join(script_hashes)}",
        "style-src 'self' 'unsafe-inline'",  # Plotly's styles
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",  # A page around it could have the buttons clicked.
    ]
    response.headers.pop("Expires", None)
    protected = cast(ProtectedResponse, ProtectedResponse.force_type(response))
    protected.kept_headers = {
        "Cache-Control": _cache_control(response),
        "Content-Security-Policy": "; ".join(policy),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return protected
