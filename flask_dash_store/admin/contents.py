"""What the callbacks put on the page: tiles, rows of tables, and what is known of a session, a user or a task."""

from __future__ import annotations

from typing import Any

from dash import html

from ..errors import InvalidKey
from ..health import Health
from ..owner import TABS_PREFIX, is_own_key, user_id_of, user_owner
from ..storage.base import ValueInfo
from ..storage.statistics import OwnerInfo, OwnerPage
from ..wording import count, duration, finite, size, time, visible
from .layout import aria
from .overview import Overview
from .owners import MAX_SESSIONS, MAX_VALUES, Detail, is_session
from .task_runner import TaskView

NOT_KNOWN = "—"
JUST_NOW = 5.0


# The overview


def status(overview: Overview, health: Health) -> list[Any]:
    """Whether the storage can be used."""
    problem = health.problem or overview.problem
    words = problem or ("Reads and writes work." if health.ok else "It cannot be used.")
    return [
        html.Span(className="dot good" if problem is None else "dot bad", **aria(hidden="true")),
        html.Span(visible(words), role="status"),
        html.Span(f"Counted at {time(overview.at)[11:]}", className="when"),
    ]


def tiles(overview: Overview) -> list[html.Div]:
    """How much there is, in a few numbers."""
    totals, space = overview.totals, overview.space
    if totals is None:
        return [_tile("Nothing could be counted", NOT_KNOWN, "")]
    room = [f"{size(space.free)} free"] if space.free is not None else []
    log = [f"WAL {size(space.log)}"] if space.log is not None else []
    return [
        _tile(
            "Sessions",
            f"{totals.sessions:,}",
            f"+{totals.began_last_hour:,} in 1 h · +{totals.began_last_day:,} in 24 h",
        ),
        _tile("Users", f"{totals.users:,}", "with values of their own"),
        _tile("Stored", size(totals.nbytes), f"in {count(totals.keys, 'key')}"),
        _tile("Database size", NOT_KNOWN if space.used is None else size(space.used), " · ".join([*room, *log])),
        _tile("Expired", f"{totals.expired:,}", "not removed yet"),
    ]


def _tile(label: str, value: str, note: str) -> html.Div:
    return html.Div(
        [html.Span(label, className="label"), html.Strong(value), html.Span(note, className="note")],
        className="tile panel",
    )


# Sessions and users


def rows(page: OwnerPage, now: float) -> list[html.Tr]:
    """A row for each session or user."""
    return [_row(info, now) for info in page.owners]


def _row(info: OwnerInfo, now: float) -> html.Tr:
    return html.Tr(
        [
            html.Td(_link(info.name), className="name"),
            _cell("Began", _ago(info.created_at, now)),
            _cell("Expires", _left(info.expires, now)),
            _cell("Size", size(info.nbytes), "number"),
            _cell("Keys", f"{info.keys:,}", "number"),
        ]
    )


def _link(name: str) -> html.A:
    return html.A(called(name), href=f"#{name}")


def called(name: str) -> html.Bdi:
    """What a session or user is called on the page."""
    return html.Bdi(name if is_session(name) else visible(user_id_of(name)))


def _cell(label: str, content: Any, class_name: str = "") -> html.Td:
    attributes: Any = {"data-label": label}
    return html.Td(content, className=class_name, **attributes)


def link_to_user(user_id: str) -> list[Any] | None:
    """A way to the sessions of a user who may have no values, and so is in no list."""
    try:
        name = user_owner(user_id).name
    except InvalidKey:
        return None
    return ["Sessions of the user ", html.A(html.Bdi(visible(user_id)), href=f"#{name}"), ", if there are any."]


def range_of(page: OwnerPage, offset: int) -> str:
    """Which of all are shown: "51 to 100 of 12,345"."""
    if not page.owners:
        return ""
    return f"{offset + 1:,} to {offset + len(page.owners):,} of {page.total:,}"


def _ago(seconds: float, now: float) -> html.Time:
    return html.Time(_ago_in_words(seconds, now), title=time(seconds))


def _ago_in_words(seconds: float, now: float) -> str:
    return "just now" if now - seconds < JUST_NOW else f"{duration(now - seconds)} ago"


def _left(seconds: float | None, now: float) -> html.Time:
    seconds = finite(seconds)
    text = "never" if seconds is None else f"in {duration(seconds - now)}"
    return html.Time(text, title=time(seconds))


