"""What a background callback of Dash is given, and whose its results are, in requests of one process.

Celery runs each job in the request that starts it (task_always_eager). tests/browser/test_background_callbacks.py has
the workers, and the pages.

Promises: docs/security.md, "Background callbacks".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from clocks import HandClock
from dash import CeleryManager, Dash, Input, Output, callback_context, html
from flask import g
from flask.testing import FlaskClient
from visits import SECRET, TTL
from werkzeug.test import TestResponse

from flask_dash_store import UserStoreMiddleware, user_store

Work = Callable[[], Any]

# Dash finds a background callback by its source and its output's id, in all apps of a process.
NUMBERS = itertools.count()


class App:
    """A Dash app with a background callback that does what a test hands it."""

    def __init__(
        self,
        folder: Path,
        cache_by: list[Work] | None = None,
        manager: type[CeleryManager] = CeleryManager,
        on_error: Callable[[Exception], Any] | None = None,
        url_base_pathname: str = "/",
        **options: Any,
    ) -> None:
        celery = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
        celery.conf.update(task_always_eager=True, task_store_eager_result=True)
        self.work: Work = lambda: None
        self.manager = manager(celery, cache_by)
        self.path = url_base_pathname
        self.dash = Dash(
            "shop",
            background_callback_manager=self.manager,
            on_error=on_error,
            url_base_pathname=url_base_pathname,
        )
        self.dash.server.secret_key = SECRET
        settings = {"url": f"sqlite:///{folder}/store.sqlite"} | options
        self.middleware = UserStoreMiddleware(self.dash, **settings)
        self.result = f"result-{next(NUMBERS)}"
        self.dash.layout = html.Div([html.Button(id="run"), html.Div(id=self.result)])
        self.dash.callback(Output(self.result, "children"), Input("run", "n_clicks"), background=True)(self._run)
        self.dash.server.add_url_rule("/values", "values", lambda: g.user_store.copy())
        self.dash.server.add_url_rule("/log-in", "log_in", lambda: str(g.user_store.regenerate(user_id="ada")))

    def _run(self, _: int) -> Any:
        return self.work()

    def visitor(self, path: str | None = None, result: str | None = None) -> Visitor:
        """A visitor of the app's page, or of another one of the server, which has another output."""
        return Visitor(self.dash.server.test_client(), path or self.path, result or self.result)


class Visitor:
    """A browser with a page that has one callback."""

    def __init__(self, client: FlaskClient, path: str, result: str) -> None:
        self.client = client
        self._path = path
        self._result = result

    def press(self) -> dict[str, str]:
        """Start a job. Returns what stands for it."""
        job = self.ask()
        return {name: job[name] for name in ("cacheKey", "job")}

    def result(self, job: dict[str, str]) -> Any:
        return self.ask(**job)["response"][self._result]["children"]

    def ask(self, **query: str) -> Any:
        response = self.send(**query)
        assert response.status_code == 200, response.text
        return response.json

    def send(self, **query: str) -> TestResponse:
        body = {
            "output": f"{self._result}.children",
            "outputs": {"id": self._result, "property": "children"},
            "inputs": [{"id": "run", "property": "n_clicks", "value": 1}],
            "changedPropIds": ["run.n_clicks"],
        }
        return self.client.post(f"{self._path}_dash-update-component", json=body, query_string=query)

    def values(self) -> Any:
        return self.client.get("/values").json


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., App]]:
    apps: list[App] = []

    def make(*arguments: Any, folder: Path = tmp_path, **options: Any) -> App:
        apps.append(App(folder, *arguments, **options))
        return apps[-1]

    yield make
    for app in apps:
        app.middleware.close()


def name_visitor(app: App, name: str) -> Visitor:
    visitor = app.visitor()
    app.work = lambda: user_store.update(name=name)
    visitor.press()
    return visitor


# Results


CACHE_BY = [None, [lambda: "the same for all"]]


def start_one_job_each(app: App) -> list[tuple[Visitor, dict[str, str]]]:
    visitors = [name_visitor(app, name) for name in ("ada", "bob")]
    app.work = lambda: user_store["name"]
    return [(visitor, visitor.press()) for visitor in visitors]


@pytest.mark.parametrize("cache_by", CACHE_BY)
def test_each_visitor_has_results_of_their_own(make_app, cache_by) -> None:
    jobs = start_one_job_each(make_app(cache_by))
    assert [visitor.result(job) for visitor, job in jobs] == ["ada", "bob"]


@pytest.mark.parametrize("cache_by", CACHE_BY)
def test_an_app_can_share_results_as_dash_does(make_app, cache_by) -> None:
    (ada, job), _ = start_one_job_each(make_app(cache_by, background_results="shared"))
    assert ada.result(job) == "bob"


def test_the_setting_has_two_values(make_app) -> None:
    with pytest.raises(ValueError, match=r"USER_STORE_BACKGROUND_RESULTS .* 'private' or 'shared'"):
        make_app(background_results="public")


