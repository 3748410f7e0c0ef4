"""What of a browser a measurement over HTTP needs: a new visitor, and the cookies that he is given."""

from __future__ import annotations

from http.client import HTTPConnection
from http.cookies import SimpleCookie

TIMEOUT = 30.0


class Browser:
    """One visitor of the server at a port. Of two answers that set one cookie, the later one wins, as it does there."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cookies: dict[str, str] = {}

    @property
    def cookie(self) -> str:
        """The Cookie header that it sends now."""
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def get(self, path: str) -> bytes:
        """The body of the answer.

        :raises RuntimeError: when it is not 200
        """
        connection = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        try:
            connection.request("GET", path, headers={"Cookie": self.cookie} if self._cookies else {})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path} was answered with {answer.status}")
        for header in answer.headers.get_all("Set-Cookie", []):
            for name, morsel in SimpleCookie(header).items():
                self._cookies[name] = morsel.value
        return body


def new_visitors(port: int, count: int) -> list[str]:
    """The Cookie headers of so many visitors who have started."""
    browsers = [Browser(port) for _ in range(count)]
    for browser in browsers:
        browser.get("/start")
    return [browser.cookie for browser in browsers]
