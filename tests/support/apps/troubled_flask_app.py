"""examples/flask_app.py on a server in trouble: what a request's headers ask for happens to what it posts.

``Takes`` is how many milliseconds the check of a password takes; ``Fails`` is ``view`` or ``teardown``, which raises
after the view has done its work.
"""

from __future__ import annotations

import time
from typing import Any

from flask import request
from flask_app import server

__all__ = ["server"]

log_in = server.view_functions["log_in"]


@server.before_request
def take_time() -> None:
    if request.method == "POST":
        time.sleep(int(request.headers.get("Takes", "0")) / 1000)


def log_in_and_fail(**arguments: Any) -> Any:
    response = log_in(**arguments)
    if request.headers.get("Fails") == "view":
        raise ZeroDivisionError
    return response


server.view_functions["log_in"] = log_in_and_fail


@server.teardown_request
def fail(_: BaseException | None) -> None:
    if request.method == "POST" and request.headers.get("Fails") == "teardown":
        raise ZeroDivisionError
