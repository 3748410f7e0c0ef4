"""What is on the admin page. How it looks is in ``assets/admin.css``."""

from __future__ import annotations

from typing import Any

from dash import dcc, html

from .owners import PAGE

TICK_MS = 5_000
SLOW_TICK_MS = 60_000
FAST_TICK_MS = 700
PLOT_HEIGHT = 210

TASKS = {
    "purge": (
        "Purge",
        "Removes all that has expired, and gives its space back. The app does so itself, little by little.",
    ),
    "check": ("Check", "Reads every value and verifies its signature. It changes nothing."),
    "backup": ("Back up", "Copies all that is stored into a new file on the server, while the app goes on."),
}

_GRAPH_CONFIG: Any = {"displayModeBar": False, "responsive": True}


def aria(**attributes: str) -> Any:
    """Attributes for those who hear the page."""
    return {f"aria-{name}": value for name, value in attributes.items()}


def layout(app_name: str) -> html.Div:
    """The page, before its callbacks fill it.

    :param app_name: of the app whose store it shows
    """
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Interval(id="tick", interval=TICK_MS),
            dcc.Interval(id="slow-tick", interval=SLOW_TICK_MS),
            dcc.Interval(id="fast-tick", interval=FAST_TICK_MS, disabled=True),
            dcc.Store(id="offset", data=0),
            dcc.Store(id="page-size", data=PAGE),
            dcc.Store(id="ended", data=0),
            dcc.Store(id="started", data=0),
            html.Header(
                [
                    html.H1(["User store ", html.Span(app_name, className="app-name")]),
                    html.P("Looking…", id="status"),
                    html.Span(id="answered", hidden=True),
                ]
            ),
            html.P(
                "The server has stopped answering. It may be down, or you may have been logged out. Reload the page.",
                id="silent",
                role="alert",
                hidden=True,
            ),
            html.Main([_overview(), _plots(), _owners(), _maintenance()]),
            _detail(),
        ],
        className="page",
    )


def _overview() -> html.Section:
    return html.Section([html.Div(id="tiles", className="tiles")], **aria(label="Overview"))


def _plots() -> html.Section:
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Over time"),
                    _choice("span", "Time shown", {"day": "Day", "week": "Week", "month": "Month"}, "day"),
                ],
                className="bar",
            ),
            html.Div(
                [_plot("sessions-plot", "Sessions and users"), _plot("bytes-plot", "Stored bytes")], className="two"
            ),
            html.H2("Sessions now"),
            html.Div(
                [_plot("sizes-plot", "By size"), _plot("ages-plot", "By age"), _plot("left-plot", "By time left")],
                className="three",
            ),
        ],
        **aria(label="Plots"),
    )


def _plot(name: str, caption: str) -> html.Figure:
    return html.Figure(
        [
            html.Figcaption(caption),
            dcc.Graph(id=name, config=_GRAPH_CONFIG, responsive=True, style={"height": PLOT_HEIGHT}),
        ],
        className="panel plot",
    )


def _owners() -> html.Section:
    orders = {"newest": "Newest", "oldest": "Oldest", "largest": "Largest", "expiring": "Expiring"}
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Sessions and users"),
                    _choice("view", "Show", {"sessions": "Sessions", "users": "Users"}, "sessions"),
                ],
                className="bar",
            ),
            html.Div(
                [
                    html.Div(
                        [
                            html.Label("Search names", htmlFor="search", className="unseen"),
                            dcc.Input(
                                id="search",
                                type="search",
                                debounce=0.3,
                                value="",
                                maxLength=600,
                                autoComplete="off",
                                placeholder="Search names",
                                spellCheck="false",
                            ),
                        ],
                        className="search",
                    ),
                    _choice("order", "Order", orders, "newest"),
                ],
                className="bar",
            ),
            html.Div(
                [
                    html.Table(
                        [
                            html.Thead(
                                html.Tr(
                                    [
                                        html.Th(each, scope="col")
                                        for each in ("Name", "Began", "Expires", "Size", "Keys")
                                    ]
                                )
                            ),
                            html.Tbody(id="owners"),
                        ]
                    ),
                    html.P(id="owners-note", className="note", hidden=True),
                ],
                className="panel table",
            ),
            html.Nav(
                [
                    html.Button("Previous", id="previous", disabled=True),
                    html.Span(id="range", role="status"),
                    html.Button("Next", id="next", disabled=True),
                ],
                className="pager",
                **aria(label="Pages"),
            ),
        ],
        **aria(label="Sessions and users"),
    )


def _maintenance() -> html.Section:
    return html.Section(
        [
            html.H2("Maintenance"),
            html.Div([_task(kind, *words) for kind, words in TASKS.items()], className="panel tasks"),
            html.P(id="task-note", className="note", role="status"),
        ],
        **aria(label="Maintenance"),
    )


def _task(kind: str, label: str, about: str) -> html.Div:
    return html.Div(
        [
            html.Div([html.H3(label), html.P(about)]),
            html.Button(label, id=f"run-{kind}", **aria(describedby=f"view-{kind}")),
            html.Div(id=f"view-{kind}", className="run"),
        ],
        id=f"task-{kind}",
        className="task",
        hidden=True,
    )


def _detail() -> html.Aside:
    """What is shown of one session or user, whose name is the hash of the page's URL."""
    return html.Aside(
        [
            html.Div(
                [
                    html.H2(id="detail-name", tabIndex=-1),
                    html.A("Close", href="#", id="close", className="button"),
                ],
                className="bar",
            ),
            html.Div(id="detail-facts"),
            html.Div(
                html.Details(
                    [
                        html.Summary("End…", id="end-label", className="button danger"),
                        html.Div(
                            [html.P(id="end-question"), html.Button("End now", id="end", className="danger filled")],
                            className="question",
                        ),
                    ],
                    id="confirm",
                ),
                id="detail-actions",
                hidden=True,
            ),
            html.P(id="end-note", className="note", role="status"),
            html.Div(id="detail-content"),
        ],
        id="detail",
        hidden=True,
        **aria(labelledby="detail-name"),
    )


def _choice(name: str, label: str, options: dict[str, str], value: str) -> html.Div:
    radios = dcc.RadioItems(
        id=name, options=[{"value": each, "label": text} for each, text in options.items()], value=value, inline=True
    )
    return html.Div(radios, className="choice", role="radiogroup", **aria(label=label))
