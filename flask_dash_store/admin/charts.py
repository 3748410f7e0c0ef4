"""The plots, as Plotly's figures. Their colours are in admin.css, where they follow the light or dark scheme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..storage.statistics import DAY
from .samples import Sample

Figure = dict[str, Any]

SPANS = {"day": DAY, "week": 7 * DAY, "month": 31 * DAY}

SIZE_LABELS = ["< 1 kB", "< 10 kB", "< 100 kB", "< 1 MB", "< 10 MB", "< 100 MB", "larger"]
TIME_LABELS = ["< 1 h", "< 6 h", "< 1 day", "< 7 days", "< 31 days", "longer"]
"""The ranges in :data:`~flask_dash_store.storage.statistics.SIZES` and ``TIMES``."""

_LABELS = {"sessions": "Sessions", "users": "Users", "nbytes": "Bytes"}
_CLEAR = "rgba(0,0,0,0)"
_AXIS: Figure = {"showgrid": False, "zeroline": False, "fixedrange": True, "automargin": True, "title": None}
_FONT = {"family": "inherit", "size": 12}


def over_time(samples: Sequence[Sample], names: Sequence[str], span: str, now: float) -> Figure:
    """What the samples of a span of time say of one or more of their fields.

    :param names: of the fields, each a line
    """
    since = now - SPANS[span]
    shown = [each for each in samples if each.at >= since]
    times = [each.at * 1000 for each in shown]
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(shown) < 3 else "lines",
            "name": _LABELS[name],
            "x": times,
            "y": [getattr(each, name) for each in shown],
            "line": {"width": 2, "shape": "linear"},
            "fill": "tozeroy" if len(names) == 1 else "none",
            "hovertemplate": "%{y:.3~s}B" if name == "nbytes" else "%{y:,}",
        }
        for name in names
    ]
    first = max(since, shown[0].at) if shown else since
    time_axis = {
        **_AXIS,
        "type": "date",
        "range": [min(first, now - 600) * 1000, now * 1000],
        "nticks": 5,
        "tickangle": 0,
    }
    top = max((getattr(each, name) for each in shown for name in names), default=0)
    amounts: Figure = {"showgrid": True, "nticks": 4, "tickformat": ",d", "range": [0, 1.1 * max(top, 4)]}
    if names[0] == "nbytes":
        amounts |= {"tickformat": "~s", "ticksuffix": "B", "range": [0, 1.1 * max(top, 1000)]}
    return _figure(lines, time_axis, amounts, hovermode="x unified", showlegend=len(names) > 1)


def sizes(counts: Sequence[int]) -> Figure:
    """How many sessions are of which size."""
    return _bars(SIZE_LABELS, counts)


def times(counts: Sequence[int]) -> Figure:
    """How many sessions are of which age, or have how much time left."""
    return _bars(TIME_LABELS, counts)


def _bars(labels: Sequence[str], counts: Sequence[int]) -> Figure:
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": counts,
        "y": labels,
        "text": [f"{count:,}" for count in counts],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    numbers = {**_AXIS, "showticklabels": False, "range": [0, 1.25 * max(1, *counts)]}  # with room for the text
    return _figure([bars], numbers, {"type": "category", "autorange": "reversed", "showgrid": False}, bargap=0.3)


def _figure(data: list[Figure], x: Figure, y: Figure, **layout: Any) -> Figure:
    return {
        "data": data,
        "layout": {
            "margin": {"l": 8, "r": 16, "t": 8, "b": 8, "pad": 4},
            "paper_bgcolor": _CLEAR,
            "plot_bgcolor": _CLEAR,
            "font": _FONT,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": _CLEAR},
            "dragmode": False,
            "uirevision": "kept",
            "xaxis": x,
            "yaxis": {**_AXIS, **y},
            **layout,
        },
    }
