"""A Dash app on FastAPI or Quart, as the environment says, with background callbacks whose jobs are spawned.

Jobs import this module, so it makes the app when it is imported.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import multiprocess
from dash import Dash, DiskcacheManager, Input, Output, ctx, html
from diskcache import Cache

from flask_dash_store import OutsideRequest, UserStoreMiddleware, tab_store, user_store, visitor

FOLDER = Path(os.environ["FOLDER"])
TIMEOUT = 60

multiprocess.set_start_method("spawn", force=True)

app = Dash(
    __name__, backend=os.environ["BACKEND"], background_callback_manager=DiskcacheManager(Cache(f"{FOLDER}/cache"))
)
app.server.secret_key = "only for these tests"
UserStoreMiddleware(app, url=f"sqlite:///{FOLDER}/store.sqlite")
app.layout = html.Div([html.Button("run", id="run"), html.Div(id="report"), html.Div(id="report-async")])


@app.callback(Output("report", "children"), Input("run", "n_clicks"), background=True)
def report(_: Any) -> dict[str, Any]:
    """What a job finds of its visitor. It ends when another one is at work, too."""
    user_store.increment("jobs")
    (FOLDER / f"job-{os.getpid()}").touch()
    deadline = time.monotonic() + TIMEOUT
    while len(list(FOLDER.glob("job-*"))) < 2:
        assert time.monotonic() < deadline, "The other job does not begin."
        time.sleep(0.01)
    try:
        user_store.regenerate("ada")
    except OutsideRequest as error:
        refusal = type(error).__name__
    tab_store["note"] = f"of {user_store['name']}"
    return {
        "name": user_store["name"],
        "visitor": visitor(),
        "regenerate": refusal,
        "cookies": [each for each in (*ctx.cookies, *ctx.headers.values()) if "user_store" in each],
        "is elsewhere": multiprocess.parent_process() is not None,
    }


@app.callback(Output("report-async", "children"), Input("run", "n_clicks"), background=True)
async def report_async(_: Any) -> str:
    return f"{user_store['name']}, {tab_store['note']}"


def make() -> Any:
    app.server.get("/values")(values)
    app.server.get("/name/{name}" if os.environ["BACKEND"] == "fastapi" else "/name/<name>")(set_name)
    return app.server


def values() -> dict[str, Any]:
    return user_store.copy()


def set_name(name: str) -> dict[str, str]:
    user_store["name"] = name
    return {"visitor": visitor()}
