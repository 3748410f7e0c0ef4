"""A gunicorn config: each worker has answered one request before it takes any other.

Dash prepares itself with the first request, and fails those that come meanwhile:
https://github.com/plotly/dash/issues/3971
"""

from __future__ import annotations

from typing import Any

from werkzeug.test import Client


def post_worker_init(worker: Any) -> None:
    Client(worker.wsgi).get("/")
