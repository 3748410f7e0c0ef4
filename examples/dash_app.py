"""The smallest Dash app of all: a value for the visitor, in all of their tabs, and one for this tab alone.

Both are still there after a reload, and after a restart of the server:

    python examples/dash_app.py
    gunicorn --chdir examples --workers 2 --threads 4 dash_app:server
"""

import argparse

from dash import Dash, Input, Output, State, dcc, html
from secret_key import kept_secret_key

from flask_dash_store import Changed, UserStoreMiddleware, tab_store, user_store

app = Dash(__name__, title="One value each")
server = app.server
server.config.from_prefixed_env()  # FLASK_SECRET_KEY, FLASK_USER_STORE_URL and any other setting
if not server.secret_key:
    server.secret_key = kept_secret_key(server.instance_path)
UserStoreMiddleware(app)


def panel(title: str, of: str, hint: str) -> html.Div:
    return html.Div(
        className="panel",
        children=[
            html.Label(title, htmlFor=f"{of}-value"),
            html.Div(
                className="row",
                children=[
                    dcc.Input(id=f"{of}-value", placeholder="Anything you like", maxLength=200, autoComplete="off"),
                    html.Button("Save", id=f"{of}-save"),
                ],
            ),
            html.P(id=f"{of}-shown", className="value below", role="status"),
            html.P(hint, className="hint"),
        ],
    )


app.layout = html.Main(
    [
        html.H1("One value each"),
        html.P("Every visitor of this page has a store of their own, kept on the server.", className="lead"),
        panel(
            "Your value",
            "user",
            "Open the page in a second tab: it follows, within a second. Open it in a private window: there you are "
            "another visitor.",
        ),
        panel("The value of this tab", "tab", "A reload keeps it. A second tab has another one."),
    ]
)


@app.callback(
    Input("user-save", "n_clicks"),
    Input("user-value", "n_submit"),  # the Enter key
    State("user-value", "value"),
    prevent_initial_call=True,
)
def save(_clicks: int | None, _submits: int | None, value: str | None) -> None:
    user_store["value"] = value


@app.callback(Output("user-shown", "children"), Changed("value"))
def show(_version: str | None) -> str:
    return user_store.get("value") or "Nothing yet"


@app.callback(
    Output("tab-shown", "children"),
    Input("tab-save", "n_clicks"),
    Input("tab-value", "n_submit"),
    State("tab-value", "value"),
)
def save_in_tab(clicks: int | None, submits: int | None, value: str | None) -> str:
    if clicks or submits:  # not when the page is loaded
        tab_store["value"] = value
    return tab_store.get("value") or "Nothing yet"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    app.run(host="127.0.0.1", port=parser.parse_args().port)
