"""The middleware keeps to WSGI (PEP 3333) on both its sides, and cleans up when a response has been sent."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import apsw
import pytest
from dash import Dash, html
from flask import Flask, Response, g, redirect, request, send_file
from werkzeug.test import create_environ, run_wsgi_app

from flask_dash_store import UserStoreMiddleware

SECRET = "0123456789abcdef0123456789abcdef"

Headers = list[tuple[str, str]]


def make_app(wsgi_app: Any = None, url: str = "sqlite://:memory:", **options: Any) -> Flask:
    """An app with the middleware, around another WSGI app if one is given."""
    app = Flask("site")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL=url)
    if wsgi_app is not None:
        app.wsgi_app = wsgi_app  # type: ignore[method-assign]
    UserStoreMiddleware(app, cookie_eager=True, **options)
    return app


def call(app: Any, path: str = "/", method: str = "GET", **environ: Any) -> tuple[bytes, str, Headers]:
    """Call an app as a plain WSGI server does."""
    environ |= {"SCRIPT_NAME": "", "PATH_INFO": path, "REQUEST_METHOD": method, "QUERY_STRING": ""}
    environ["wsgi.file_wrapper"] = FileWrapper
    setup_testing_defaults(environ)
    started: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], Any]:
        started[:] = [status, headers]
        return written.append

    response = app(environ, start_response)
    try:
        written.extend(response)
    finally:
        if hasattr(response, "close"):
            response.close()
    return b"".join(written), *started


def set_cookies(headers: Headers) -> list[str]:
    return [value for name, value in headers if name == "Set-Cookie"]


# The validator on both sides

REQUESTS = [
    ("/text", "GET", "200 OK"),
    ("/text", "HEAD", "200 OK"),
    ("/text", "OPTIONS", "200 OK"),
    ("/stream", "GET", "200 OK"),
    ("/file", "GET", "200 OK"),
    ("/unchanged", "GET", "304 NOT MODIFIED"),
    ("/away", "GET", "302 FOUND"),
    ("/nowhere", "GET", "404 NOT FOUND"),
    ("/text", "DELETE", "405 METHOD NOT ALLOWED"),
    ("/fails", "GET", "500 INTERNAL SERVER ERROR"),
    ("/form", "POST", "200 OK"),
    ("/destroy", "GET", "200 OK"),
]


def validated_app(tmp_path: Path) -> Any:
    app = Flask("site")
    app.config.update(SECRET_KEY=SECRET, USER_STORE_URL="sqlite://:memory:", PROPAGATE_EXCEPTIONS=False)
    (tmp_path / "file.txt").write_text("file")

    def stream() -> Response:
        g.user_store["n"] = 1
        return Response(iter(["a", "b"]))

    app.add_url_rule("/text", "text", lambda: str(g.user_store.increment("n")))
    app.add_url_rule("/stream", "stream", stream)
    app.add_url_rule("/file", "file", lambda: send_file(tmp_path / "file.txt"))
    app.add_url_rule("/unchanged", "unchanged", lambda: Response(status=304))
    app.add_url_rule("/away", "away", lambda: redirect("/text"))
    app.add_url_rule("/fails", "fails", lambda: str(1 // 0))
    app.add_url_rule("/form", "form", lambda: request.form["name"], methods=["POST"])
    app.add_url_rule("/destroy", "destroy", lambda: g.user_store.destroy() or "gone")
    app.wsgi_app = validator(app.wsgi_app)  # type: ignore[method-assign]
    UserStoreMiddleware(app, cookie_eager=True)
    return validator(app)


@pytest.mark.parametrize(("path", "method", "status"), REQUESTS)
def test_the_validator_of_wsgi_finds_no_fault_around_and_inside(
    tmp_path: Path, path: str, method: str, status: str
) -> None:
    app = validated_app(tmp_path)
    form = b"name=Ada" if method == "POST" else b""
    body = {
        "wsgi.input": io.BytesIO(form),
        "CONTENT_LENGTH": str(len(form)),
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
    }
    _, answered, headers = call(app, path, method, **body)
    assert answered == status
    [cookie] = set_cookies(headers)
    body["wsgi.input"] = io.BytesIO(form)
    _, answered, headers = call(app, path, method, HTTP_COOKIE=cookie.partition(";")[0], **body)
    assert (answered, len(set_cookies(headers))) == (status, path == "/destroy")


def test_the_validator_finds_no_fault_with_a_dash_app() -> None:
    server = Flask("board")
    server.config.update(SECRET_KEY=SECRET, USER_STORE_URL="sqlite://:memory:")
    app = Dash("board", server=server)
    app.layout = html.Div(id="whole")
    server.wsgi_app = validator(server.wsgi_app)  # type: ignore[method-assign]
    UserStoreMiddleware(app)
    for path in ("/", "/_dash-layout", "/_dash-dependencies"):
        assert call(validator(app), path)[1] == "200 OK"


# What a WSGI app may do


def test_an_app_that_starts_its_response_again_after_an_error_is_obeyed_and_sets_one_cookie() -> None:
    def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-Try", "1")])
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Oops", [("X-Try", "2"), ("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    body, status, headers = call(make_app(wsgi_app))
    assert (body, status, dict(headers)["X-Try"], len(set_cookies(headers))) == (b"sorry", "500 Oops", "2", 1)


def test_exc_info_reaches_the_server_and_what_the_server_raises_reaches_the_app() -> None:
    def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Oops", [], sys.exc_info())
        return [b""]

    def start_response_too_late(status: str, headers: Headers, exc_info: Any = None) -> Any:
        raise exc_info[1]

    with pytest.raises(ZeroDivisionError):
        make_app(wsgi_app)(create_environ(), start_response_too_late)


def test_an_app_may_write_and_its_list_of_headers_stays_its_own() -> None:
    own_headers = [("Content-Type", "text/plain")]

    def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", own_headers)(b"written, ")
        return [b"returned"]

    body, _, headers = call(make_app(wsgi_app))
    assert body == b"written, returned"
    assert len(set_cookies(headers)) == 1
    assert own_headers == [("Content-Type", "text/plain")]


@pytest.mark.parametrize("is_housekeeping_due", [False, True])
def test_a_generator_that_starts_the_response_when_it_is_first_asked_may(clock: Any, is_housekeeping_due: bool) -> None:
    def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"a"
        yield b"b"

    app = make_app(wsgi_app, clock=clock)
    clock.step(3600 * is_housekeeping_due)
    body, status, headers = call(app)
    assert (body, status, len(set_cookies(headers))) == (b"ab", "200 OK", 1)


@pytest.mark.parametrize("is_housekeeping_due", [False, True])
def test_a_file_is_sent_through_the_servers_wrapper(clock: Any, is_housekeeping_due: bool) -> None:
    file = io.BytesIO(b"x" * 100_000)

    def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](file)

    app = make_app(wsgi_app, clock=clock)
    clock.step(3600 * is_housekeeping_due)
    assert call(app)[0] == b"x" * 100_000
    assert file.closed


class Buffers:
    """A response body that counts how often it was closed."""

    def __init__(self) -> None:
        self.times_closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    def close(self) -> None:
        self.times_closed += 1


@pytest.mark.parametrize("is_housekeeping_due", [False, True])
def test_a_response_is_closed_once_even_when_it_fails_on_the_way(clock: Any, is_housekeeping_due: bool) -> None:
    body = Buffers()
    app = make_app(lambda environ, start_response: start_response("200 OK", []) and body, clock=clock)
    clock.step(3600 * is_housekeeping_due)
    with pytest.raises(ZeroDivisionError):
        call(app)
    assert body.times_closed == 1


def test_an_app_that_fails_before_it_answers_fails_as_without_the_middleware() -> None:
    with pytest.raises(ZeroDivisionError):
        call(make_app(lambda environ, start_response: 1 // 0))


# Maintenance


def test_what_has_expired_goes_in_small_batches_once_a_response_has_been_closed(clock: Any, tmp_path: Path) -> None:
    app = make_app(url=f"sqlite:///{tmp_path}/store.sqlite", clock=clock)
    app.add_url_rule("/", "index", lambda: "ok")
    middleware = app.extensions["user_store"]
    for user in range(1000):
        middleware.for_user(user, 60)["k"] = user
    database = apsw.Connection(f"{tmp_path}/store.sqlite")

    def rows() -> int:
        return database.execute('SELECT COUNT(*) FROM "values"').get

    clock.step(120)
    left = [rows()]
    while left[-1] and len(left) < 100:
        response, _, _ = run_wsgi_app(app, create_environ())
        assert b"".join(response) == b"ok"
        assert rows() == left[-1]
        response.close()
        left.append(rows())
        clock.step(120)
    assert left[0] == 1000
    assert left[-1] == 0
    batches = [before - after for before, after in itertools.pairwise(left)]
    assert 0 < max(batches) <= 250


def test_a_checkpoint_is_made_once_a_response_has_been_sent(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    app = make_app(url=f"sqlite:///{file}")

    @app.get("/")
    def write() -> str:
        g.user_store.update({str(n): bytes(100_000) for n in range(30)})
        return "ok"

    app.extensions["user_store"].opened()
    size = file.stat().st_size  # It grows with a checkpoint, and with nothing else.
    for _ in range(20):
        response, _, _ = run_wsgi_app(app, create_environ())
        assert b"".join(response) == b"ok"
        assert file.stat().st_size == size
        response.close()
        if file.stat().st_size > size:
            break
    assert 10_000_000 < file.stat().st_size < 30_000_000


def test_maintenance_that_fails_fails_no_request(clock: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(url=f"sqlite:///{tmp_path}/store.sqlite", clock=clock)
    app.add_url_rule("/", "index", lambda: "ok")
    app.extensions["user_store"].opened()
    database = apsw.Connection(f"{tmp_path}/store.sqlite")
    clock.step(3600)
    with database:  # Another writer has the lock: users come first.
        database.execute("INSERT INTO \"sessions\" (key, value) VALUES ('s.x', 0)")
        assert call(app)[0] == b"ok"
    assert caplog.messages == []
    clock.step(3600)
    database.execute('DROP TABLE "sessions"')
    assert call(app)[0] == b"ok"
    [message] = caplog.messages
    assert "could not remove expired values" in message
