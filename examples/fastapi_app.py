"""Dash on FastAPI: the same line gives the store to async callbacks, and to FastAPI's own routes.

It needs FastAPI and a server for it: pip install 'dash[fastapi]' uvicorn

    python examples/fastapi_app.py
    uvicorn --app-dir examples --workers 2 fastapi_app:server
"""

import argparse
import asyncio
from pathlib import Path

import uvicorn
from dash import Dash, Input, Output, html
from fastapi import FastAPI
from secret_key import kept_secret_key

from flask_dash_store import Changed, UserStoreMiddleware, user_store

app = Dash(__name__, backend="fastapi", title="Dash on FastAPI")
server: FastAPI = app.server
UserStoreMiddleware(app, secret_key=kept_secret_key(str(Path(__file__).with_name("instance"))))

app.layout = html.Main(
    [
        html.H1("Dash on FastAPI"),
        html.P("Four async callbacks count at once, and none of their counts is lost.", className="lead"),
        html.Div(
            className="panel",
            children=[
                html.Button("Count", id="count"),
                html.P(id="counted", className="value", role="status"),
                *(html.Span(id=f"count-{number}") for number in range(4)),
                html.P(
                    [
                        "A route of FastAPI has the same store: ",
                        html.A("the count as JSON", href=app.get_relative_path("/count")),
                    ],
                    className="hint",
                ),
            ],
        ),
    ]
)


async def count(_clicks: int) -> str:
    await asyncio.sleep(0.2)  # stands for real work
    return f"made it {user_store.increment('count')}"


for number in range(4):
    app.callback(Output(f"count-{number}", "title"), Input("count", "n_clicks"), prevent_initial_call=True)(count)


@app.callback(Output("counted", "children"), Changed("count"))
async def show(_version: str | None) -> str:
    return str(user_store.get("count", 0))


@server.get("/count")
async def count_as_json() -> dict[str, int]:
    return {"count": user_store.get("count", 0)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    uvicorn.run(server, host="127.0.0.1", port=parser.parse_args().port)
