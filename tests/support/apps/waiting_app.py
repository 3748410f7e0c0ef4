"""The module ``app`` that the test has put on the path, whose callbacks wait until the test lets them go on."""

from __future__ import annotations

import os
import socket

from app import server
from flask import request

__all__ = ["server"]

TIMEOUT = 30


@server.before_request
def wait_in_callbacks() -> None:
    """Tell the test that a callback's request is here, and wait for its answer."""
    if request.path == "/_dash-update-component":
        with socket.create_connection(("127.0.0.1", int(os.environ["TEST_LISTENS_ON"])), timeout=TIMEOUT) as test:
            test.recv(1)
