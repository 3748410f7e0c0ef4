"""What a document holds under its headings: text, and code to run."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

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


def run_as_module(codes: Iterable[str], folder: Path) -> ModuleType:
    """Run pieces of code as one file, app.py in a folder, and have it as the module ``app``."""
    file = folder / "app.py"
    file.write_text("\n".join(codes))
    spec = importlib.util.spec_from_file_location("app", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["app"] = module
    spec.loader.exec_module(module)
    return module
