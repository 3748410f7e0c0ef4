"""One button fires eight callbacks in parallel. Each writes a key, to the store and to Flask's session.

The store keeps all eight. Of the session each response brings the browser a whole one, with what that request has
written, and the last response wins.

    python examples/parallel_callbacks.py
    gunicorn --chdir examples --workers 2 --threads 4 parallel_callbacks:server
"""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

from dash import Dash, Input, Output, html
from flask import session
from secret_key import kept_secret_key

from flask_dash_store import UserStoreMiddleware, user_store

COLOURS = ["red", "orange", "yellow", "green", "teal", "blue", "violet", "pink"]

app = Dash(__name__, title="Eight callbacks at once")
server = app.server
server.config.from_prefixed_env()  # FLASK_SECRET_KEY, FLASK_USER_STORE_URL and any other setting
if not server.secret_key:
    server.secret_key = kept_secret_key(server.instance_path)
UserStoreMiddleware(app)


def panel(name: str, of: str) -> html.Div:
    return html.Div(
        className="panel",
        children=[
            html.H2(html.Code(name)),
            html.P(id=f"{of}-tally", className="value", role="status"),
            html.Div(id=f"{of}-keys", className="dots"),
        ],
    )


app.layout = html.Main(
    [
        html.H1("Eight callbacks at once"),
        html.P(
            "The button fires eight callbacks in parallel. Each works for a while, and then writes a key of its own to "
            "the visitor's store and to Flask's session. How many are left?",
            className="lead",
        ),
        html.Div(
            className="panel",
            children=[
                html.Button("Fire", id="fire"),
                # Each callback has an output of its own, which is busy while it runs.
                html.Div([html.Span(colour, id=colour, className="dot") for colour in COLOURS], className="dots"),
            ],
        ),
        html.Div([panel("user_store", "store"), panel("flask.session", "session")], className="columns below"),
        html.P(
            "Sessions that are kept on the server as a whole lose keys in the same way: each request writes back the "
            "session that it has read.",
            className="hint",
        ),
    ]
)


def writer_of(colour: str) -> Callable[[int], str]:
    def write(clicks: int) -> str:
        time.sleep(0.3)  # stands for real work
        user_store[colour] = clicks
        session[colour] = clicks
        return f"written by click {clicks}"

    return write


for each in COLOURS:
    app.callback(
        Output(each, "title"),
        Input("fire", "n_clicks"),
        running=[(Output(each, "className"), "dot busy", f"dot kept {each}")],
        prevent_initial_call=True,
    )(writer_of(each))


# Dash waits for all eight before it calls this, and calls it once when the page is loaded.
@app.callback(
    Output("store-tally", "children"),
    Output("store-keys", "children"),
    Output("session-tally", "children"),
    Output("session-keys", "children"),
    Input("fire", "n_clicks"),
    *(Input(colour, "title") for colour in COLOURS),
)
def show(clicks: int | None, *_titles: str | None) -> tuple[Any, ...]:
    return *tally(user_store, clicks), *tally(session, clicks)


def tally(values: Mapping[str, Any], clicks: int | None) -> tuple[str, list[html.Span]]:
    """How many of the keys that the present click has written are left, and which ones."""
    if not clicks:
        return "Press the button", []
    kept = {colour for colour in COLOURS if values.get(colour) == clicks}
    return f"{len(kept)} of 8 kept", [
        html.Span(colour, className=f"dot kept {colour}" if colour in kept else "dot lost") for colour in COLOURS
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    app.run(host="127.0.0.1", port=parser.parse_args().port)
