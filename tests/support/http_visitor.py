"""A visitor who speaks plain HTTP and keeps the cookie, from any number of threads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from servers import connection_to

TIMEOUT = 30
THREADS = 8
NOTHING = object()


@dataclass
class Answer:
    status: int
    set_cookie: str | None
    body: dict[str, Any]


class Visitor:
    """``cookie`` is the value of the session's cookie, which the next request carries, and ``name`` its name.

    ``others`` are cookies that it carries beside it.
    """

    def __init__(self, port: int | Path, cookie: str | None = None, name: str = "user_store", others: str = "") -> None:
        self.port = port
        self.cookie = cookie
        self.name = name
        self.others = others

    def ask(self, method: str, path: str, value: Any = NOTHING) -> Answer:
        """Send one request, on a connection of its own, so that any worker may take it."""
        response, text = self._send(method, path, value)
        return Answer(response.status, response.getheader("Set-Cookie"), json.loads(text))

    def request(self, method: str, path: str, value: Any = NOTHING) -> tuple[int, str]:
        """The status and the text of an answer that need not be JSON."""
        response, text = self._send(method, path, value)
        return response.status, text

    def _send(self, method: str, path: str, value: Any) -> tuple[HTTPResponse, str]:
        cookies = [self.others] if self.others else []
        if self.cookie is not None:
            cookies.append(f"{self.name}={self.cookie}")
        headers = {"Cookie": "; ".join(cookies)} if cookies else {}
        body = None
        if value is not NOTHING:
            headers["Content-Type"] = "application/json"
            body = json.dumps(value)
        with closing(connection_to(self.port, TIMEOUT)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
        set_cookie = response.getheader("Set-Cookie")
        if set_cookie:
            self.cookie = set_cookie.partition(";")[0].removeprefix(f"{self.name}=")
        return response, text

    def do(self, method: str, path: str, value: Any = NOTHING) -> dict[str, Any]:
        """Send a request that must succeed, and return what it answers."""
        answer = self.ask(method, path, value)
        assert answer.status == 200, answer
        return answer.body

    def values(self) -> Any:
        return self.do("GET", "/")["values"]


def ask_both_workers(visitor: Visitor, method: str, path: str, value: Any = NOTHING) -> list[Answer]:
    """Send a request again and again, in parallel, until both workers have answered it."""
    answers: list[Answer] = []
    deadline = time.monotonic() + TIMEOUT
    with ThreadPoolExecutor(THREADS) as threads:
        while time.monotonic() < deadline:
            answers += threads.map(lambda _: visitor.ask(method, path, value), range(THREADS))
            if len({answer.body["worker"] for answer in answers}) == 2:
                return answers
    raise AssertionError("only one worker answers")


def in_parallel(work: Callable[[int], Any]) -> list[Any]:
    """The results of eight threads, which are given their numbers."""
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(work, range(THREADS)))
