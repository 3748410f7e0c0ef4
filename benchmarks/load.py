"""Visitors of a server over HTTP, and how fast it answers them.

The load generator is our own, for a kept-alive connection stays with the worker that accepted it. The kernel may give
most of them to one worker, which makes a server look half as fast; here each worker is given as many.
"""

import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from .servers import WORKERS

TIMEOUT = 30.0


class Visitor:
    """A connection that is kept alive, and the cookies that came over it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fileno = self._socket.fileno
        self.cookies: dict[str, str] = {}

    def get(self, path: str) -> bytes:
        self.send(path)
        return self.receive()

    def send(self, path: str) -> None:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode())

    def receive(self) -> bytes:
        """The body of the answer, which must be 200; its cookies are kept."""
        answer, end = b"", 0
        while not end or len(answer) < end:
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionError("the server closed the connection")
            answer += received
            if not end and b"\r\n\r\n" in answer:
                end = self._read_head(answer.partition(b"\r\n\r\n")[0].decode("latin-1"))
        return answer.partition(b"\r\n\r\n")[2]

    def _read_head(self, head: str) -> int:
        """The length of the whole answer."""
        status, *headers = head.split("\r\n")
        if status != "HTTP/1.1 200 OK":
            raise RuntimeError(f"the server answered {status}")
        fields = [header.partition(": ") for header in headers]
        for cookie in (value for name, _, value in fields if name == "Set-Cookie"):
            name, _, text = cookie.partition(";")[0].partition("=")
            self.cookies[name] = text
        return len(head) + 4 + int(next(value for name, _, value in fields if name == "Content-Length"))


def new_visitors(port: int, count: int) -> list[Visitor]:
    """So many visitors who have started, as many of them with each worker."""
    deadline = time.monotonic() + TIMEOUT
    workers: dict[bytes, list[Visitor]] = defaultdict(list)
    while len(workers) < WORKERS or min(map(len, workers.values())) < count // WORKERS:
        if time.monotonic() > deadline:
            raise TimeoutError("the connections could not be spread over the workers")
        visitor = Visitor(port)
        workers[visitor.get("/start")].append(visitor)
    chosen = [visitor for each in workers.values() for visitor in each[: count // WORKERS]]
    for visitor in chosen:
        visitor.get("/begin")
    return chosen


def requests_per_second(visitors: Sequence[Visitor], path: str, seconds: float) -> float:
    """Closed loop: each visitor sends its next request when it has the answer to the last one."""
    done, taken, started = 0, 0.0, time.perf_counter()
    for visitor in visitors:
        visitor.send(path)
    while taken < seconds:
        ready, _, _ = select.select(visitors, [], [], TIMEOUT)
        if not ready:
            raise TimeoutError("the server does not answer")
        for visitor in ready:
            visitor.receive()
            visitor.send(path)
        done += len(ready)
        taken = time.perf_counter() - started
    for visitor in visitors:
        visitor.receive()
    return done / taken


def latencies(visitors: Sequence[Visitor], path: str, rate: float, over: threading.Event) -> list[float]:
    """Open loop: requests are due at fixed times, so many per second, whatever the server does.

    A latency counts from when its request was due, so that a server that stalls cannot hide it by being asked less.
    """
    interval = len(visitors) / rate

    def run(visitor: Visitor) -> list[float]:
        found = []
        due = time.perf_counter()
        while not over.is_set():
            due += interval
            time.sleep(max(0.0, due - time.perf_counter()))
            visitor.get(path)
            found.append(time.perf_counter() - due)
        return found

    with ThreadPoolExecutor(len(visitors)) as threads:
        return [latency for each in threads.map(run, visitors) for latency in each]
