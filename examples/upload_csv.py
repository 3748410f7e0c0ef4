"""A CSV file is uploaded once, and three pages filter and chart it in all of the visitor's tabs.

The table stays on the server. `Changed` (here as `Key.changed`) brings each page what another page, another tab or the
upload has changed.

    python examples/upload_csv.py
    gunicorn --chdir examples --workers 2 --threads 4 upload_csv:server
"""

import argparse
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from dash import ALL, Dash, Input, Output, ctx, dcc, html, page_container, register_page
from dash.exceptions import PreventUpdate
from flask import Flask, Response, request
from secret_key import kept_secret_key
from werkzeug.exceptions import RequestEntityTooLarge

from flask_dash_store import Key, QuotaExceeded, UserStoreMiddleware, ValueTooLarge, is_available, tab_store, user_store

MIB = 2**20
MOST_CHOICES = 12
MOST_BARS = 40
ROWS_SHOWN = 12

# What a visitor has in their store. A page that needs a few names does not read the table for them.
table: Key[Any] = Key("table", default=pd.DataFrame)
summary: Key[str] = Key("summary", default=lambda: "No file yet.")
columns: Key[list[str]] = Key("columns", default=list)
choices: Key[dict[str, list[str]]] = Key("choices", default=dict)  # columns of few values, with their values
wanted: Key[dict[str, list[str]]] = Key("wanted", default=dict)  # the filter: columns, with the values to keep

app = Dash(__name__, title="Explore a CSV file", use_pages=True, pages_folder="", suppress_callback_exceptions=True)
server: Flask = app.server
server.config.from_mapping(
    MAX_CONTENT_LENGTH=200 * MIB,  # of an upload
    USER_STORE_MAX_VALUE_BYTES=200 * MIB,  # of a table
    USER_STORE_MAX_BYTES=400 * MIB,  # of a visitor
)
server.config.from_prefixed_env()  # FLASK_SECRET_KEY, FLASK_USER_STORE_URL and any other setting
if not server.secret_key:
    server.secret_key = kept_secret_key(server.instance_path)
UserStoreMiddleware(app)


# Upload. The page's own assets/upload.js sends the file to this view, for dcc.Upload would show no progress. The view
# has the store of the visitor as callbacks have it.


@server.post("/upload")
def upload() -> Response:
    file = request.files["file"]
    try:
        frame = pd.read_csv(file.stream)
    except ValueError:  # pandas' own errors are ValueErrors, and so is text that cannot be decoded
        return message(f"{file.filename} is not a CSV file.", 400)
    about = f"{file.filename}: {len(frame):,} rows, {len(frame.columns)} columns"
    try:
        user_store.update(  # all of it or nothing
            table=frame, summary=about, columns=list(frame.columns), choices=choices_in(frame), wanted={}
        )
    except (ValueTooLarge, QuotaExceeded) as error:
        return message(f"{file.filename} is too large: {(error.limit or 0) / MIB:.3g} MiB is the limit.", 413)
    return message(f"{file.filename} is stored.")


@server.errorhandler(RequestEntityTooLarge)
def too_large(_error: RequestEntityTooLarge) -> Response:
    return message(f"The file is too large: {server.config['MAX_CONTENT_LENGTH'] / MIB:.3g} MiB is the limit.", 413)


def message(text: str, status: int = 200) -> Response:
    return Response(text, status, mimetype="text/plain")  # not as HTML: the name of the file is in it


def choices_in(frame: Any) -> dict[str, list[str]]:
    texts = {name: frame[name].dropna().unique() for name in frame if pd.api.types.is_string_dtype(frame[name])}
    return {name: sorted(values) for name, values in texts.items() if 1 < len(values) <= MOST_CHOICES}


# Pages


def navigation(present: str) -> html.Nav:
    pages = {"/": "File", "/table": "Table", "/chart": "Chart"}
    return html.Nav(
        [
            dcc.Link(name, href=app.get_relative_path(path), className="present" if path == present else "")
            for path, name in pages.items()
        ]
    )


def file_page() -> html.Div:
    drop = html.Div(
        id="drop",
        className="drop",
        children=[
            html.Div(
                [
                    html.Button("Choose a CSV file", id="choose"),
                    html.Button("Generate 20 MB", id="sample", className="quiet"),
                ],
                className="row",
            ),
            html.P("Or drop one here.", className="hint"),
        ],
        **{"data-url": app.get_relative_path("/upload")},
    )
    stored = html.Div(
        className="panel",
        children=[
            html.H2("On the server"),
            html.P(id="summary", className="value"),
            html.P(id="bytes", className="hint"),
            html.Button("Clear my data", id="clear", className="quiet below"),
        ],
    )
    return html.Div([navigation("/"), html.Div(drop, className="panel"), stored])


def filter_panel() -> html.Div:
    hint = "The filter is yours in all of your tabs: open this page in another one."
    return html.Div(
        [html.H2("Keep only"), html.Div(id="choices"), html.P(id="kept"), html.P(hint, className="hint")],
        className="panel",
    )


def table_page() -> html.Div:
    rows = html.Div(dcc.Loading(html.Div(id="rows", className="scrolls"), delay_show=300), className="panel")
    return html.Div([navigation("/table"), filter_panel(), rows])


