"""One button fires eight callbacks, which Dash sends in parallel; each writes a key of its own, and none is lost.

python examples/parallel_callbacks.py
gunicorn --chdir examples --workers 2 --threads 4 parallel_callbacks:server
"""

import argparse
import os
import time
from collections.abc import Callable

from dash import Dash, Input, Output, callback, html
from flask import g
from secret_key import kept_secret_key

from flask_dash_store import UserStoreMiddleware

COLOURS = ["red", "orange", "yellow", "green", "teal", "blue", "violet", "pink"]

app = Dash(__name__, title="Eight callbacks at once")
server = app.server
server.config.from_prefixed_env()  # FLASK_SECRET_KEY, FLASK_USER_STORE_URL and any other setting
if not server.secret_key:
    server.secret_key = kept_secret_key(server.instance_path)
UserStoreMiddleware(app)

app.layout = html.Main(
    [
        html.H1("Eight callbacks at once"),
        html.P(
            "The button fires eight callbacks in parallel. Each one takes its time and then writes a key of its own. "
            "Had they all written back a whole session, most of the keys would be lost.",
            className="lead",
        ),
        html.Button("Fire", id="fire"),
        html.Div(id="keys", className="cards", role="status"),
        # Each callback needs an output of its own. A change of any of them shows the keys again.
        *(html.Span(id=f"done-{colour}", hidden=True) for colour in COLOURS),
    ]
)


def writer_of(colour: str) -> Callable[[int], int]:
    def write(clicks: int) -> int:
        time.sleep(0.2)  # stands for real work
        g.user_store[colour] = f"click {clicks}, process {os.getpid()}"
        return clicks

    return write


for each in COLOURS:
    callback(Output(f"done-{each}", "children"), Input("fire", "n_clicks"), prevent_initial_call=True)(writer_of(each))


# Dash waits for all eight before it calls this, and calls it once when the page is loaded.
@callback(Output("keys", "children"), [Input(f"done-{colour}", "children") for colour in COLOURS])
def show(*_clicks: int | None) -> list[html.Div]:
    stored = g.user_store.copy()
    return [
        html.Div(
            [html.Strong(colour), html.Span(stored.get(colour, "not written yet"))],
            className=f"card {colour}" if colour in stored else "card",
        )
        for colour in COLOURS
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    app.run(host="127.0.0.1", port=parser.parse_args().port)
