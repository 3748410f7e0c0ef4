"""How often a test repeats what chance decides: a few times by itself, many times under scripts/soak."""

from __future__ import annotations

import os

IS_SOAK = bool(os.environ.get("SOAK"))


def repeats(ci: int, soak: int) -> int:
    """``ci`` in an ordinary run of the tests, ``soak`` where SOAK is set."""
    return soak if IS_SOAK else ci
