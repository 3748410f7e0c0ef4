"""A table as an SVG, by hand: no library, so the files are small and the same numbers draw the same picture."""

from collections.abc import Iterator
from html import escape

from .measure import Spread, Summary
from .results import Table, figure

WIDTH = 860
LABELS = 190
NUMBER = 62
ROW = 22
TOP = 50

OURS = "#0b63ce"
OTHERS = "#9aa7b4"
TEXT = "#24292f"


def draw(table: Table) -> str:
    """A panel for each column, with a scale of its own, and in it a bar for each row; the line shows the quartiles."""
    height = TOP + ROW * len(table.rows) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{TEXT}">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(8, 20, f"{table.title} ({table.unit})"),
        *(_text(8, TOP + ROW * (number + 0.68), name) for number, name in enumerate(table.rows)),
    ]
    width = (WIDTH - LABELS) / len(table.columns)
    for number, column in enumerate(table.columns):
        lines.append(f'<g transform="translate({LABELS + number * width:.0f} {TOP})">{_text(0, -10, column)}')
        lines += _panel({name: cells[number] for name, cells in table.rows.items()}, width - NUMBER)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _panel(cells: dict[str, Summary], length: float) -> Iterator[str]:
    longest = max((cell.high for cell in cells.values() if isinstance(cell, Spread)), default=0.0) or 1.0
    for number, (name, cell) in enumerate(cells.items()):
        middle = ROW * (number + 0.5)
        if isinstance(cell, str):
            yield _text(4, middle + 4, "–")
            continue
        median, low, high = (each / longest * length for each in cell)
        colour = OURS if name.startswith("flask_dash_store") else OTHERS
        yield f'<rect y="{middle - 7}" width="{median:.1f}" height="14" fill="{colour}"/>'
        yield f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="{TEXT}"/>'
        yield _text(high + 6, middle + 4, figure(cell.median))


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
