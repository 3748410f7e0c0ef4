"""Numbers as people read them: three digits."""

from __future__ import annotations

from .measure import Outcome, spread


def figure(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def cell(outcome: Outcome) -> str:
    """The median and, behind it, the quartiles; or why there are none."""
    if isinstance(outcome, str):
        return outcome.replace("|", "\\|")
    median, low, high = (figure(number) for number in spread(outcome))
    return median if low == high else f"{median} ({low}–{high})"
