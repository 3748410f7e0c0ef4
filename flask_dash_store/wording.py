"""Numbers, sizes and times in words, for operators: on the command line, and on the admin page."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def count(number: int, what: str) -> str:
    """A number of things: "1 key", "2,000 keys"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(nbytes: float) -> str:
    """Bytes, with three digits that matter."""
    power = 0
    while nbytes >= 999.5 and power < len(_UNITS) - 1:
        nbytes, power = nbytes / 1000, power + 1
    return f"{nbytes:,.0f} {_UNITS[power]}" if nbytes >= 100 else f"{nbytes:.3g} {_UNITS[power]}"


def time(seconds: float | None) -> str:
    """A time as people of all time zones read it; "never" for none."""
    if seconds is None:
        return "never"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def finite(seconds: float | None) -> float | None:
    """A time, and None for infinity."""
    return None if seconds is None or seconds == float("inf") else seconds


def duration(seconds: float) -> str:
    """A time span in its largest unit: "12 s", "5 min", "3 h", "2 days"."""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (2 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds // unit))} {name}"
    return f"{int(seconds // 86400):,} days"


def visible(text: str) -> str:
    """A text whose invisible characters, which can make it look like another one, are escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
