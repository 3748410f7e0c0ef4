"""flask.session

What an app keeps of its visitors in `flask.session`: on this package with `flask_session=True`, in Flask's own cookie,
and on Flask-Session. A request in flight is one whose view makes another request of the same browser before it goes on.

"Keys" and "messages" are how many are left of those that eight requests in flight together set and flash, one each, of
a session that each of them has read. "Logged in" is 1 when a request that was in flight at the logout, and has set a
key after it, leaves the browser logged in. "Planted" is 1 when a cookie that the victim's browser had before the login
opens the victim's session after it. The times are of one thread that calls the app, as in "Requests, in process".
"""

from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial
from pathlib import Path

from flask import Flask, flash, get_flashed_messages, session
from flask.testing import FlaskClient

from .apps import FLASK_COOKIE, FLASK_SESSION_IN_FILES, FLASK_SESSION_ON_REDIS, OURS_IN_SESSION, SESSIONS, create
from .bench import Bench
from .measure import Label, Outcome, SecondsPerCall, Spread, Summary, ratio
from .peers import SECRET_KEY
from .requests_in_process import KINDS, prepare
from .results import Findings, Table

FLASK_SESSIONS = (FLASK_SESSION_ON_REDIS, FLASK_SESSION_IN_FILES)
NAMES = (OURS_IN_SESSION, FLASK_COOKIE, *FLASK_SESSIONS)
TOGETHER = 8


class Site:
    """An app whose views are in flight together, and its browsers."""

    def __init__(self, name: str, folder: Path) -> None:
        self.app = Flask("benchmark")
        self.app.secret_key = SECRET_KEY
        SESSIONS[name](self.app, folder)
        self._flights: list[tuple[FlaskClient, str, Callable[[], object]]] = []
        self.app.add_url_rule("/in-flight/<int:number>", "in-flight", self._fly)
        self.app.add_url_rule("/begin", "begin", lambda: str(session.setdefault("begun", True)))
        self.app.add_url_rule("/in", "in", lambda: str(session.update(_user_id="victim")))
        self.app.add_url_rule("/out", "out", lambda: str(session.pop("_user_id")))
        self.app.add_url_rule("/user", "user", lambda: session.get("_user_id", ""))
        self.app.add_url_rule("/keys", "keys", lambda: str(sum(key.startswith("key-") for key in session)))
        self.app.add_url_rule("/messages", "messages", lambda: str(len(get_flashed_messages())))

    def browser(self) -> FlaskClient:
        browser = self.app.test_client()
        browser.get("/begin")
        return browser

    def in_flight(self, browser: FlaskClient, until: str, change: Callable[[], object]) -> str:
        """The path of a view that changes the session it has read once the browser's other request is answered."""
        self._flights.append((browser, until, change))
        return f"/in-flight/{len(self._flights) - 1}"

    def _fly(self, number: int) -> str:
        browser, until, change = self._flights[number]
        read = str(dict(session))
        Context().run(browser.get, until)
        change()
        return read


def left_of(site: Site, what: str, change: Callable[[int], object]) -> float:
    """How much is left of what requests in flight together add."""
    browser, path = site.browser(), "/begin"
    for number in range(TOGETHER):
        path = site.in_flight(browser, path, partial(change, number))
    browser.get(path)
    return float(browser.get(what).text)


def is_logged_in_after_logout(site: Site) -> bool:
    browser = site.browser()
    browser.get("/in")
    browser.get(site.in_flight(browser, "/out", lambda: session.update(late=True)))
    return browser.get("/user").text == "victim"


def is_opened_by_planted_cookie(site: Site) -> bool:
    thief, victim = site.browser(), site.app.test_client()
    planted = thief.get_cookie("session")
    victim.set_cookie("session", planted.value if planted else "")
    victim.get("/in")
    return thief.get("/user").text == "victim"


def promises(name: str, folder: Path) -> list[float]:
    site = Site(name, folder)
    return [
        left_of(site, "/keys", lambda number: session.update({f"key-{number}": True})),
        left_of(site, "/messages", lambda number: flash(str(number))),
        is_logged_in_after_logout(site),
        is_opened_by_planted_cookie(site),
    ]


def measure(bench: Bench) -> Findings:
    kept = Table(
        f"What is left of {TOGETHER}, and who is logged in", "count", ["keys", "messages", "logged in", "planted"]
    )
    for name, numbers in bench.opened({name: partial(promises, name) for name in NAMES}).items():
        kept.add(name, *([number] for number in numbers))
    block, subjects = bench.choose(0.01, 0.05), {}
    for name in kept.rows:
        visitor = create(name, bench.inside(f"{name}, timed")).test_client()
        visitor.get("/start")
        visitor.get("/begin")
        cookie = visitor.get("/cookie").text
        for kind in KINDS:
            subjects[name, kind] = SecondsPerCall(prepare(visitor.application, cookie, f"/{kind}"), block)
    outcomes = bench.interleaved(subjects, bench.choose(7, 41))
    ours = kept.rows[OURS_IN_SESSION]
    return [kept, Table.of("A request", "µs", KINDS, outcomes)], {
        **{f"session_kept_{column}": number for column, number in zip(kept.columns, ours, strict=True)},
        **{f"session_{kind}": ratio(outcomes, (OURS_IN_SESSION, kind), (FLASK_COOKIE, kind)) for kind in KINDS},
        **{f"flask_session_{kind}": _times_slower(outcomes, kind) for kind in KINDS},
    }


def _times_slower(outcomes: Mapping[Label, Outcome], kind: str) -> Summary:
    """How many times the time of ours the faster backend of Flask-Session takes."""
    found = [ratio(outcomes, (name, kind), (OURS_IN_SESSION, kind)) for name in FLASK_SESSIONS]
    spreads = [each for each in found if isinstance(each, Spread)]
    return min(spreads) if spreads else found[0]
