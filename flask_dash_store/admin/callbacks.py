"""How the admin page is kept up to date, and what its buttons do."""

from __future__ import annotations

import time
from typing import Any, get_args

from dash import ClientsideFunction, Dash, Input, Output, State, no_update
from flask import request

from ..errors import UserStoreError
from ..extension import OpenedExtension
from ..storage.statistics import Order
from ..wording import count, visible
from . import charts, contents, owners
from .layout import TASKS, TICK_MS, layout
from .overview import SHARE, Counted, count_all, count_spread
from .samples import Sample, Sampler, samples
from .task_runner import TaskRunner

OPENED_KEY = "flask_dash_store.admin.opened"
"""In the environ of a request to the page's Dash app: the opened extension of the app whose store it shows."""

HEALTH_TIMEOUT = 1.0


class Page:
    """The layout and the callbacks of the page.

    :param app_name: of the app whose store it shows
    :param show_values: whether it shows values
    """

    def __init__(self, app_name: str, sampler: Sampler, runner: TaskRunner, show_values: bool) -> None:
        self._app_name = app_name
        self._sampler = sampler
        self._runner = runner
        self._show_values = show_values
        self._overview = Counted(count_all, lambda overview: overview.totals is not None)
        self._spread = Counted(count_spread)
        self._listing_took = 0.0

    def build(self, app: Dash) -> None:
        """Give a Dash app the layout and the callbacks."""
        app.layout = layout(self._app_name)
        for add in (self._add_overview, self._add_plots, self._add_owners, self._add_detail, self._add_tasks):
            add(app)

    def _add_overview(self, app: Dash) -> None:
        @app.callback(
            Output("tiles", "children"),
            Output("status", "children"),
            Output("answered", "children"),
            Output("tick", "interval"),
            Input("tick", "n_intervals"),
            Input("ended", "data"),
        )
        def show_overview(_ticks: int | None, _ended: int) -> Any:
            extension = _extension()
            overview, health = self._overview.get(extension), extension.health_probe.health(HEALTH_TIMEOUT)
            if overview.totals is not None:
                self._sampler.sample(extension, overview.totals)
            took = max(self._overview.took, self._listing_took)
            interval = max(TICK_MS, int(SHARE * took * 1000))
            answered = f"{extension.now()} {interval}"
            return contents.tiles(overview), contents.status(overview, health), answered, interval

    def _add_plots(self, app: Dash) -> None:
        @app.callback(
            Output("sessions-plot", "figure"),
            Output("bytes-plot", "figure"),
            Input("slow-tick", "n_intervals"),
            Input("ended", "data"),
            Input("span", "value"),
        )
        def show_over_time(_ticks: int | None, _ended: int, span: str) -> Any:
            extension = _extension()
            try:
                shown, now = [*samples(extension), *self._present(extension)], extension.now()
            except UserStoreError:  # The status says so.
                return no_update, no_update
            span = span if span in list(charts.SPANS) else "day"
            return charts.over_time(shown, ("sessions", "users"), span, now), charts.over_time(
                shown, ("nbytes",), span, now
            )

        @app.callback(
            Output("sizes-plot", "figure"),
            Output("ages-plot", "figure"),
            Output("left-plot", "figure"),
            Input("slow-tick", "n_intervals"),
            Input("ended", "data"),
        )
        def show_spread(_ticks: int | None, _ended: int) -> Any:
            try:
                spread = self._spread.get(_extension())
            except UserStoreError:
                return no_update, no_update, no_update
            return charts.sizes(spread.sizes), charts.times(spread.ages), charts.times(spread.left)

    def _present(self, extension: OpenedExtension) -> list[Sample]:
        """What is there now, as a last sample."""
        overview = self._overview.get(extension)
        totals = overview.totals
        return [Sample(overview.at, totals.sessions, totals.users, totals.nbytes, totals.keys)] if totals else []

    def _add_owners(self, app: Dash) -> None:
        in_browser: Any = app.clientside_callback
        in_browser(
            ClientsideFunction("userStoreAdmin", "offset"),
            Output("offset", "data"),
            Input("previous", "n_clicks"),
            Input("next", "n_clicks"),
            Input("view", "value"),
            Input("order", "value"),
            Input("search", "value"),
            State("offset", "data"),
            State("page-size", "data"),
        )

        @app.callback(
            Output("owners", "children"),
            Output("owners-note", "children"),
            Output("owners-note", "hidden"),
            Output("range", "children"),
            Output("previous", "disabled"),
            Output("next", "disabled"),
            Input("tick", "n_intervals"),
            Input("ended", "data"),
            Input("offset", "data"),
            Input("view", "value"),
            Input("order", "value"),
            Input("search", "value"),
        )
        def show_owners(_ticks: Any, _ended: Any, offset: Any, view: Any, order: Any, search: Any) -> Any:
            extension = _extension()
            view = "users" if view == "users" else "sessions"
            order = order if order in get_args(Order) else "newest"
            offset = offset if isinstance(offset, int) and 0 < offset < 2**53 else 0  # as JavaScript counts
            search = str(search or "").strip()
            began = time.monotonic()
            try:
                page, offset = owners.owners_page(extension, view, order, search, offset)
            except UserStoreError as error:
                return contents.message(visible(str(error))), "", True, "", True, True
            self._listing_took = time.monotonic() - began
            rows = contents.rows(page, extension.now()) or contents.message(_none(view, search))
            note = contents.link_to_user(search) if view == "users" and search else None
            is_last = offset + len(page.owners) >= page.total
            return rows, note, note is None, contents.range_of(page, offset), offset == 0, is_last

    def _add_detail(self, app: Dash) -> None:
        @app.callback(
            Output("detail", "hidden"),
            Output("detail-name", "children"),
            Output("detail-facts", "children"),
            Output("detail-content", "children"),
            Output("detail-actions", "hidden"),
            Output("end-label", "children"),
            Output("end-question", "children"),
            Input("url", "hash"),
            Input("tick", "n_intervals"),
            Input("ended", "data"),
        )
        def show_detail(fragment: str | None, _ticks: int | None, _ended: int) -> Any:
            name = _name_in(fragment)
            if name is None:
                return True, "", None, None, True, "", ""
            extension = _extension()
            try:
                detail, now = owners.detail_of(extension, name, self._show_values), extension.now()
            except UserStoreError as error:
                return False, contents.called(name), visible(str(error)), None, True, "", ""
            is_session = owners.is_session(name)
            return (
                False,
                contents.called(name),
                contents.facts(detail, now),
                contents.content(detail, now, self._show_values),
                not (detail.is_there if is_session else detail.sessions),
                "End session…" if is_session else "End all sessions…",
                contents.question(detail),
            )

        @app.callback(
            Output("ended", "data"),
            Output("end-note", "children"),
            Input("end", "n_clicks"),
            State("url", "hash"),
            State("ended", "data"),
            prevent_initial_call=True,
        )
        def end(clicks: int | None, fragment: str | None, ended: int) -> Any:
            name = _name_in(fragment)
            if not clicks or name is None:
                return no_update, no_update
            try:
                number = owners.end(_extension(), name)
            except UserStoreError as error:
                return no_update, visible(f"It could not be ended: {error}")
            self._overview.forget()
            self._spread.forget()
            return (ended or 0) + 1, f"Ended {count(number, 'session')}."

    def _add_tasks(self, app: Dash) -> None:
        @app.callback(
            *(Output(f"view-{kind}", "children") for kind in TASKS),
            *(Output(f"run-{kind}", "disabled") for kind in TASKS),
            *(Output(f"task-{kind}", "hidden") for kind in TASKS),
            Output("fast-tick", "disabled"),
            Input("tick", "n_intervals"),
            Input("fast-tick", "n_intervals"),
            Input("started", "data"),
        )
        def show_tasks(_ticks: int | None, _fast_ticks: int | None, _started: int) -> Any:
            extension = _extension()
            try:
                views = self._runner.views(extension)
            except UserStoreError:
                return [no_update] * (3 * len(TASKS) + 1)
            now, kinds = extension.now(), self._runner.kinds(extension)
            is_running = any(view.state == "running" for view in views.values())
            return (
                *(contents.run(views.get(kind), now) for kind in TASKS),
                *[is_running] * len(TASKS),
                *(kind not in kinds for kind in TASKS),
                not is_running,
            )

        for kind in TASKS:
            self._add_start(app, kind)

    def _add_start(self, app: Dash, kind: str) -> None:
        @app.callback(
            Output("started", "data", allow_duplicate=True),
            Output("task-note", "children", allow_duplicate=True),
            Input(f"run-{kind}", "n_clicks"),
            State("started", "data"),
            prevent_initial_call=True,
        )
        def start(clicks: int | None, started: int) -> Any:
            extension = _extension()
            if not clicks or kind not in self._runner.kinds(extension):
                return no_update, no_update
            try:
                is_started = self._runner.start(extension, kind)
            except UserStoreError as error:
                return no_update, visible(f"It could not be started: {error}")
            return (started or 0) + 1, "" if is_started else "Another task is running. Start this one when it is done."


def _extension() -> OpenedExtension:
    extension: OpenedExtension = request.environ[OPENED_KEY]
    return extension


def _name_in(fragment: object) -> str | None:
    """The name that the hash of the page's URL has; None if it is not a name."""
    name = str(fragment or "").removeprefix("#")
    return name if owners.is_name(name) else None


def _none(view: str, search: str) -> str:
    if search:
        return f"No {view} have a name with “{visible(search)}” in it."
    return (
        "There are no sessions. A session is here once its visitor has stored something."
        if view == "sessions"
        else ("No values are stored for a user id, by stores.for_user(user_id).")
    )
