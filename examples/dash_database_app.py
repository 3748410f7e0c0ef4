"""The example of the package dash_database, on today's Dash: the session id is the page's, not a cookie's.

The layout function makes a session id, a dcc.Store keeps it in the browser tab, and each callback gets it as a State.
Anyone who knows the id has the values, so it must not be guessable. Where a cookie will do, UserStoreMiddleware needs
none of this: see dash_app.py.

    python examples/dash_database_app.py
    gunicorn --chdir examples --workers 2 --threads 4 dash_database_app:server
"""

import argparse
import secrets
from datetime import timedelta
from pathlib import Path

from dash import Dash, Input, Output, State, dcc, html
from secret_key import kept_secret_key

from flask_dash_store import DashDatabase

app = Dash(__name__, title="One value for each tab")
server = app.server
server.config["DATABASE"] = str(Path(server.instance_path) / "dash_database.sqlite")
server.config.from_prefixed_env()  # FLASK_SECRET_KEY and FLASK_DATABASE
if not server.secret_key:
    server.secret_key = kept_secret_key(server.instance_path)

# In a file, so that all workers see the same values; those of a tab that was closed go after a day.
dash_db = DashDatabase(server.config["DATABASE"], ttl=timedelta(days=1), secret_key=str(server.secret_key))


enter = html.Div(
    className="panel",
    children=[
        html.Label("Your value", htmlFor="value"),
        html.Div(
            className="row",
            children=[
                dcc.Input(id="value", placeholder="Enter a value here", maxLength=200, autoComplete="off"),
                html.Button("OK", id="ok"),
            ],
        ),
        html.P(id="saved", className="message", role="status"),
    ],
)

retrieve = html.Div(
    className="panel",
    children=[
        html.Button("Show me the value", id="show"),
        html.P(id="shown", className="value", role="status"),
        html.P("A reload keeps it. A new tab is a new session.", className="hint"),
    ],
)


def serve_layout() -> html.Main:
    """The page, with a session id of its own. After a reload, the dcc.Store keeps the id that the tab had before."""
    return html.Main(
        [
            dcc.Store(id="session_id", storage_type="session", data=secrets.token_urlsafe()),
            html.H1("One value for each tab"),
            html.P("Every browser tab has values of its own, kept on the server.", className="lead"),
            dcc.Tabs(
                [
                    dcc.Tab(enter, label="Enter a value"),
                    dcc.Tab(retrieve, label="Retrieve the value"),
                ]
            ),
        ]
    )


app.layout = serve_layout


@app.callback(
    Output("saved", "children"),
    Input("ok", "n_clicks"),
    State("value", "value"),
    State("session_id", "data"),
    prevent_initial_call=True,
)
def save_value(_clicks: int, value: str | None, session_id: str) -> str:
    dash_db.store_user_value(user_id=session_id, key_name="value", value=value)
    return "Your value was saved. Retrieve it in the other tab."


@app.callback(
    Output("shown", "children"),
    Input("show", "n_clicks"),
    State("session_id", "data"),
    prevent_initial_call=True,
)
def retrieve_value(_clicks: int, session_id: str) -> str:
    value = dash_db.get_user_value(user_id=session_id, key_name="value")
    return "You have not saved a value yet." if value is None else f"Your value is {value}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    app.run(host="127.0.0.1", port=parser.parse_args().port)
