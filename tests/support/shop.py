"""A small app with the middleware, to which a test adds an extension; and browsers that use it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from visits import SECRET
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from flask_dash_store import UserStoreMiddleware


def make_shop(flask_session: bool = True, **config: Any) -> Flask:
    """An app whose stores are in memory, and ``flask.session`` in them or in Flask's own cookie."""
    app = Flask("shop")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="memory://", TESTING=True)
    app.config.update(config)
    UserStoreMiddleware(app, flask_session=flask_session)
    return app


def twin(client: FlaskClient) -> FlaskClient:
    """Another request of the same browser, or a thief: a client with the cookies that this one has now."""
    other = client.application.test_client()
    for name in ("session", "user_store", "remember_token"):
        cookie = client.get_cookie(name)
        if cookie is not None:
            other.set_cookie(name, cookie.value)
    return other


def in_flight(client: FlaskClient, method: str, path: str, **options: Any) -> TestResponse:
    """Make a request of the same browser while a view handles another one, in a context of its own as on a server."""
    return Context().run(twin(client).open, path, method=method, **options)


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """The URL of a real server of the app, with a thread for each request."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
