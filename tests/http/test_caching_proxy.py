"""No caching proxy, not even one that keeps what it should not, gives one visitor's page or cookie to another one.

nginx stands in front of gunicorn with a cache for everything. It has three manners: ``honest`` keeps to what responses
say; ``cookies`` keeps responses with Set-Cookie too, which is half of Flask's CVE-2023-30861; ``hours`` keeps each
response for an hour, whatever Cache-Control says. All of them heed Vary: one that heeds nothing can be told nothing.

Promises: docs/security.md, "Caches".
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path

import pytest
from servers import Port, gunicorn, running

APPS = Path(__file__).parents[1] / "support" / "apps"
TIMEOUT = 30
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin") or "nginx"

MANNERS = {
    "honest": "",
    "cookies": "proxy_ignore_headers Set-Cookie;",
    "hours": "proxy_ignore_headers Cache-Control Expires X-Accel-Expires;",
}

CONFIG = """
daemon off;
worker_processes 1;
user {user};
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {caches}
    server {{
        listen 127.0.0.1:{port};
        location = / {{ return 200; }}
        {locations}
    }}
}}
"""
CACHE = "proxy_cache_path {folder}/cache-{manner} keys_zone={manner}:1m;"
LOCATION = """
        location /{manner}/ {{
            proxy_pass http://127.0.0.1:{app_port}/;
            proxy_cache {manner};
            proxy_cache_valid any 1h;
            proxy_cache_methods GET HEAD;
            {ignored}
            add_header X-Cache $upstream_cache_status always;
        }}
"""


@dataclass
class Answer:
    text: str
    headers: HTTPMessage

    @property
    def is_from_cache(self) -> bool:
        return self.headers["X-Cache"] == "HIT"


class Browser:
    """Sends the cookies that it was given, through a proxy of some manner."""

    def __init__(self, port: int, manner: str) -> None:
        self.port = port
        self.manner = manner
        self.cookies: dict[str, str] = {}

    def get(self, path: str) -> Answer:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)) as connection:
            connection.request("GET", f"/{self.manner}{path}", headers=headers if self.cookies else {})
            response = connection.getresponse()
            answer = Answer(response.read().decode(), response.headers)
        assert response.status == 200, answer
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx in front of a gunicorn."""
    folder = tmp_path_factory.mktemp("proxy")
    app_port, port = Port(), Port()
    settings = {"FLASK_SECRET_KEY": "only for these tests", "FLASK_USER_STORE_URL": f"sqlite:///{folder}/store.sqlite"}
    config = folder / "nginx.conf"
    config.write_text(
        CONFIG.format(
            user=pwd.getpwuid(os.geteuid()).pw_name,
            folder=folder,
            port=port.number,
            caches="\n    ".join(CACHE.format(folder=folder, manner=manner) for manner in MANNERS),
            locations="".join(
                LOCATION.format(manner=manner, app_port=app_port.number, ignored=ignored)
                for manner, ignored in MANNERS.items()
            ),
        )
    )
    nginx = [NGINX, "-p", str(folder), "-e", "stderr", "-c", str(config)]
    command = gunicorn("cached_app:server", app_port.number, APPS)
    with running(command, app_port.number, folder, settings), running(nginx, port.number, folder):
        yield port.number
    port.close()
    app_port.close()


@pytest.fixture(params=MANNERS)
def manner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_proxies_do_keep_what_they_may(port: int, manner: str) -> None:
    texts = {Browser(port, manner).get("/public").text for _ in range(5)}
    assert len(texts) == 1
    assert Browser(port, manner).get("/public").is_from_cache


def test_the_proxy_that_keeps_cookies_gives_away_a_cookie_that_was_set_without_care(port: int) -> None:
    assert len({Browser(port, "cookies").get("/careless").text for _ in range(5)}) == 1


@pytest.mark.parametrize("path", ["/untouched", "/read", "/has", "/", "/_dash-layout", "/read-for-an-hour", "/public"])
def test_no_visitor_is_given_the_cookie_of_another(port: int, manner: str, path: str) -> None:
    given = [Browser(port, manner).get(path).headers.get_all("Set-Cookie", []) for _ in range(10)]
    cookies = [cookie for cookies in given for cookie in cookies]
    assert len(set(cookies)) == len(cookies)
    if path in {"/untouched", "/read", "/has", "/", "/_dash-layout"}:
        assert len(cookies) == 10


@pytest.mark.parametrize("path", ["/read", "/read-for-an-hour"])
def test_each_visitor_reads_what_it_has_written(port: int, manner: str, path: str) -> None:
    browsers = {f"{manner}-{path[1:]}-{number}": Browser(port, manner) for number in range(10)}
    for name, browser in browsers.items():
        assert browser.get(f"/write/{name}").text == name
    for _ in range(3):
        for name, browser in browsers.items():
            assert browser.get(path).text == name
    for _ in range(3):
        stranger = Browser(port, manner)
        assert stranger.get(path).text == "None"


def test_dashs_components_are_kept_and_bring_no_cookie(port: int, manner: str) -> None:
    page = Browser(port, manner).get("/").text
    path = page.partition('src="/_dash-component-suites')[2].partition('"')[0]
    answers = [Browser(port, manner).get(f"/_dash-component-suites{path}") for _ in range(2)]
    assert answers[1].is_from_cache
    assert [answer.headers["Set-Cookie"] for answer in answers] == [None, None]