def test_a_cached_result_is_found_again_until_a_login_and_by_no_id_that_was_planted_before_it(make_app) -> None:
    app = make_app([lambda: "the same for all"])
    ada = name_visitor(app, "ada")
    attacker = app.visitor()
    attacker.client.set_cookie("user_store", ada.client.get_cookie("user_store").value)
    app.work = lambda: "before the login"
    job = attacker.press()
    assert ada.press()["cacheKey"] == job["cacheKey"]
    ada.client.get("/log-in")
    app.work = lambda: "after the login"
    assert ada.result(ada.press()) == "after the login"
    assert attacker.result(job) == "before the login"


# What a job is


def test_a_job_finds_its_visitors_store_and_not_the_request_it_was_started_in(make_app) -> None:
    app = make_app()
    visitor = app.visitor()

    def work() -> str:
        assert user_store.session_id is None
        assert g.user_store.session_id is None
        with app.dash.server.test_request_context():
            user_store["from"] = "a request that the job has made"
        return str(user_store["from"])

    app.work = work
    assert visitor.result(visitor.press()) == "a request that the job has made"
    assert visitor.values() == {"from": "a request that the job has made"}


class _BrokenManager(CeleryManager):
    """As a library's own manager, when its broker does not answer."""

    def call_job_fn(self, key: str, job_fn: Any, args: Any, context: Any) -> Any:
        raise ConnectionError


def test_where_a_job_could_not_be_started_the_request_has_its_own_store_again(make_app) -> None:
    found: list[Any] = []
    make_app(manager=_BrokenManager, on_error=lambda _: found.append(user_store.session_id)).visitor().send()
    assert len(found[0]) == 64


def test_each_of_two_apps_with_one_key_and_one_cookie_name_has_the_jobs_of_its_own(make_app, tmp_path: Path) -> None:
    apps = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        apps.append(make_app(folder=tmp_path / name))
    for app in apps:
        visitor = app.visitor()
        app.work = lambda: user_store.increment("count")
        assert visitor.result(visitor.press()) == 1
        assert visitor.values() == {"count": 1}


def test_a_job_is_given_all_cookies_and_headers_but_that_of_the_session(make_app) -> None:
    app = make_app()
    visitor = app.visitor()
    visitor.press()
    cookie = visitor.client.get_cookie("user_store")
    visitor.client.set_cookie("theme", "dark")
    visitor.client.set_cookie("user_store", "another of its name", path="/_dash-update-component")
    app.work = lambda: [dict(callback_context.cookies), dict(callback_context.headers)]
    cookies, headers = visitor.result(visitor.press())
    assert cookies == {"theme": "dark"}
    assert headers["Cookie"] == "theme=dark"
    assert headers["Content-Type"] == "application/json"
    assert cookie.value not in str(headers)


def test_a_callback_outside_of_the_cookies_path_runs_without_a_store(make_app) -> None:
    app = make_app(url_base_pathname="/first/")
    second = Dash("second", server=app.dash.server, url_base_pathname="/second/")
    second.layout = app.dash.layout
    second.callback(Output("done", "children"), Input("run", "n_clicks"), background=True, manager=app.manager)(
        lambda _: "done"
    )
    visitor = app.visitor("/second/", "done")
    assert visitor.result(visitor.press()) == "done"


def test_a_manager_that_no_visitor_uses_is_left_as_it_is(make_app) -> None:
    kind = type(CeleryManager(Celery("other", broker="memory://", backend="cache+memory://", set_as_current=False)))
    visitor = make_app().visitor()
    visitor.press()
    assert kind is CeleryManager


# Use


def test_polls_and_jobs_keep_no_session_alive_though_the_app_looks_at_the_store_in_each_request(
    make_app, clock: HandClock
) -> None:
    app = make_app(clock=clock, ttl=TTL)
    app.dash.server.before_request(lambda: user_store.get("user") and None)
    visitor = app.visitor()
    app.work = lambda: user_store.update(user="ada")
    job = visitor.press()
    clock.step(TTL * 0.6)
    visitor.ask(**job)
    clock.step(TTL * 0.6)
    assert visitor.values() == {}


def test_to_start_a_job_is_a_use(make_app, clock: HandClock) -> None:
    app = make_app(clock=clock, ttl=TTL)
    visitor = name_visitor(app, "ada")
    app.work = lambda: None
    clock.step(TTL * 0.6)
    visitor.press()
    clock.step(TTL * 0.6)
    assert visitor.values() == {"name": "ada"}


def test_what_says_cachekey_elsewhere_is_a_use(make_app, clock: HandClock) -> None:
    app = make_app(clock=clock, ttl=TTL)
    visitor = name_visitor(app, "ada")
    clock.step(TTL * 0.6)
    visitor.client.get("/values?cacheKey=1")
    clock.step(TTL * 0.6)
    assert visitor.values() == {"name": "ada"}
