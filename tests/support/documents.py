"""What a document holds under its headings: text, and code to run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def sections(document: str) -> dict[str, str]:
    """What stands under each heading, as far as the next one."""
    _, *parts = re.split(r"^#+ (.+)$", (ROOT / document).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def blocks(document: str, language: str) -> dict[str, list[str]]:
    """The code in a language, by heading."""
    fence = re.compile(rf"^ *```{language}\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
    found = {heading: fence.findall(body) for heading, body in sections(document).items()}
    return {heading: codes for heading, codes in found.items() if codes}