def chart_page() -> html.Div:
    by = tab_store.get("by") if is_available() else None
    chart = html.Div(
        className="panel",
        children=[
            html.Label("Rows by", htmlFor="by"),
            dcc.Dropdown(id="by", value=by, clearable=False),
            dcc.Loading(
                dcc.Graph(id="chart", config={"displayModeBar": False}, style={"height": "22rem"}), delay_show=300
            ),
        ],
    )
    return html.Div([navigation("/chart"), filter_panel(), chart])


register_page("file", path="/", layout=file_page)
register_page("table", path="/table", layout=table_page)
register_page("chart", path="/chart", layout=chart_page)

app.layout = html.Main(
    [
        html.H1("Explore a CSV file"),
        html.P("Upload it once. It stays on the server, for your tabs alone.", className="lead"),
        page_container,
        html.Div(
            [
                html.P(id="upload-status", className="message", role="status"),
                html.Progress(id="upload-progress", hidden=True),
            ],
            className="panel status",
        ),
    ]
)


# What the pages show, as soon as it has changed


@app.callback(Output("summary", "children"), Output("bytes", "children"), Output("clear", "disabled"), summary.changed)
def show_summary(_version: str | None) -> tuple[str, str, bool]:
    if summary.name not in user_store:
        return summary.get(), "", True
    return summary.get(), f"{user_store.nbytes / 10**6:.1f} MB on the server's disk", False


@app.callback(Output("choices", "children"), choices.changed, wanted.changed)
def show_choices(*_versions: str | None) -> list[html.Div] | str:
    chosen = wanted.get()
    return [
        html.Div(
            [html.Strong(column), html.Div([chip(column, value, chosen) for value in values], className="row")],
            className="choices",
        )
        for column, values in choices.get().items()
    ] or "There is nothing to choose from yet."


def chip(column: str, value: str, chosen: dict[str, list[str]]) -> html.Button:
    pressed: dict[str, Any] = {"aria-pressed": "true" if value in chosen.get(column, []) else "false"}
    return html.Button(value, id={"type": "choice", "column": column, "value": value}, className="chip", **pressed)


@app.callback(Output("kept", "children"), table.changed, wanted.changed)
def show_how_many(*_versions: str | None) -> str:
    return f"{len(filtered()):,} of {len(table.get()):,} rows"


@app.callback(Output("rows", "children"), table.changed, wanted.changed)
def show_rows(*_versions: str | None) -> html.Table:
    frame = filtered().head(ROWS_SHOWN)
    return html.Table(
        [
            html.Thead(html.Tr([html.Th(name) for name in frame])),
            html.Tbody([html.Tr([html.Td(str(value)) for value in row]) for row in frame.itertuples(index=False)]),
        ]
    )


@app.callback(Output("by", "options"), Output("by", "value"), columns.changed)
def show_columns(_version: str | None) -> tuple[list[str], str | None]:
    names = columns.get()
    by = tab_store.get("by")  # Each tab shows a column of its own.
    return names, by if by in names else next(iter(names), None)


@app.callback(Output("chart", "figure"), Input("by", "value"), table.changed, wanted.changed)
def show_chart(by: str | None, *_versions: str | None) -> go.Figure:
    frame = filtered()
    figure = go.Figure(layout=LOOK)
    if by in frame and len(frame):
        tab_store["by"] = by
        figure.add_bar(**bars(frame[by]))
    return figure


def bars(column: Any) -> dict[str, Any]:
    """Some numbers for the browser, in the stead of the rows."""
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > MOST_BARS:
        counts, edges = np.histogram(column.dropna(), bins=MOST_BARS)
        return {"x": (edges[:-1] + edges[1:]) / 2, "y": counts}
    most = column.astype(str).value_counts().head(MOST_BARS).sort_index()
    return {"x": most.index.tolist(), "y": most.tolist()}


LOOK = {  # on light and on dark ground
    "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "colorway": ["#4f80e8"],
    "margin": {"l": 50, "r": 10, "t": 20, "b": 10}, "dragmode": False,
    "xaxis": {"gridcolor": "rgba(128,136,148,.25)", "automargin": True},
    "yaxis": {"gridcolor": "rgba(128,136,148,.25)", "zeroline": False},
}  # fmt: skip


def filtered() -> Any:
    frame = table.get()
    for column, values in wanted.get().items():
        if values and column in frame:
            frame = frame[frame[column].isin(values)]
    return frame


# What the visitor does


@app.callback(Input({"type": "choice", "column": ALL, "value": ALL}, "n_clicks"), prevent_initial_call=True)
def choose(_clicks: list[int | None]) -> None:
    if not ctx.triggered[0]["value"]:  # The buttons have been drawn, and none was clicked.
        raise PreventUpdate
    column, value = ctx.triggered_id["column"], ctx.triggered_id["value"]
    with wanted.edit() as filters:
        filters[column] = sorted({value} ^ set(filters.get(column, [])))


@app.callback(Output("upload-status", "children"), Input("clear", "n_clicks"), prevent_initial_call=True)
def clear(clicks: int | None) -> str:
    if not clicks:
        raise PreventUpdate
    user_store.clear()
    return "Your data are gone from the server."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the example on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8050)
    app.run(host="127.0.0.1", port=parser.parse_args().port)
