"""A report takes a while, in a process of its own, with its progress and a button that cancels it.

Each visitor gets the report that they asked for, whoever else presses the button. The job puts it into the visitor's
store, so it is there after a reload, and also if the page was closed meanwhile.

    python examples/background_report.py
    gunicorn --chdir examples --workers 2 --threads 4 background_report:server
"""

import argparse
import random
import time
from calendar import month_name
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import diskcache
from dash import Dash, DiskcacheManager, Input, Output, State, dcc, html
from secret_key import kept_secret_key

from flask_dash_store import Key, UserStoreMiddleware

SECONDS_PER_MONTH = 0.25


@dataclass
class Report:
    title: str
    sales: list[int]  # of each month
    made_at: float


reports: Key[list[Report]] = Key("reports", default=list)

# In files, which all workers and their jobs see. Dash keeps there what jobs have to say until their pages ask for it.
cache = diskcache.Cache(str(Path(__file__).with_name("instance") / "jobs"))
app = Dash(__name__, title="A long report", background_callback_manager=DiskcacheManager(cache))
server = app.server
server.config.from_prefixed_env()  # FLASK_SECRET_KEY, FLASK_USER_STORE_URL and any other setting
if not server.secret_key:
    server.secret_key = kept_secret_key(server.instance_path)
UserStoreMiddleware(app)

app.layout = html.Main(
    [
        html.H1("A long report"),
        html.P(
            "It is made in the background. Start one in a private window, too: each visitor gets their own.",
            className="lead",
        ),
        html.Div(
            className="panel",
            children=[
                html.Label("Title", htmlFor="title"),
                html.Div(
                    className="row",
                    children=[
                        dcc.Input(id="title", value="Sales", maxLength=50, autoComplete="off"),
                        html.Button("Run the report", id="run"),
                        html.Button("Cancel", id="cancel", className="quiet", disabled=True),
                    ],
                ),
                html.P(id="outcome", className="message", role="status"),
                html.Div(
                    [html.P(id="step", className="hint"), html.Progress(id="progress", max="12")],
                    id="working",
                    hidden=True,
                ),
            ],
        ),
        html.Div([html.H2("Your reports"), html.Div(id="reports")], className="panel"),
    ]
)


@app.callback(
    Output("outcome", "children"),
    Input("run", "n_clicks"),
    State("title", "value"),
    background=True,
    interval=500,  # milliseconds between two looks of the page at the progress
    running=[
        (Output("run", "disabled"), True, False),
        (Output("cancel", "disabled"), False, True),
        (Output("working", "hidden"), False, True),
        (Output("outcome", "hidden"), True, False),
    ],
    progress=[Output("progress", "value"), Output("step", "children")],
    progress_default=(None, "Starting …"),
    cancel=Input("cancel", "n_clicks"),
    prevent_initial_call=True,
)
def run(set_progress: Callable[[tuple[str, str]], None], _clicks: int, title: str | None) -> str:
    sales = []
    for month in range(1, 13):
        set_progress((str(month), f"{month_name[month]} …"))
        time.sleep(SECONDS_PER_MONTH)  # stands for a slow query
        sales.append(random.randint(10, 100))  # noqa: S311
    report = Report(title or "Untitled", sales, time.time())
    with reports.edit() as kept:
        kept.insert(0, report)
    return f"“{report.title}” is ready."


@app.callback(
    Output("outcome", "children", allow_duplicate=True), Input("cancel", "n_clicks"), prevent_initial_call=True
)
def say_that_it_was_cancelled(_clicks: int) -> str:
    return "Cancelled."


@app.callback(Output("reports", "children"), reports.changed)
def show(_version: str | None) -> list[html.Div] | str:
    return [drawn(report) for report in reports.get()] or "None yet."


def drawn(report: Report) -> html.Div:
    at = time.strftime("%H:%M:%S", time.localtime(report.made_at))
    bars = [
        html.Span(title=f"{month_name[n]}: {each}", style={"height": f"{each}%"})
        for n, each in enumerate(report.sales, 1)
    ]
    return html.Div(
        [html.Strong(report.title), f", {sum(report.sales)} sold, made at {at}", html.Div(bars, className="bars")],
        className="report",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    app.run(host="127.0.0.1", port=parser.parse_args().port)
