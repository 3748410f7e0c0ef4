"""A table as an SVG, by hand: no library, so the files are small and the same numbers draw the same picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from .figures import figure
from .measure import Outcome, Spread, spread
from .peers import FlaskDashStore
from .results import Table

WIDTH = 860
LABELS = 250
ROW = 22
TOP = 50
TICK = 30
# Beyond this ratio of the largest to the smallest, bars of the small ones could not be seen.
LOGARITHMIC_FROM = 30

OURS = "#0b63ce"
OTHERS = "#9aa7b4"
TEXT = "#24292f"
FAINT = "#d8dee4"
# Okabe and Ito's colours, which the colour-blind can tell apart.
PALETTE = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")


def draw(table: Table) -> str:
    return _lines(table) if table.chart == "lines" else _bars(table)


@dataclass(frozen=True)
class Scale:
    """Numbers to a distance in pixels, along one axis."""

    low: float
    high: float
    length: float
    is_logarithmic: bool

    def __call__(self, number: float) -> float:
        if self.is_logarithmic:
            share = math.log(number / self.low) / math.log(self.high / self.low)
        else:
            share = (number - self.low) / (self.high - self.low)
        return share * self.length

    def ticks(self) -> Iterator[float]:
        """The powers of ten, as many as have room."""
        exponents = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
        room = max(1, int(self.length // TICK))
        return (10.0**exponent for exponent in exponents[:: math.ceil(len(exponents) / room)])


def scale(numbers: list[float], length: float, is_logarithmic: bool) -> Scale:
    if not is_logarithmic:
        return Scale(0, max(numbers, default=0) or 1, length, is_logarithmic=False)
    low = 10.0 ** math.floor(math.log10(min(numbers, default=1)))
    high = 10.0 ** math.ceil(math.log10(max(numbers, default=1)))
    return Scale(low, high if high > low else low * 10, length, is_logarithmic=True)


def _bars(table: Table) -> str:
    """A panel for each column, a bar for each row.

    Where they differ too much for bars the scale is logarithmic, and as that has no zero, a dot is drawn instead.
    """
    width = (WIDTH - LABELS) / len(table.columns)
    height = TOP + ROW * len(table.rows) + 26
    parts = [
        _text(8, TOP + ROW * (number + 0.68), name, bold=name == FlaskDashStore.name)
        for number, name in enumerate(table.rows)
    ]
    across = _across(table, width - 62)
    for column, heading in enumerate(table.columns):
        parts.append(f'<g transform="translate({LABELS + column * width:.0f} {TOP})">')
        parts.append(_text(0, -10, heading, bold=True))
        parts += _panel({name: outcomes[column] for name, outcomes in table.rows.items()}, across)
        parts.append("</g>")
    return _svg(f"{table.title} ({table.unit})", height, parts)


def _across(table: Table, length: float) -> Scale:
    """One scale for all panels, so that they can be compared too."""
    known = [spread(each).median for outcomes in table.rows.values() for each in outcomes if not isinstance(each, str)]
    differ_much = bool(known) and min(known) > 0 and max(known) / min(known) > LOGARITHMIC_FROM
    return scale(known, length, differ_much)


def _panel(outcomes: dict[str, Outcome], across: Scale) -> Iterator[str]:
    bottom = ROW * len(outcomes)
    if across.is_logarithmic:
        for tick in across.ticks():
            yield _line(across(tick), 0, across(tick), bottom, FAINT)
            yield _text(across(tick), bottom + 14, _short(tick), small=True, anchor="middle")
    for number, (name, outcome) in enumerate(outcomes.items()):
        middle = ROW * (number + 0.5)
        if not isinstance(outcome, str):
            yield from _mark(spread(outcome), middle, across, OURS if name == FlaskDashStore.name else OTHERS)
        else:
            yield _text(0, middle + 4, "–", small=True)
    if not across.is_logarithmic:
        yield _line(0, 0, 0, bottom, TEXT)


def _mark(each: Spread, middle: float, across: Scale, colour: str) -> Iterator[str]:
    end = across(each.median)
    low, high = across(max(each.low, across.low)), across(min(each.high, across.high))
    if across.is_logarithmic:
        yield _line(0, middle, end, middle, FAINT)
        yield _line(low, middle, high, middle, colour)
        yield f'<circle cx="{end:.1f}" cy="{middle:.1f}" r="5" fill="{colour}"/>'
    else:
        yield f'<rect y="{middle - 7:.1f}" width="{end:.1f}" height="14" fill="{colour}"/>'
        yield _line(low, middle, high, middle, TEXT)
    yield _text(max(end, high) + 8, middle + 4, figure(each.median), small=True)


def _short(tick: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if tick >= size:
            return f"{tick / size:g}{letter}"
    return f"{tick:g}"


def _lines(table: Table) -> str:
    """A line for each row, along columns that are numbers; both axes are logarithmic."""
    width, height = WIDTH - 60 - 200, 280
    places = [float(column.replace(",", "")) for column in table.columns]
    lines = {
        name: [
            (place, spread(outcome).median)
            for place, outcome in zip(places, outcomes, strict=True)
            if not isinstance(outcome, str)
        ]
        for name, outcomes in table.rows.items()
    }
    across = scale(places, width, is_logarithmic=True)
    up = scale([number for points in lines.values() for _, number in points], height, is_logarithmic=True)
    parts = [f'<g transform="translate(60 {TOP})">']
    for tick in up.ticks():
        parts.append(_line(0, height - up(tick), width, height - up(tick), FAINT))
        parts.append(_text(-8, height - up(tick) + 4, _short(tick), small=True, anchor="end"))
    for place, column in zip(places, table.columns, strict=True):
        parts.append(_text(across(place), height + 18, column, small=True, anchor="middle"))
    ends = {}
    colours = dict(zip((name for name in lines if name != FlaskDashStore.name), PALETTE * 3, strict=False))
    for name, points in lines.items():
        colour = colours.get(name, OURS)
        drawn = [(across(place), height - up(number)) for place, number in points]
        for one, other in pairwise(drawn):
            parts.append(_line(*one, *other, colour, 3 if colour == OURS else 1.5))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in drawn]
        if drawn:
            ends[name] = drawn[-1][1]
    for name, y in _apart(ends).items():
        parts.append(_text(width + 10, y + 4, name, bold=name == FlaskDashStore.name, colour=colours.get(name, OURS)))
    parts.append("</g>")
    return _svg(f"{table.title} ({table.unit})", TOP + height + 30, parts)


def _apart(ends: dict[str, float]) -> dict[str, float]:
    """Where labels go that shall not lie on each other."""
    placed: dict[str, float] = {}
    last = -math.inf
    for name, y in sorted(ends.items(), key=lambda item: item[1]):
        last = placed[name] = max(y, last + 16)
    return placed


def _svg(title: str, height: float, parts: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            f'width="{WIDTH}" height="{height:.0f}" font-family="system-ui, sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>',
            _text(8, 20, title, bold=True),
            *parts,
            "</svg>",
            "",
        ]
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    bold: bool = False,
    small: bool = False,
    anchor: str = "start",
    colour: str = TEXT,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    size = ' font-size="11"' if small else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{weight}{size}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'
