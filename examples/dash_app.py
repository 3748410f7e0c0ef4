"""A Dash app in which every visitor has a value of their own: enter it in one tab, see it in the other.

It is still there after a reload, and after a restart of the server:

    python examples/dash_app.py
    gunicorn --chdir examples --workers 2 --threads 4 dash_app:server
"""

import argparse

from dash import Dash, Input, Output, State, callback, dcc, html
from flask import g
from secret_key import kept_secret_key

from flask_dash_store import UserStoreMiddleware

app = Dash(__name__, title="One value each")
server = app.server
server.config.from_prefixed_env()  # FLASK_SECRET_KEY, FLASK_USER_STORE_URL and any other setting
if not server.secret_key:
    server.secret_key = kept_secret_key(server.instance_path)
UserStoreMiddleware(app)

enter = html.Div(
    className="panel",
    children=[
        html.Label("Your value", htmlFor="value"),
        html.Div(
            className="row",
            children=[
                dcc.Input(id="value", placeholder="Anything you like", maxLength=200, autoComplete="off"),
                html.Button("OK", id="ok"),
            ],
        ),
        html.P(id="saved", className="message", role="status"),
    ],
)

see = html.Div(
    className="panel",
    children=[
        html.P("On the server, this is your value:"),
        html.P(id="shown", className="value", role="status"),
        html.P(
            "Reload the page, or restart the server: it stays. Open the page in a private window: "
            "there you are another visitor, with a value of your own.",
            className="hint",
        ),
    ],
)

app.layout = html.Main(
    [
        html.H1("One value each"),
        html.P("Every visitor of this page has a store of their own, kept on the server.", className="lead"),
        dcc.Tabs(
            id="tabs",
            value="enter",
            children=[
                dcc.Tab(enter, label="Enter a value", value="enter"),
                dcc.Tab(see, label="See the value", value="see"),
            ],
        ),
    ]
)


@callback(
    Output("saved", "children"),
    Input("ok", "n_clicks"),
    Input("value", "n_submit"),  # the Enter key
    State("value", "value"),
    prevent_initial_call=True,
)
def save(_clicks: int | None, _submits: int | None, value: str | None) -> str:
    if not value:
        return "Enter something first."
    g.user_store["value"] = value
    return "Saved. Now look at the other tab."


@callback(Output("shown", "children"), Input("tabs", "value"))
def show(_tab: str) -> str:
    return str(g.user_store.get("value", "nothing yet"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    app.run(host="127.0.0.1", port=parser.parse_args().port)
