"""A Dash app whose dev tools are on."""

from __future__ import annotations

import numpy as np
from dash import Dash, Input, Output, callback, html

from flask_dash_store import UserStoreMiddleware, user_store

app = Dash(__name__)
server = app.server
server.config.from_prefixed_env()
UserStoreMiddleware(app)
app.layout = html.Div([html.Button("Fill", id="fill"), html.P(id="filled")])
app.enable_dev_tools(debug=True, dev_tools_hot_reload=False, dev_tools_disable_version_check=True)


@callback(Output("filled", "children"), Input("fill", "n_clicks"), prevent_initial_call=True)
def fill(_: int) -> str:
    user_store["cart"] = ["tea"]
    user_store.set("offer", "half price", ttl=300)
    user_store["measurements"] = np.zeros(300_000)
    return "Filled"
