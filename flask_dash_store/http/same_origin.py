"""Whether a request comes from the app's own page, and not from a page of another site (CSRF)."""

from __future__ import annotations

from werkzeug.sansio.request import Request


def is_same_origin(request: Request) -> bool:
    """Whether the app's own page asks. Browsers that do not trust the address say only the origin."""
    fetch_site = request.headers.get("Sec-Fetch-Site")
    if fetch_site is not None:
        return fetch_site == "same-origin"
    # Not host_url, which has the letters of an internationalized name: browsers send its punycode, as in Host.
    return request.headers.get("Origin") == f"{request.scheme}://{request.host}"
