"""A response that the server has sent, and that is lost on its way to the browser."""

from __future__ import annotations

from http.client import HTTPConnection
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route


def click_and_lose_the_response(page: Page, button: str, path: str) -> None:
    """Click a button that posts to a path. The server does what it asks, and the browser shows its own error page."""
    page.route(f"**{path}", _lose_the_response, times=1)
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name=button).click()
    page.wait_for_url("chrome-error://**")  # Chromium's own page, whose navigation would interrupt the next one.


def _lose_the_response(route: Route) -> None:
    url = urlsplit(route.request.url)
    connection = HTTPConnection(url.netloc)
    connection.request("POST", url.path, route.request.post_data_buffer, route.request.all_headers())
    assert connection.getresponse().status == 303
    connection.close()
    route.abort("connectionreset")
