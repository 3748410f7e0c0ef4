"""A Dash app whose callbacks watch keys of the store, and that has a store for each tab."""

import os
import time
from pathlib import Path
from typing import Any

from dash import Dash, DiskcacheManager, Input, Output, State, callback, ctx, dcc, html
from diskcache import Cache

from flask_dash_store import Changed, Key, UserStoreMiddleware, is_available, tab_store, user_store

cart: Key[list[str]] = Key("cart", default=list[str])

# The job of a background callback goes on until there is this file.
IS_SEEN = Path(os.environ["TEST_FOLDER"]) / "seen"

app = Dash(__name__, background_callback_manager=DiskcacheManager(Cache(f"{IS_SEEN.parent}/cache")))
server = app.server
server.secret_key = "only for these tests"
UserStoreMiddleware(app, url=f"sqlite:///{IS_SEEN.parent}/store.sqlite")


def layout() -> html.Div:
    note = tab_store.get("note", "") if is_available() else ""
    buttons = ("add", "clear", "roll-back", "move", "other")
    return html.Div(
        [
            *(html.Button(name, id=name) for name in buttons),
            html.Button("job", id="job"),
            html.Div(id="done"),
            html.Div(id="job-done"),
            html.Div(id="cart"),
            html.Div(id="calls", children="0"),
            html.Div(id="two"),
            html.Div(id="any"),
            dcc.Input(id="note", value=note),
            html.Button("save", id="save"),
            html.Div(id="saved"),
            html.Div(note, id="note-in-layout"),
        ]
    )


app.layout = layout


@callback(
    Output("done", "children"), [Input(name, "n_clicks") for name in ("add", "clear", "roll-back", "move", "other")]
)
def write(*_: Any) -> str:
    match ctx.triggered_id:
        case "add":
            with cart.edit() as items:
                items.append("apple")
        case "clear":
            user_store.clear()
        case "move":
            user_store.update(x=user_store.increment("n"), y=1)
        case "other":
            user_store["other"] = user_store.increment("count")
        case "roll-back":
            try:
                with user_store.transaction():
                    cart.set(["never seen"])
                    raise LookupError
            except LookupError:
                pass
    return str(ctx.triggered_id)


@callback(Output("cart", "children"), Output("calls", "children"), cart.changed, State("calls", "children"))
def show_cart(_: Any, calls: str) -> tuple[str, str]:
    return ",".join(cart.get()), str(int(calls) + 1)


@callback(Output("two", "children"), Changed("x", "y"))
def show_two(_: Any) -> str:
    return f"{user_store.get('x')} {user_store.get('y')}"


@callback(Output("any", "children"), Changed(any))
def show_any(_: Any) -> str:
    return ",".join(sorted(user_store))


@callback(Output("saved", "children"), Input("save", "n_clicks"), State("note", "value"), prevent_initial_call=True)
def save_note(_: Any, note: str) -> str:
    tab_store["note"] = note
    return f"saved {note}, {len(tab_store)} here, {len(user_store)} of all"


@callback(
    Output("job-done", "children"), Input("job", "n_clicks"), background=True, interval=100, prevent_initial_call=True
)
def work(_: Any) -> str:
    user_store["x"] = "from a job"
    deadline = time.monotonic() + 30
    while not IS_SEEN.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return f"done for the tab of {tab_store.get('note')}"


@server.get("/add")
def add_in_a_view() -> str:
    with cart.edit() as items:
        items.append("pear")
    return ""


@server.get("/end-jobs")
def end_jobs() -> str:
    IS_SEEN.touch()
    return ""