# One of them


def facts(detail: Detail, now: float) -> Any:
    """What is known of one session or user as a whole."""
    if detail.ended_at is not None:
        return html.P(["This session has ended: ", _ago(detail.ended_at, now)], className="note")
    if not detail.is_there:
        return html.P("Nothing is stored here. It may have expired.", className="note")
    stat = detail.stat
    found: list[tuple[str, Any]] = [
        ("Stored", f"{size(stat.nbytes)} in {count(stat.keys, 'key')}"),
        ("Expires", _left(stat.expires, now)),
    ]
    if is_session(detail.name):
        found.append(("Logged in", "no" if stat.user is None else "yes"))
    return html.Dl([html.Div([html.Dt(label), html.Dd(value)]) for label, value in found])


def content(detail: Detail, now: float, with_values: bool) -> list[Any]:
    """Its keys; of a user, also the sessions."""
    parts: list[Any] = []
    if detail.sessions:
        more = " (the first ones)" if len(detail.sessions) == MAX_SESSIONS else ""
        items = [html.Li([_link(info.name), _ago(info.created_at, now)]) for info in detail.sessions]
        parts += [
            html.H3(f"Logged in, in {count(len(detail.sessions), 'session')}{more}"),
            html.Ul(items, className="links"),
        ]
    if detail.values:
        some = (
            f"the {len(detail.values):,} largest of {detail.stat.keys:,}, "
            if len(detail.values) < detail.stat.keys
            else ""
        )
        parts.append(html.H3(["Keys", html.Span(f"{some}largest first", className="when")]))
        parts.append(html.Ul([_key(value, shown, now) for value, shown in detail.values], className="keys"))
        if with_values and len(detail.values) > MAX_VALUES:
            parts.append(html.P(f"Values are shown of the first {MAX_VALUES} keys.", className="note"))
    return parts


def _key(value: ValueInfo, shown: str | None, now: float) -> html.Li:
    notes = [size(value.nbytes)]
    if value.is_large:
        notes.append("large")
    if value.expires is not None:
        notes.append(f"expires in {duration(value.expires - now)}")
    if is_own_key(value.key):
        notes.append("of a tab" if value.key.startswith(TABS_PREFIX) else "of the package")
    return html.Li(
        [
            html.Bdi(visible(value.key), className="key"),
            html.Span(" · ".join(notes), className="note"),
            *([] if shown is None else [html.Code(visible(shown))]),
        ]
    )


def question(detail: Detail) -> str:
    """What is asked before it is ended."""
    if is_session(detail.name):
        keys = count(detail.stat.keys, "key")
        return f"The visitor loses what is stored here, {keys}, and starts again. This cannot be undone."
    return (
        f"The user is logged out everywhere: {count(len(detail.sessions), 'session')} and their values are deleted. "
        "What is stored for the user id stays. This cannot be undone."
    )


# Tasks


def run(view: TaskView | None, now: float) -> list[Any]:
    """What is known of the last run of a task."""
    if view is None:
        return []
    if view.state == "running":
        return [_progress(view), html.Span(_how_far(view), className="note")]
    if view.state == "lost":
        text = "It did not come to its end: the worker that did it has gone. Start it again."
        return [html.P([html.Span("Lost. ", className="bad"), text, _when(view.began, now)])]
    took = max(0.0, (view.ended or view.began) - view.began)
    words = [
        html.Span(visible(view.text), className="good" if view.is_good else "bad"),
        html.Span(f"took {took:.1f} s", className="when"),
        _when(view.ended or view.began, now),
    ]
    return [html.P(words), *([html.Ul([html.Li(visible(each)) for each in view.details])] if view.details else [])]


def _progress(view: TaskView) -> html.Progress:
    known: Any = {"value": str(view.done), "max": str(max(view.total, 1))} if view.total else {}
    return html.Progress(**known, **aria(label="Progress"))


def _how_far(view: TaskView) -> str:
    return f"{100 * min(view.done, view.total) // view.total} %" if view.total else "…"


def _when(at: float, now: float) -> html.Time:
    return html.Time(_ago_in_words(at, now), title=time(at), className="when")


def message(text: str) -> list[Any]:
    """A row for a table that has none."""
    return [html.Tr(html.Td(text, colSpan=5, className="message"))]
