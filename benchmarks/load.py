"""A load generator of our own, in a process of its own: ``python -m benchmarks.load --port 8000 ...``.

Closed loop: each connection sends its next request when it has the answer to the last one. With ``--rate`` it is
open instead: requests are due at fixed times whatever the server does, and a latency counts from when its request was
due, so that a server that stalls cannot hide it by being asked less. It stops after ``--seconds``, or when its
standard input is closed. It prints a line when it starts, and at the end what it counted, as JSON.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import threading
import time
from itertools import cycle

TIMEOUT = 30.0


class Connection(threading.Thread):
    """One connection that is kept alive, and its requests."""

    def __init__(self, port: int, path: str, cookies: list[str], interval: float | None, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = cycle(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode() for cookie in cookies
        )
        self._interval = interval
        self._over = over
        self.latencies: list[float] = []
        self.errors: list[str] = []

    def run(self) -> None:
        try:
            due = time.perf_counter()
            while not self._over.is_set():
                if self._interval is None:
                    due = time.perf_counter()
                else:
                    due += self._interval
                    time.sleep(max(0.0, due - time.perf_counter()))
                self._request()
                self.latencies.append(time.perf_counter() - due)
        except OSError as error:
            self.errors.append(repr(error))

    def _request(self) -> None:
        self._socket.sendall(next(self._requests))
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._receive()
        length = next(
            int(line.partition(b":")[2])
            for line in answer[:end].split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        if not answer.startswith(b"HTTP/1.1 200"):
            self.errors.append(answer.split(b"\r\n", 1)[0].decode("latin-1"))
        while len(answer) < end + 4 + length:
            answer += self._receive()

    def _receive(self) -> bytes:
        received = self._socket.recv(65536)
        if not received:
            raise ConnectionError("the server closed the connection")
        return received


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--cookie", action="append", required=True, help="a visitor's Cookie header")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rate", type=float, help="requests per second of all connections together")
    options = parser.parse_args()

    over = threading.Event()
    interval = options.connections / options.rate if options.rate else None
    count = len(options.cookie)
    connections = [
        Connection(
            options.port,
            options.path,
            [options.cookie[(number + turn) % count] for turn in range(count)],
            interval,
            over,
        )
        for number in range(options.connections)
    ]
    started = time.perf_counter()
    for connection in connections:
        connection.start()
    print("started", flush=True)
    select.select([sys.stdin], [], [], options.seconds)
    over.set()
    for connection in connections:
        connection.join(TIMEOUT)
    result = {
        "seconds": time.perf_counter() - started,
        "latencies": [latency for connection in connections for latency in connection.latencies],
        "errors": [error for connection in connections for error in connection.errors],
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
