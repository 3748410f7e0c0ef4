"""A Dash app with background callbacks on Diskcache and on Celery, sync ones, and async ones with a cache of results.

It is also what Celery's worker loads, and what a spawned job imports. Its settings come from the environment: a folder
for what is stored, and the socket of Redis.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import multiprocess
from celery import Celery
from dash import CeleryManager, Dash, DiskcacheManager, Input, Output, State, callback, ctx, html, set_props
from flask import g, request
from forkable_cache import ForkableCache

from flask_dash_store import OutsideRequest, UserStoreMiddleware, is_available, user_store, visitor

FOLDER = Path(os.environ["BACKGROUND_FOLDER"])
REDIS = f"redis+socket://{os.environ['BACKGROUND_REDIS']}"
TIMEOUT = 60

celery = Celery("background_app", broker=REDIS, backend=REDIS)
cache = ForkableCache(str(FOLDER / "cache"))
app = Dash("background_app", background_callback_manager=DiskcacheManager(cache))
app.server.secret_key = os.environ.get("BACKGROUND_SECRET", "only for tests, where no one is to be kept out")
if "BACKGROUND_WITHOUT_STORE" not in os.environ:
    UserStoreMiddleware(app, url=os.environ.get("BACKGROUND_STORE", f"sqlite:///{FOLDER}/store.sqlite"))

# Made after the middleware, as any library might do.
cached_on_disk = DiskcacheManager(cache, cache_by=[lambda: "the same for all"])
on_celery = CeleryManager(celery)
cached_on_celery = CeleryManager(celery, cache_by=[lambda: "the same for all"])

REPORTS = ["disk", "disk-cached", "celery", "celery-cached", "error"]
TOURS = ["tour-disk", "tour-celery"]

app.layout = html.Div(
    [
        html.Button("Show what is stored", id="show"),
        html.Pre(id="stored"),
        *(each for name in REPORTS for each in (html.Button(name, id=f"run-{name}"), html.Pre(id=name))),
        *(
            each
            for name in TOURS
            for each in (
                html.Button(name, id=f"run-{name}"),
                html.Button("cancel", id=f"cancel-{name}"),
                html.Progress(id=f"progress-{name}", value="0", max="2"),
                html.Div("", id=f"state-{name}"),
                html.Div("", id=f"note-{name}"),
                html.Pre(id=name),
            )
        ),
    ]
)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < deadline, "Nothing happened."
        time.sleep(0.01)


def error_of(call: Callable[[], Any]) -> str | None:
    try:
        call()
    except OutsideRequest as error:
        return type(error).__name__
    return None


def report() -> str:
    """What a job finds of its visitor; it ends when the test lets all of them go on."""
    user_store.increment("jobs")
    wait_until((FOLDER / "go").exists)
    with app.server.app_context():
        on_g = g.user_store["name"]
    with app.server.test_request_context():
        in_a_request = user_store["name"]
    found = {
        "name": user_store["name"],
        "on g": on_g,
        "in a request": in_a_request,
        "is_available": is_available(),
        "visitor": visitor(),
        "session_id": user_store.session_id,
        "regenerate": error_of(user_store.regenerate),
        "destroy": error_of(user_store.destroy),
        "cookies": dict(ctx.cookies),
        "header": ctx.headers.get("Cookie"),
    }
    user_store["report"] = found["name"]
    return json.dumps(found)


@callback(Output("disk", "children"), Input("run-disk", "n_clicks"), background=True, prevent_initial_call=True)
def report_on_disk(_: int) -> str:
    return report()


@callback(
    Output("disk-cached", "children"),
    Input("run-disk-cached", "n_clicks"),
    background=True,
    manager=cached_on_disk,
    prevent_initial_call=True,
)
async def report_cached_on_disk(_: int) -> str:
    return report()


@callback(
    Output("celery", "children"),
    Input("run-celery", "n_clicks"),
    background=True,
    manager=on_celery,
    prevent_initial_call=True,
)
def report_on_celery(_: int) -> str:
    return report()


@callback(
    Output("celery-cached", "children"),
    Input("run-celery-cached", "n_clicks"),
    background=True,
    manager=cached_on_celery,
    prevent_initial_call=True,
)
async def report_cached_on_celery(_: int) -> str:
    return report()


@callback(
    Output("error", "children"),
    Input("run-error", "n_clicks"),
    background=True,
    on_error=str,
    prevent_initial_call=True,
)
def use_the_store(_: int) -> str:
    return str(user_store["name"])


def tour(name: str, set_progress: Callable[[Any], None]) -> str:
    """It goes on by a step each time that the visitor has shown what is stored."""
    for step in (1, 2):
        user_store["step"] = step  # Before the page is told, which may ask at once.
        set_progress(str(step))
        set_props(f"note-{name}", {"children": f"step {step}"})
        wait_until(lambda step=step: user_store.get("shown", 0) >= step)  # type: ignore[misc]
    return f"after {user_store['shown']}"


def tour_options(name: str) -> dict[str, Any]:
    return {
        "output": Output(name, "children"),
        "inputs": [Input(f"run-{name}", "n_clicks")],
        "background": True,
        "progress": Output(f"progress-{name}", "value"),
        "running": [(Output(f"state-{name}", "children"), "running", "ready")],
        "cancel": Input(f"cancel-{name}", "n_clicks"),
        "interval": 100,
        "prevent_initial_call": True,
    }


@callback(**tour_options("tour-disk"))
def tour_on_disk(set_progress: Callable[[Any], None], _: int) -> str:
    return tour("tour-disk", set_progress)


@callback(**tour_options("tour-celery"), manager=on_celery)
def tour_on_celery(set_progress: Callable[[Any], None], _: int) -> str:
    return tour("tour-celery", set_progress)


@callback(Output("stored", "children"), Input("show", "n_clicks"), State("stored", "children"))
def show(clicks: int | None, _: str | None) -> str:
    """What the visitor's requests find."""
    if not clicks:
        return ""
    user_store["shown"] = step = user_store.get("step", 0)
    return f"step {step}"


@app.server.post("/name/<name>")
def set_name(name: str) -> str:
    g.user_store["name"] = name
    return visitor()


@app.server.get("/values")
def values() -> dict[str, Any]:
    return dict(g.user_store)


@app.server.post("/log-in/<user>")
def log_in(user: str) -> str:
    g.user_store.regenerate(user_id=user)
    g.user_store["name"] = user
    return ""


@app.server.post("/start-method/<method>")
def set_start_method(method: str) -> str:
    """How Diskcache's manager starts the jobs of this process from now on, and with which environment."""
    multiprocess.set_start_method(method, force=True)
    for name in [*os.environ]:
        if name in ("BACKGROUND_SECRET", "BACKGROUND_WITHOUT_STORE", "BACKGROUND_STORE"):
            del os.environ[name]
    os.environ.update(request.args.to_dict())
    return method


server = app.server
