"""A request that is in flight until the test says so."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from http_visitor import Answer, Visitor

TIMEOUT = 30


class SlowRequest:
    """A request in flight: its view waits until :meth:`finish`."""

    def __init__(self, visitor: Visitor, path: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self._thread = ThreadPoolExecutor(1)
        self._answer = self._thread.submit(visitor.ask, "POST", path, self._listener.getsockname()[1])
        self._view = self._wait_for_its_view()

    def _wait_for_its_view(self) -> socket.socket:
        with self._listener:
            return self._listener.accept()[0]

    def finish(self) -> Answer:
        self._view.sendall(b".")
        return self._answer.result(TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._view.close()
        self._thread.shutdown()
